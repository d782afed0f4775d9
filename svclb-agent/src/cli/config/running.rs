//! The settings of an agent that runs. It keeps them in a file in memory (memfd_create(2)) that ends with it.
//! A process that may inspect the agent finds that file among its open ones, in whichever mount namespace.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use svclb_dataplane::pins::{Pins, lock};

use super::SettingView;

/// The name of the file.
const NAME: &str = "svclb-config";
/// The most bytes of it that are read.
const LONGEST: u64 = 1 << 20;

/// Makes the settings of this agent readable while the file is open.
///
/// # Errors
/// When the kernel refuses a file in memory.
pub(in crate::cli) fn publish(settings: &[SettingView]) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(NAME, flags)?);
    file.write_all(&serde_json::to_vec(settings)?)?;
    let seals = [
        SealFlag::F_SEAL_WRITE,
        SealFlag::F_SEAL_GROW,
        SealFlag::F_SEAL_SHRINK,
        SealFlag::F_SEAL_SEAL,
    ];
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals.into_iter().collect()))?;
    Ok(file)
}

/// Returns the settings of the agent that runs with these pins.
///
/// # Errors
/// When none runs, or they cannot be read.
pub(super) fn settings(pins: &Pins) -> Result<Vec<SettingView>> {
    let advice = "`svclb config -- FLAGS` shows what an agent with these flags would use";
    if !lock::is_held(pins).unwrap_or(false) {
        let last = pins.meta().map_or(0, |row| row.agent);
        let last =
            if last == 0 { String::new() } else { format!(" (the last one was process {last})") };
        bail!("no agent runs with the pins {}{last}; {advice}", pins.root().display());
    }
    let Some(pid) = lock::seen_holder(pins) else {
        bail!(
            "an agent runs that this pid namespace does not show: run it on the node, or in the agent's pod"
        );
    };
    published(Path::new(&format!("/proc/{pid}/fd")))
        .with_context(|| format!("cannot read the settings of the agent, process {pid}"))
}

/// Looks for the file among the open files of a process.
fn published(folder: &Path) -> Result<Vec<SettingView>> {
    let target = format!("/memfd:{NAME} (deleted)");
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|link| link.as_os_str() == target.as_str()) {
            let mut json = String::new();
            File::open(path)?.take(LONGEST).read_to_string(&mut json)?;
            return Ok(serde_json::from_str(&json)?);
        }
    }
    bail!("it has not published them: it is of an older version, or has just started")
}

#[cfg(test)]
mod tests {
    use super::super::{AGENT, parse};
    use super::*;

    #[test]
    fn published_settings_are_read_from_the_open_files_of_the_process() {
        let settings = parse(&["svclb".into(), AGENT.into()]).unwrap().settings;
        let _file = publish(&settings).unwrap();
        assert_eq!(published(Path::new("/proc/self/fd")).unwrap(), settings);
    }
}
