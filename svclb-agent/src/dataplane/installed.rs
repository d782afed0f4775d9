//! What an agent has installed in the kernel, looked after while it runs: hooks that somebody detached
//! are attached again, and pins that somebody removed are there again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::Ebpf;

use super::attach;
use super::hooks::{HOOKS, Hook};
use super::pins::{MAPS, Pins};
use super::sys;

/// Programs, their links, and the maps.
#[derive(Debug)]
pub struct Installed {
    object: Ebpf,
    cgroup: PathBuf,
    pins: Pins,
    /// Held, so that a hook stays attached when its pin is removed.
    links: Vec<(&'static Hook, OwnedFd)>,
}

impl Installed {
    /// What [`attach::attach()`] has attached and pinned.
    ///
    /// # Errors
    /// When a pinned link cannot be opened.
    pub fn new(object: Ebpf, cgroup: &Path, pins: &Pins) -> Result<Self> {
        let links = HOOKS.iter().map(|hook| Ok((hook, open(pins, hook)?)));
        let links = links.collect::<Result<_>>()?;
        Ok(Self { object, cgroup: cgroup.to_owned(), pins: pins.clone(), links })
    }

    /// Puts back what somebody took away. Says what that was, by one line each.
    ///
    /// # Errors
    /// When something cannot be put back; the rest is.
    pub fn look_after(&mut self) -> (Vec<String>, Result<()>) {
        let (mut told, mut done) = (Vec::new(), Ok(()));
        let mut note = |result: Result<Option<String>>| match result {
            Ok(line) => told.extend(line),
            Err(error) => done = Err(error),
        };
        if let Err(error) = self.pins.make() {
            note(Err(error));
        }
        for shape in &MAPS {
            note(self.pin_map(shape.name));
        }
        for number in 0..self.links.len() {
            note(self.renew(number));
        }
        (told, done)
    }

    fn pin_map(&self, name: &str) -> Result<Option<String>> {
        let path = self.pins.map(name);
        if path.exists() {
            return Ok(None);
        }
        let map = self.object.map(name).with_context(|| format!("the object has no map {name}"))?;
        map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Some(format!("the pin {} was gone", path.display())))
    }

    fn renew(&mut self, number: usize) -> Result<Option<String>> {
        let Some((hook, link)) = self.links.get_mut(number) else { return Ok(None) };
        let path = self.pins.link(hook.name);
        let attached = sys::cgroup_link(link.as_fd())
            .with_context(|| format!("cannot read the link of {}", hook.name))?;
        if attached.cgroup == 0 {
            let folder = File::open(&self.cgroup)
                .with_context(|| format!("cannot open the cgroup {}", self.cgroup.display()))?;
            let new = attach::attach_one(&mut self.object, hook, folder.as_fd(), &self.cgroup)?;
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
