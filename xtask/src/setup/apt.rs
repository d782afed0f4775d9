//! Installs Debian packages by apt.

use std::cell::Cell;
use std::ffi::OsStr;

use anyhow::Context as _;

use crate::shell;

/// apt, run as root or by sudo.
pub(crate) struct Apt {
    /// True if this run has fetched the package lists.
    is_updated: Cell<bool>,
}

impl Apt {
    /// Does not check that the machine has apt: the first use fails if not.
    pub(crate) fn new() -> Self {
        Self { is_updated: Cell::new(false) }
    }

    /// Returns the version of a package that apt would install, if there is one.
    pub(crate) fn candidate(&self, package: &str) -> Option<String> {
        // Without lists, no package has a candidate.
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
        shell::run_quietly(&format!("installing {}", packages.join(" ")), install)
    }

    fn update(&self) -> anyhow::Result<()> {
        if !self.is_updated.get() {
            let mut update = get()?;
            update.arg("update");
            shell::run_quietly("fetching the package lists", update)?;
            self.is_updated.set(true);
        }
        Ok(())
    }
}

/// Returns an `apt-get` command that asks no questions, retries, and waits for another apt to end.
fn get() -> anyhow::Result<std::process::Command> {
    anyhow::ensure!(shell::find("apt-get").is_some(), "this system has no apt-get");
    let environment = [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))];
    let mut get = shell::as_root("apt-get", &environment)?;
    get.args(["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(get)
}

/// Returns the candidate in the output of `apt-cache policy`, without its epoch.
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
