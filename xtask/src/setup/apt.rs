//! Debian's installer.

use std::cell::Cell;
use std::ffi::OsStr;

use anyhow::Context as _;

use crate::shell;

/// apt, run as root or by sudo.
pub(crate) struct Apt {
    /// Whether the lists of packages were fetched in this run.
    is_updated: Cell<bool>,
}

impl Apt {
    /// apt, if this machine has it: that shows when it is used.
    pub(crate) fn new() -> Self {
        Self { is_updated: Cell::new(false) }
    }

    /// The version of a package that would be installed, if there is one.
    pub(crate) fn candidate(&self, package: &str) -> Option<String> {
        // Without lists nothing has a candidate, and that says nothing.
        self.update().ok()?;
        let output = shell::command("apt-cache").args(["policy", package]).output().ok()?;
        candidate(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned)
    }

    /// Installs packages.
    ///
    /// # Errors
    /// apt fails: its last lines are shown.
    pub(crate) fn install(&self, packages: &[&str]) -> anyhow::Result<()> {
        self.update().with_context(|| format!("cannot install {}", packages.join(" ")))?;
        let mut install = get()?;
        install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        shell::quietly(&format!("installing {}", packages.join(" ")), install)
    }

    fn update(&self) -> anyhow::Result<()> {
        if !self.is_updated.get() {
            let mut update = get()?;
            update.arg("update");
            shell::quietly("fetching the lists of packages", update)?;
            self.is_updated.set(true);
        }
        Ok(())
    }
}

/// `apt-get` that asks nothing, tries again, and waits for another apt to end.
fn get() -> anyhow::Result<std::process::Command> {
    anyhow::ensure!(shell::find("apt-get").is_some(), "this system has no apt-get");
    let environment = [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))];
    let mut get = shell::as_root("apt-get", &environment)?;
    get.args(["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(get)
}

/// The candidate in the output of `apt-cache policy`, without its epoch.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let version = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    (version != "(none)").then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let rows = [
            (
                "plain",
                "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1\n",
                Some("1.96.0+dfsg1"),
            ),
            ("epoch", "llvm-22-dev:\n  Candidate: 1:22.1.8-1~deb12u1\n", Some("22.1.8-1~deb12u1")),
            ("known, but nowhere", "x:\n  Installed: (none)\n  Candidate: (none)\n", None),
            ("unknown", "", None),
        ];
        for (row, policy, expected) in rows {
            assert_eq!(candidate(policy), expected, "{row}");
        }
    }
}
