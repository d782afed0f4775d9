//! The programs, links and pins that an agent has installed in the kernel.
//!
//! Maps of an earlier agent are adopted, or staging maps take their place while every connect is translated
//! by the one or the other. Hooks that are detached and pins that are removed by another process are restored.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use svclb_common::layout::{BackendKey, Meta};
use svclb_core::size::Sizes;
use svclb_core::table::MapName;

use crate::bpf::grace::Grace;
use crate::interface::{Dataplane, GracePeriod, Remembered};
use crate::maps::Maps;
use crate::maps::expiry;
use crate::maps::shares;
use crate::maps::sockets::Origins;
use crate::node::environment;
use crate::pins::Pins;
use crate::pins::lock::{self, Lock};
use crate::pins::places::Places;
use crate::probe;
use crate::programs::attach::{self, AttachedHook};
use crate::programs::log;
use crate::programs::object::{self, Features, Loading, Settings};
use crate::shapes::{self, MAPS};

/// Maps and programs that are to take the place of those in use.
#[derive(Debug)]
struct Next {
    loading: Loading,
    places: Places,
    row: Meta,
}

/// Programs, their links, and the maps.
#[derive(Debug)]
pub struct Installed {
    cgroup: PathBuf,
    pins: Pins,
    lock: Lock,
    features: Features,
    /// Programs log each decision.
    logs: bool,
    /// In use; none before the first are attached.
    object: Option<Ebpf>,
    /// Over maps that are being filled, or that were just adopted.
    next: Option<Next>,
    grace: Arc<Grace>,
    /// Every hook's, once programs are on them.
    links: Vec<AttachedHook>,
    /// Maps were put into use, and the pins are not yet in order.
    is_switching: bool,
    /// The last logged error of restoring hooks and pins.
    reported: Option<String>,
}

impl Installed {
    /// Nothing as yet, at these pins, whose lock is held. With `logs`, programs log each decision.
    ///
    /// # Errors
    /// When the kernel refuses what is needed to wait for running programs.
    pub fn new(
        pins: Pins,
        lock: Lock,
        cgroup: PathBuf,
        features: Features,
        logs: bool,
    ) -> Result<Self> {
        let grace = Grace::new().context("cannot make the map that waits for running programs")?;
        Ok(Self {
            cgroup,
            pins,
            lock,
            features,
            logs,
            object: None,
            next: None,
            grace: Arc::new(grace),
            links: Vec::new(),
            is_switching: false,
            reported: None,
        })
    }

    /// Opens the maps in use, and begins to load programs over them.
    ///
    /// # Errors
    /// When a map is not there.
    pub fn adopt(&mut self, row: &Meta) -> Result<Maps> {
        self.pins.make()?;
        let places = Places::current(&self.pins);
        let loading = object::load(&places, &self.settings(row)?)?;
        let is_made = loading.wait_for_maps();
        self.next = Some(Next { loading, places, row: *row });
        self.open(is_made)
    }

    /// Opens the maps that [`Next`] has, if they could be made.
    fn open(&mut self, is_made: bool) -> Result<Maps> {
        match &self.next {
            Some(next) if is_made => Maps::open(&next.places, true),
            _ => Err(self.loaded().err().unwrap_or_else(|| anyhow!("no maps are being made"))),
        }
    }

    /// Puts the programs that [`Self::adopt`] loads on their hooks, in the place of an earlier agent's.
    ///
    /// # Errors
    /// When the kernel refuses a program, or a hook cannot be attached.
    pub fn attach(&mut self) -> Result<()> {
        let object = self.loaded()?;
        let mut links = attach::find(&self.cgroup, &self.pins)?;
        attach::replace(&mut links, &object).1?;
        attach::complete(&mut links, &object, &self.cgroup, &self.pins)?;
        (self.object, self.links) = (Some(object), links);
        // Remains of other versions do no harm.
        if let Err(error) = self.pins.supersede() {
            tracing::warn!("{error:#}");
        }
        self.start_log()
    }

    /// The programs that are being loaded, once they are.
    fn loaded(&mut self) -> Result<Ebpf> {
        self.next.take().context("no programs are loaded")?.loading.finish()
    }

    /// Begins to make maps as this row says, with programs over them that nothing runs yet. What sockets and
    /// clients remember is shared, where it can be; the rest is logged.
    fn begin_next(&mut self, row: &Meta, keeps_ids: bool) -> Result<()> {
        self.pins.next().make()?;
        let (places, lost) = Places::beside(&self.pins, keeps_ids)?;
        if self.pins.current().has_maps() || self.object.is_some() {
            for map in lost {
                tracing::warn!(
                    map = map.as_str(),
                    "what it remembers of sockets or clients cannot be used any more: they are as new"
                );
            }
        }
        let loading = object::load(&places, &self.settings(row)?)?;
        self.next = Some(Next { loading, places, row: *row });
        Ok(())
    }

    /// Opens the maps that [`Self::begin_next`] began to make, if they could be made.
    fn open_next(&mut self, is_made: bool) -> Result<Maps> {
        let mut maps = self.open(is_made)?;
        self.pins.next().label_all()?;
        if let Some(next) = &self.next {
            maps.set_geometry(next.row);
        }
        maps.buffer_rows();
        Ok(maps)
    }

    /// Marks each backend that a socket remembers: it may be a member no more (docs/decisions/0007).
    fn mark_remembered(&self, maps: &mut Maps) -> Result<()> {
        let next = self.next.as_ref().context("no maps are being made")?;
        for backend in Origins::open(&next.places)?.backends()? {
            maps.mark(&backend)?;
        }
        Ok(())
    }

    fn settings(&self, row: &Meta) -> Result<Settings> {
        let cgroup = fs::metadata(&self.cgroup)
            .with_context(|| format!("cannot read the cgroup {}", self.cgroup.display()))?
            .ino();
        let (sizes, seed, features) = (Sizes::of(row), row.seed, self.features);
        Ok(Settings { sizes, seed, features, cgroup, log: self.logs })
    }

    fn start_log(&mut self) -> Result<()> {
        match &mut self.object {
            Some(object) if self.logs => log::start_passing_on(object),
            _ => Ok(()),
        }
    }

    /// Returns true if programs of this agent are on the hooks.
    const fn is_running(&self) -> bool {
        !self.links.is_empty()
    }

    /// Puts the filled maps into use, if all is there that the switch needs, and returns the programs over
    /// them. Until then nothing is touched.
    fn decide(&mut self, maps: &mut Maps) -> Result<Ebpf> {
        self.mark_remembered(maps)?;
        let object = self.loaded()?;
        if !self.is_running() {
            self.links = attach::find(&self.cgroup, &self.pins)?;
        }
        self.check_lock()?;
        self.pins.decide()?;
        Ok(object)
    }

    /// Looks whether the folder is still the one whose lock is held: what is in any other is not ours.
    fn check_lock(&self) -> Result<()> {
        ensure!(
            self.lock.is_of(&self.pins)?,
            "the folder {} is not the one any more that this agent has locked",
            self.pins.root().display(),
        );
        Ok(())
    }

    /// Restores hooks and pins that another process removed, and logs each. Returns the first error; the others
    /// are restored nevertheless.
    ///
    /// # Errors
    /// When another agent has taken this one's place: then nothing is done.
    fn restore(&mut self) -> Result<Option<anyhow::Error>> {
        let mut first = None;
        let mut note = |result: Result<Option<String>>| match result {
            Ok(None) => {}
            Ok(Some(line)) => tracing::warn!("{line}: removed by another process, and restored"),
            Err(error) => first = first.take().or(Some(error)),
        };
        let locked = self.renew_lock();
        if locked.as_ref().is_err_and(|error| error.is::<lock::AlreadyLocked>()) {
            return locked.map(|_| None);
        }
        let is_ours = locked.is_ok();
        note(locked);
        if let Some(object) = &self.object {
            for held in &mut self.links {
                note(held.renew(object, &self.cgroup));
            }
        }
        // Links and maps are held: they can wait until the folder is there again.
        if is_ours {
            note(self.pins.make().and_then(|()| self.finish()).map(|()| None));
            // A new link ends with this process until it is pinned: first, therefore.
            for held in &mut self.links {
                note(held.renew_pin(&self.pins));
            }
            for shape in &MAPS {
                note(self.pin_map(shape.name));
            }
            note(self.pins.current().label_all().map(|()| None));
        }
        Ok(first)
    }

    /// Puts the pins in order behind a switch.
    fn finish(&mut self) -> Result<()> {
        if self.is_switching {
            self.pins.finish()?;
            self.is_switching = false;
        }
        Ok(())
    }

    /// The lock is the folder's, and goes with it.
    ///
    /// # Errors
    /// [`lock::AlreadyLocked`] when another agent has it; others when the folder cannot be made.
    fn renew_lock(&mut self) -> Result<Option<String>> {
        if self.lock.is_of(&self.pins)? {
            return Ok(None);
        }
        let root = self.pins.root();
        // After the bpffs was unmounted nothing can be pinned below its mount point.
        environment::check_bpffs(root)?;
        let taken = Lock::take(&self.pins);
        self.lock = taken.with_context(|| format!("the folder {} was gone", root.display()))?;
        Ok(Some(format!("the folder {} was gone", root.display())))
    }

    fn pin_map(&self, name: MapName) -> Result<Option<String>> {
        let path = self.pins.map(name);
        let Some(object) = self.object.as_ref().filter(|_| !path.exists()) else { return Ok(None) };
        let map =
            object.map(name.as_str()).with_context(|| format!("the object has no map {name}"))?;
        map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Some(format!("the pin {} was gone", path.display())))
    }
}

impl Dataplane for Installed {
    type Maps = Maps;

    fn shared_origins(&self) -> Result<Option<u32>> {
        let pin = self.pins.usable(shapes::of(MapName::Origins))?;
        pin.map(|pin| Ok(shapes::info_of(&pin)?.max_entries())).transpose()
    }

    fn begin(&mut self, row: &Meta, keeps_ids: bool) -> Result<()> {
        if self.is_running() {
            // Shared maps are found by their pins, so a switch that is not finished comes first.
            self.look_after()?;
            ensure!(!self.is_switching, "the pins are not in order since the last change of maps");
        }
        self.check_lock()?;
        self.pins.make()?;
        self.pins.undo()?;
        self.begin_next(row, keeps_ids).inspect_err(|_| self.abandon())
    }

    fn made(&mut self, waits: bool) -> Option<Result<Maps>> {
        let loading = &self.next.as_ref()?.loading;
        let is_made = if waits { loading.wait_for_maps() } else { loading.are_maps_made()? };
        Some(self.open_next(is_made).inspect_err(|_| self.abandon()))
    }

    fn can_switch(&self) -> bool {
        self.next.as_ref().is_none_or(|next| next.loading.is_finished())
    }

    fn switch(&mut self, maps: &mut Maps) -> Result<()> {
        let was_running = self.is_running();
        let object = self.decide(maps).inspect_err(|_| self.abandon())?;
        let (replaced, mut done) = attach::replace(&mut self.links, &object);
        if done.is_ok() && !was_running {
            done = attach::complete(&mut self.links, &object, &self.cgroup, &self.pins);
        }
        if let Err(error) = done {
            if replaced == 0 {
                if let Err(error) = self.pins.undo() {
                    tracing::error!("{error:#}");
                }
                return Err(error);
            }
            if !was_running {
                return Err(error);
            }
            tracing::error!("not every hook runs the new programs yet; trying again: {error:#}");
        }
        self.object = Some(object);
        self.is_switching = true;
        if !was_running {
            self.finish()?;
            return self.start_log();
        }
        // There is no way back, and what is not done yet can be done later.
        for done in [self.look_after(), self.start_log()] {
            if let Err(error) = done {
                tracing::error!("{error:#}");
            }
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if let Some(next) = self.next.take() {
            // Until then it pins maps. What comes of the programs matters no more.
            next.loading.wait_for_maps();
        }
        // In a folder that another agent has locked, that is another's.
        let done = self.check_lock().and_then(|()| self.pins.abandon());
        if let Err(error) = done {
            tracing::warn!("{error:#}");
        }
    }

    fn grace_period(&self) -> GracePeriod {
        let grace = Arc::clone(&self.grace);
        Box::new(move || grace.wait())
    }

    fn begin_marks(&self, maps: &mut Maps) -> Result<Option<Remembered>> {
        if !maps.begin_marks()? {
            return Ok(None);
        }
        let (grace, places) = (self.grace_period(), Places::current(&self.pins));
        Ok(Some(Box::new(move || {
            grace().context("cannot wait for running programs")?;
            Origins::open(&places)?.backends()
        })))
    }

    fn finish_marks(&self, maps: &mut Maps, remembered: &[BackendKey]) {
        if let Some((before, after)) = maps.finish_marks(remembered) {
            tracing::info!(before, after, "took the marks of former backends out of the index");
        }
    }

    fn audit_shares(&mut self) {
        let places = Places::current(&self.pins);
        match expiry::expire(&places) {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "removed affinity whose time is over"),
            Err(error) => tracing::warn!("cannot remove affinity whose time is over: {error:#}"),
        }
        // Counts what was just removed, too.
        match shares::correct(&places) {
            Ok(0) => {}
            Ok(clients) => tracing::debug!(clients, "corrected what svclb_clients counts"),
            Err(error) => tracing::warn!("cannot correct what svclb_clients counts: {error:#}"),
        }
    }

    fn is_whole(&self) -> bool {
        !self.is_switching
            && self.reported.is_none()
            && self.links.iter().all(|held| held.link.is_some())
    }

    fn prove(&mut self) -> Result<()> {
        probe::run(&self.cgroup)
    }

    fn look_after(&mut self) -> Result<()> {
        let wrong = self.restore()?.map(|error| format!("{error:#}"));
        if let Some(error) = wrong.as_ref().filter(|_| wrong != self.reported) {
            tracing::error!(error, "cannot restore what another process removed; trying again");
        }
        self.reported = wrong;
        Ok(())
    }
}
