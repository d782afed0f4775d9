//! The compiled hooks, loaded over new or adopted maps.

mod kernel;

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{Program, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use svclb_common::cookie::NetnsCookie;
use svclb_core::size::Sizes;
use svclb_core::table::MapName;

use crate::bpf::sys;
use crate::node::cgroups;
use crate::pins::places::Places;
use crate::shapes::{MAPS, info_of};
pub use kernel::KernSock;

/// The object, as built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/svclb"));

/// Features of the running kernel that the oldest one (5.10) lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// A program can say which error a refused call gets (5.18).
    pub set_retval: bool,
    /// How programs read whether a socket is one of the kernel's own; none where they cannot.
    pub kern_sock: Option<KernSock>,
}

impl Features {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it does not even let the question be asked.
    pub fn of_kernel() -> Result<Self> {
        let has = |helper| is_helper_supported(ProgramType::CgroupSockAddr, helper);
        Ok(Self {
            set_retval: has(BpfHelper::BPF_FUNC_set_retval)?,
            // The helper is not there where the kernel is locked down for confidentiality
            // (kernel_lockdown(7)).
            kern_sock: KernSock::of_kernel(has(BpfHelper::BPF_FUNC_probe_read_kernel)?)?,
        })
    }
}

/// The constants and sizes of the object to load.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How large the maps are: their real size when they are adopted.
    pub sizes: Sizes,
    /// Seed of the index's hash.
    pub seed: u64,
    /// The kernel features to use.
    pub features: Features,
    /// Id of the cgroup that the programs will be attached to.
    pub cgroup: u64,
    /// Log each decision to the agent.
    pub log: bool,
}

/// Maps that are being made, and programs over them that the kernel verifies, in a thread of their own: that
/// takes as long as to write some 100,000 rows.
#[derive(Debug)]
pub struct Loading {
    thread: JoinHandle<Result<Ebpf>>,
    /// Is sent to once the maps are made, and closed if that failed.
    made: Receiver<()>,
}

impl Loading {
    /// Returns once whether the maps are made and pinned; none while they are being made. If they are not,
    /// [`Self::finish`] returns the error.
    pub fn are_maps_made(&self) -> Option<bool> {
        match self.made.try_recv() {
            Ok(()) => Some(true),
            Err(TryRecvError::Disconnected) => Some(false),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// The same, and waits for it.
    pub fn wait_for_maps(&self) -> bool {
        self.made.recv().is_ok()
    }

    /// Returns true if [`Self::finish`] has nothing to wait for.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the programs.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program.
    pub fn finish(self) -> Result<Ebpf> {
        self.thread.join().map_err(|_| anyhow!("the thread that loads the programs died"))?
    }
}

/// Begins to make maps and to load programs over them. Maps that are pinned are reused, the others made
/// and pinned. The caller has looked at their shape ([`Pins::found`](crate::pins::Pins::found)) and labels the new ones.
///
/// # Errors
/// When the agent's network namespace is not known, or no thread can be started.
pub fn load(places: &Places, settings: &Settings) -> Result<Loading> {
    let host = sys::netns_cookie().context("cannot tell the agent's network namespace")?;
    let (places, settings, agent_cgroup) = (places.clone(), *settings, cgroups::own_id());
    let (tell, made) = sync_channel(1);
    let load = move || {
        let object = make_maps(&places, &settings, host, agent_cgroup)?;
        // The receiver is gone where the maps were given up meanwhile.
        let _ = tell.send(());
        drop(tell);
        load_programs(object)
    };
    let thread = thread::Builder::new().name("programs".to_owned()).spawn(load);
    Ok(Loading { thread: thread.context("cannot start a thread")?, made })
}

/// Makes the maps that are not pinned yet. `host` is the cookie of the agent's network namespace.
fn make_maps(
    places: &Places,
    settings: &Settings,
    host: NetnsCookie,
    agent_cgroup: u64,
) -> Result<Ebpf> {
    let Settings { sizes, seed, features, cgroup, log } = *settings;
    let Sizes { index_lines, slots, origins } = sizes;
    let set_retval = u8::from(features.set_retval);
    let kern_sock = features.kern_sock;
    let (byte, bit) = kern_sock.map_or((0, 0), |KernSock { bit, .. }| (bit.byte, bit.mask));
    let can_cast = u8::from(kern_sock.is_some_and(|it| it.cast.is_some()));
    // aya-log's levels: 5 logs everything that is said, 0 makes the verifier drop all of it.
    let level: u8 = if log { 5 } else { 0 };
    let entries = |map| match map {
        MapName::Index | MapName::Frontends | MapName::Services => index_lines,
        MapName::Slots | MapName::Backends => slots,
        MapName::Origins => origins,
        // Allocated as they come: 64 MiB when they are all in use.
        MapName::Overflow => origins.max(131_072),
        // One for each client that has an entry in one of the maps that clients share.
        MapName::Clients => 16_384,
        // One for each client and service with affinity: 16 MiB when they are all in use.
        MapName::Affinity => 131_072,
        MapName::Counters | MapName::Meta => 1,
    };
    // A pinned map keeps its size.
    let capacity = |map| match places.of(map) {
        pin if pin.exists() => info_of(pin).map(|info| info.max_entries()),
        _ => Ok(entries(map)),
    };
    let (overflow, affinity) = (capacity(MapName::Overflow)?, capacity(MapName::Affinity)?);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .override_global("SEED", &seed, true)
        .override_global("INDEX_LINES", &index_lines, true)
        .override_global("ORIGIN_PLACES", &origins, true)
        .override_global("OVERFLOW_ENTRIES", &overflow, true)
        .override_global("AFFINITY_ENTRIES", &affinity, true)
        .override_global("HOST_NETNS", &host.0, true)
        .override_global("ATTACHED", &cgroup, true)
        .override_global("AGENT_CGROUP", &agent_cgroup, true)
        .override_global("HAS_SET_RETVAL", &set_retval, true)
        .override_global("KERN_SOCK_BYTE", &byte, true)
        .override_global("KERN_SOCK_BIT", &bit, true)
        .override_global("CAN_CAST", &can_cast, true)
        .override_global(aya_log::LEVEL, &level, true);
    for shape in &MAPS {
        let (map, name) = (shape.name, shape.name.as_str());
        loader.map_max_entries(name, entries(map)).map_pin_path(name, places.of(map));
    }
    let object = match kern_sock {
        Some(kern_sock) => Cow::Owned(kern_sock.put_into(OBJECT)?),
        None => Cow::Borrowed(OBJECT),
    };
    loader.load(&object).context("cannot make the maps")
}

fn load_programs(mut object: Ebpf) -> Result<Ebpf> {
    for (name, program) in object.programs_mut() {
        match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => continue,
        }
        .with_context(|| format!("the kernel does not accept the program {name}"))?;
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
