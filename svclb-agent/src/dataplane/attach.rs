//! The links of the hooks to a cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use aya::programs::cgroup_sock::CgroupSockLink;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError};

use super::hooks::{HOOKS, Hook};
use super::pins::Pins;
use super::sys;

/// Whether a hook's link is pinned and attached.
///
/// # Errors
/// When the pin is there and cannot be read.
pub fn is_attached(pins: &Pins, hook: &Hook) -> io::Result<bool> {
    match sys::open_pin(&pins.link(hook.name)) {
        Ok(link) => Ok(sys::cgroup_link(link.as_fd())?.cgroup != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts the object's programs on their hooks: behind the pinned links where they are, by new links
/// otherwise. New links are pinned only when every hook has one, and go again when one fails.
///
/// # Errors
/// When a hook cannot be attached, with what is in the way.
pub fn attach(object: &mut Ebpf, cgroup: &Path, pins: &Pins) -> Result<()> {
    let folder = File::open(cgroup)
        .with_context(|| format!("cannot open the cgroup {}", cgroup.display()))?;
    let id = folder.metadata()?.ino();
    let mut made = Vec::new();
    for hook in &HOOKS {
        if replace(program(object, hook)?, hook, pins, cgroup, id)? {
            continue;
        }
        made.push((hook, attach_one(object, hook, folder.as_fd(), cgroup)?));
    }
    for (hook, link) in made {
        let path = pins.link(hook.name);
        link.pin(&path).with_context(|| format!("cannot pin the link {}", path.display()))?;
    }
    Ok(())
}

/// Attaches one hook by a new link, which nothing holds yet but what is given.
///
/// # Errors
/// When it cannot be attached, with what is in the way.
pub(super) fn attach_one(
    object: &mut Ebpf,
    hook: &Hook,
    folder: BorrowedFd<'_>,
    cgroup: &Path,
) -> Result<FdLink> {
    link(program(object, hook)?, folder).map_err(|error| explain(error, hook, cgroup))
}

fn program<'a>(object: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut Program> {
    let program = object.program_mut(hook.program);
    program.ok_or_else(|| anyhow!("the object has no program {}", hook.program))
}

/// Puts a program behind the hook's pinned link; false when there is none that is attached.
fn replace(program: &Program, hook: &Hook, pins: &Pins, cgroup: &Path, id: u64) -> Result<bool> {
    let path = pins.link(hook.name);
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let attached = sys::cgroup_link(link.as_fd())
        .with_context(|| format!("cannot read the link {}", path.display()))?;
    if attached.cgroup == 0 {
        // Someone detached it, or its cgroup is gone.
        std::fs::remove_file(&path)?;
        return Ok(false);
    }
    anyhow::ensure!(
        attached.cgroup == id,
        "the pinned hooks in {} are attached to another cgroup than {}: use the same --cgroup as \
         before, other --pins, or `svclb uninstall` first",
        pins.root().display(),
        cgroup.display(),
    );
    let fd = program.fd().with_context(|| format!("{} is not loaded", hook.program))?;
    sys::update_link(link.as_fd(), fd.as_fd())
        .with_context(|| format!("cannot replace the program behind {}", path.display()))?;
    Ok(true)
}

fn link(program: &mut Program, cgroup: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
    // Links stack whatever the mode says; aya's other modes are refused for links (KERNEL.md).
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            let link: CgroupSockAddrLink = program.take_link(id)?;
            FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            let link: CgroupSockLink = program.take_link(id)?;
            FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Says what is in the way of an attachment.
fn explain(error: ProgramError, hook: &Hook, cgroup: &Path) -> anyhow::Error {
    let refused = match &error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error() == Some(libc::EPERM),
        _ => false,
    };
    let name = hook.name;
    if refused {
        anyhow!(
            "an exclusive program is attached to {name} of {cgroup} or of a cgroup above it, and lets \
             no other run: find it with `bpftool cgroup tree`, and have its owner attach it with \
             BPF_F_ALLOW_MULTI or a link",
            cgroup = cgroup.display(),
        )
    } else {
        anyhow::Error::new(error).context(format!("cannot attach {name} to {}", cgroup.display()))
    }
}
