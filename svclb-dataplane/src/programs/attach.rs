//! The links of the hooks to a cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::programs::Program;

use crate::bpf::inspect;
use crate::bpf::sys;
use crate::hooks::{HOOKS, Hook};
use crate::pins::Pins;
use crate::pins::folder;

/// A hook and its link: held, so that it stays attached when its pin is removed.
#[derive(Debug)]
pub struct AttachedHook {
    /// The hook.
    pub hook: &'static Hook,
    /// None, where the hook is not attached.
    pub link: Option<OwnedFd>,
    /// The pin holds this link, unless another process removed it.
    pub is_pinned: bool,
}

/// Returns true if a hook's link is pinned and attached.
///
/// # Errors
/// When the pin is there and cannot be read.
pub fn is_attached(pins: &Pins, hook: &Hook) -> io::Result<bool> {
    Ok(pins.pinned_link(hook.name)?.is_some_and(|link| link.cgroup != 0))
}

/// Looks which links are pinned and attached, and changes nothing.
///
/// # Errors
/// When one cannot be read, or is to another cgroup or hook, with what to do.
pub fn find(cgroup: &Path, pins: &Pins) -> Result<Vec<AttachedHook>> {
    let id = open(cgroup)?.metadata()?.ino();
    let find = |hook| {
        let link = pinned(hook, cgroup, id, pins)?;
        Ok(AttachedHook { hook, is_pinned: link.is_some(), link })
    };
    HOOKS.iter().map(find).collect()
}

fn pinned(hook: &Hook, cgroup: &Path, id: u64, pins: &Pins) -> Result<Option<OwnedFd>> {
    let path = pins.link(hook.name);
    let found = sys::if_found(sys::open_pin(&path));
    let found = found.with_context(|| format!("cannot open {}", path.display()))?;
    let Some(link) = found else { return Ok(None) };
    let found = inspect::link_of(link.as_fd())
        .with_context(|| format!("cannot read the link {}", path.display()))?;
    if found.cgroup == 0 {
        // It was detached, or its cgroup is gone.
        return Ok(None);
    }
    ensure!(
        found.cgroup == id,
        "the pinned hooks in {} are attached to another cgroup than {}: use the same --cgroup as \
         before, other --pins, or `svclb uninstall` first",
        pins.root().display(),
        cgroup.display(),
    );
    // The kernel looks at the kind of a program only, which nearly all hooks have in common.
    ensure!(
        found.hook == hook.number,
        "{} is the link of another hook (number {}): `svclb uninstall` first",
        path.display(),
        found.hook,
    );
    Ok(Some(link))
}

/// Puts the object's programs behind the links that are attached, up to the first that fails. Gives
/// behind how many.
pub fn replace(links: &mut [AttachedHook], object: &Ebpf) -> (usize, Result<()>) {
    let mut replaced = 0;
    for held in links {
        match held.replace(object) {
            Ok(done) => replaced += usize::from(done),
            Err(error) => return (replaced, Err(error)),
        }
    }
    (replaced, Ok(()))
}

/// Attaches the hooks that are not by new links. They are pinned when every hook has one, and go again
/// when that fails.
///
/// # Errors
/// When a hook cannot be attached, with what is in the way, or not be pinned.
pub fn complete(
    links: &mut [AttachedHook],
    object: &Ebpf,
    cgroup: &Path,
    pins: &Pins,
) -> Result<()> {
    let mut made = Vec::new();
    for held in links.iter_mut().filter(|held| held.link.is_none()) {
        let link = attach(object, held.hook, cgroup)?;
        made.push((held, link));
    }
    let mut pinned: Vec<PathBuf> = Vec::new();
    for (held, link) in &made {
        let path = pins.current().link(held.hook.name);
        if let Err(error) = pin(link.as_fd(), &path) {
            // Without their pins they go when they are closed, as the others do.
            for path in pinned {
                if let Err(error) = folder::remove_file(&path) {
                    tracing::warn!("{error:#}");
                }
            }
            return Err(error);
        }
        pinned.push(path);
    }
    for (held, link) in made {
        held.link = Some(link);
        held.is_pinned = true;
    }
    Ok(())
}

impl AttachedHook {
    /// Puts the hook's program behind its link; false when it is not attached.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace(&mut self, object: &Ebpf) -> Result<bool> {
        let Some(link) = &self.link else { return Ok(false) };
        let fd = program(object, self.hook)?.fd()?;
        match sys::update_link(link.as_fd(), fd.as_fd()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                self.link = None;
                Ok(false)
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot replace the program on {}", self.hook.name)),
        }
    }

    /// Restores the link, or the program behind it. Returns a description of what was wrong.
    ///
    /// # Errors
    /// When it cannot be restored.
    pub fn renew(&mut self, object: &Ebpf, cgroup: &Path) -> Result<Option<String>> {
        let name = self.hook.name;
        if let Some(link) = &self.link {
            let found = inspect::link_of(link.as_fd())
                .with_context(|| format!("cannot read the link of {name}"))?;
            if found.cgroup != 0 && found.program == program(object, self.hook)?.info()?.id() {
                return Ok(None);
            }
            if found.cgroup != 0 && self.replace(object)? {
                return Ok(Some(format!("the program on {name} was another")));
            }
        }
        self.link = Some(attach(object, self.hook, cgroup)?);
        self.is_pinned = false;
        Ok(Some(format!("the hook {name} was detached")))
    }

    /// Pins the link where its pin is gone, or is still an earlier one's. Returns a note if it was gone.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub fn renew_pin(&mut self, pins: &Pins) -> Result<Option<String>> {
        let Some(link) = &self.link else { return Ok(None) };
        let path = pins.current().link(self.hook.name);
        let is_there = path.exists();
        if is_there && self.is_pinned {
            return Ok(None);
        }
        pin(link.as_fd(), &path)?;
        self.is_pinned = true;
        Ok((!is_there).then(|| format!("the pin {} was gone", path.display())))
    }
}

/// Pins a link, in the place of what is there.
fn pin(link: BorrowedFd<'_>, path: &Path) -> Result<()> {
    folder::remove_file(path)?;
    sys::pin(link, path).with_context(|| format!("cannot pin {}", path.display()))
}

fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).with_context(|| format!("cannot open the cgroup {}", cgroup.display()))
}

fn program<'a>(object: &'a Ebpf, hook: &Hook) -> Result<&'a Program> {
    let program = object.program(hook.program);
    program.with_context(|| format!("the object has no program {}", hook.program))
}

/// Attaches a hook by a new link, which nothing else holds yet.
///
/// # Errors
/// When the kernel refuses, with what is in the way.
fn attach(object: &Ebpf, hook: &Hook, cgroup: &Path) -> Result<OwnedFd> {
    let (program, folder) = (program(object, hook)?.fd()?, open(cgroup)?);
    let name = hook.name;
    let linked = sys::create_link(program.as_fd(), Some(folder.as_fd()), hook.number);
    if linked.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
        bail!(
            "an exclusive program is attached to {name} of {cgroup} or of a cgroup above it, and lets \
             no other run: find it with `bpftool cgroup tree`, and have its owner attach it with \
             BPF_F_ALLOW_MULTI or a link",
            cgroup = cgroup.display(),
        );
    }
    linked.with_context(|| format!("cannot attach {name} to {}", cgroup.display()))
}
