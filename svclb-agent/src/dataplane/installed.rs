//! What an agent has installed in the kernel: programs over maps, their links, their pins.
//!
//! Maps of an earlier agent are adopted, or new ones are filled beside them and take their place while
//! every connect is translated by the one or the other. What somebody else takes away meanwhile is put
//! back: hooks are attached again, and pins are there again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use svclb_common::layout::{BackendKey, Meta};
use svclb_core::size::Sizes;

use super::attach;
use super::hooks::{HOOKS, Hook};
use super::lock::Lock;
use super::maps::Maps;
use super::object::{self, Features, Settings};
use super::pins::{self, Pins};
use super::places::Places;
use super::shapes::MAPS;
use super::sockets::Origins;
use super::sweep::{Suspects, Sweep};
use super::sys;
use crate::reconcile::Ground;

/// The map that holds what sockets dialled: of any size, which is its own.
const ORIGINS: &str = "svclb_origins";

/// What is done with an object when its programs are in use.
pub type Started = fn(&mut Ebpf) -> Result<()>;

/// Programs, their links, and the maps.
#[derive(Debug)]
pub struct Installed {
    cgroup: PathBuf,
    pins: Pins,
    lock: Lock,
    features: Features,
    /// Programs log each decision to it.
    log: Option<Started>,
    /// In use; none before the first are attached.
    object: Option<Ebpf>,
    /// Over maps that are being filled.
    next: Option<Ebpf>,
    /// Held, so that a hook stays attached when its pin is removed.
    links: Vec<(&'static Hook, OwnedFd)>,
    /// What the operator was told that cannot be put back.
    told: Option<String>,
    suspects: Suspects,
}

impl Installed {
    /// Nothing as yet, at these pins, whose lock is held.
    pub fn new(
        pins: Pins,
        lock: Lock,
        cgroup: PathBuf,
        features: Features,
        log: Option<Started>,
    ) -> Self {
        Self {
            cgroup,
            pins,
            lock,
            features,
            log,
            object: None,
            next: None,
            links: Vec::new(),
            told: None,
            suspects: Suspects::default(),
        }
    }

    /// Loads programs over the maps in use, and opens those.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn adopt(&mut self, row: &Meta) -> Result<Maps> {
        let places = Places::current(&self.pins);
        self.object = Some(object::load(&places, &self.settings(row))?);
        Maps::open(&places, true)
    }

    /// Puts the programs that [`Self::adopt`] has loaded on their hooks, in the place of an earlier
    /// agent's.
    ///
    /// # Errors
    /// When a hook cannot be attached.
    pub fn attach(&mut self) -> Result<()> {
        let object = self.object.as_mut().context("no programs are loaded")?;
        attach::attach(object, &self.cgroup, &self.pins)?;
        self.hold()
    }

    /// Makes maps as this row says, with programs over them that nothing runs yet. What sockets and clients
    /// remember is shared, where it can be; the rest is told.
    fn load_beside(&mut self, row: &Meta, keeps_ids: bool) -> Result<Maps> {
        let next = self.pins.next();
        next.make()?;
        let (places, lost) = Places::beside(&self.pins, keeps_ids)?;
        if self.pins.current().has_maps() || self.object.is_some() {
            for map in lost {
                tracing::warn!(
                    map,
                    "what it remembers of sockets or clients cannot be used any more: they are as new"
                );
            }
        }
        self.next = Some(object::load(&places, &self.settings(row))?);
        next.label_all()?;
        let mut maps = Maps::open(&places, true)?;
        maps.set_geometry(*row);
        // A socket may remember a backend that is no member any more (decisions/0007).
        for origin in Origins::open(&places)?.read()? {
            let record = origin.record;
            let given = BackendKey {
                address: record.given,
                port: record.given_port,
                ..BackendKey::default()
            };
            maps.mark(&given)?;
        }
        Ok(maps)
    }

    fn settings(&self, row: &Meta) -> Settings {
        let log = self.log.is_some();
        Settings { sizes: Sizes::of(row), seed: row.seed, features: self.features, log }
    }

    /// Holds the links of what is attached.
    fn hold(&mut self) -> Result<()> {
        let links = HOOKS.iter().map(|hook| Ok((hook, open(&self.pins, hook)?)));
        self.links = links.collect::<Result<_>>()?;
        match (self.log, &mut self.object) {
            (Some(start), Some(object)) => start(object),
            _ => Ok(()),
        }
    }

    /// Puts back what somebody took away. Says what that was, by one line each, and what cannot be put
    /// back; the rest is.
    ///
    /// # Errors
    /// When another agent has taken this one's place: then nothing is done.
    fn put_back(&mut self) -> Result<(Vec<String>, Result<()>)> {
        let (mut told, mut done) = (Vec::new(), Ok(()));
        let mut note = |result: Result<Option<String>>| match result {
            Ok(line) => told.extend(line),
            Err(error) => done = Err(error),
        };
        note(Ok(self.renew_lock()?));
        if let Err(error) = self.pins.make() {
            note(Err(error));
        }
        for shape in &MAPS {
            note(self.pin_map(shape.name));
        }
        note(self.pins.current().label_all().map(|()| None));
        for number in 0..self.links.len() {
            note(self.renew(number));
        }
        Ok((told, done))
    }

    /// The lock is the folder's, and goes with it.
    fn renew_lock(&mut self) -> Result<Option<String>> {
        let root = self.pins.root().display();
        if self.lock.is_of(&self.pins) {
            return Ok(None);
        }
        let taken = Lock::take(&self.pins);
        self.lock = taken.with_context(|| format!("somebody removed {root}, and made it anew"))?;
        Ok(Some(format!("the folder {root} was gone")))
    }

    fn pin_map(&self, name: &str) -> Result<Option<String>> {
        let path = self.pins.map(name);
        let Some(object) = self.object.as_ref().filter(|_| !path.exists()) else { return Ok(None) };
        let map = object.map(name).with_context(|| format!("the object has no map {name}"))?;
        map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Some(format!("the pin {} was gone", path.display())))
    }

    fn renew(&mut self, number: usize) -> Result<Option<String>> {
        let Some((hook, link)) = self.links.get_mut(number) else { return Ok(None) };
        let Some(object) = &mut self.object else { return Ok(None) };
        let path = self.pins.link(hook.name);
        let attached = sys::cgroup_link(link.as_fd())
            .with_context(|| format!("cannot read the link of {}", hook.name))?;
        if attached.cgroup == 0 {
            let folder = File::open(&self.cgroup)
                .with_context(|| format!("cannot open the cgroup {}", self.cgroup.display()))?;
            let new = attach::attach_one(object, hook, folder.as_fd(), &self.cgroup)?;
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
            new.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            *link = open(&self.pins, hook)?;
            return Ok(Some(format!("the hook {} was detached", hook.name)));
        }
        if path.exists() {
            return Ok(None);
        }
        sys::pin(link.as_fd(), &path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Some(format!("the pin {} was gone", path.display())))
    }
}

fn open(pins: &Pins, hook: &Hook) -> Result<OwnedFd> {
    let path = pins.link(hook.name);
    sys::open_pin(&path).with_context(|| format!("cannot open {}", path.display()))
}

impl Ground for Installed {
    type Maps = Maps;

    fn shared_origins(&self) -> Result<Option<u32>> {
        let Some(shape) = MAPS.iter().find(|shape| shape.name == ORIGINS) else { return Ok(None) };
        self.pins.usable(shape)?.map(|pin| pins::entries_of(&pin)).transpose()
    }

    fn beside(&mut self, row: &Meta, keeps_ids: bool) -> Result<Maps> {
        self.pins.make()?;
        self.pins.abandon()?;
        let made = self.load_beside(row, keeps_ids);
        if made.is_err() {
            self.abandon();
        }
        made
    }

    fn switch(&mut self) -> Result<()> {
        let mut object = self.next.take().context("no programs are loaded")?;
        let is_first = HOOKS.iter().all(|hook| !self.pins.link(hook.name).exists());
        self.pins.decide()?;
        if let Err(error) = attach::attach(&mut object, &self.cgroup, &self.pins) {
            if is_first {
                self.pins.undo()?;
            }
            return Err(error);
        }
        self.pins.finish()?;
        self.object = Some(object);
        self.hold()
    }

    fn abandon(&mut self) {
        self.next = None;
        if let Err(error) = self.pins.abandon() {
            tracing::warn!("{error:#}");
        }
    }

    fn sweep(&mut self) {
        let suspects = std::mem::take(&mut self.suspects);
        let looked = Sweep::open(&Places::current(&self.pins), suspects).and_then(|mut sweep| {
            let gone = sweep.look()?;
            Ok((gone, sweep.into_suspects()))
        });
        match looked {
            Ok((gone, suspects)) => {
                self.suspects = suspects;
                if gone > 0 {
                    tracing::info!(gone, "forgot sockets of the kernel's own that are gone");
                }
            }
            Err(error) => tracing::warn!("cannot look for sockets that are gone: {error:#}"),
        }
    }

    fn look_after(&mut self) -> Result<()> {
        let (lines, done) = self.put_back()?;
        for line in lines {
            tracing::warn!("{line}: somebody else took it away, and it is there again");
        }
        let wrong = done.err().map(|error| format!("{error:#}"));
        if let Some(error) = wrong.as_ref().filter(|_| wrong != self.told) {
            tracing::error!(error, "cannot put back what somebody else took away; trying again");
        }
        self.told = wrong;
        Ok(())
    }
}
