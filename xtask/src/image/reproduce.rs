//! `cargo xtask image --check-reproducible` builds the image a second time, from a clone in another folder and
//! with no file of the first build, and compares the two.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{build, programs};
use crate::program::{self, Arch, For, read};
use crate::shell;

/// Builds twice, and compares.
///
/// # Errors
/// The checkout has changes that are not committed, a build fails, or the two differ.
pub(crate) fn check(archs: &[Arch]) -> anyhow::Result<()> {
    let archs = &Arch::select(archs);
    ensure!(super::revision().is_some(), "a clone has no changes of this checkout: commit first");
    program::ensure_tools(archs)?;
    let first = read(&build(None, &programs(archs, For::Release)?)?)?;

    let start = Instant::now();
    let folder = program::target_directory()?.join("reproduced");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let (clone, output) = (folder.join("clone"), folder.join("image.tar"));
    let mut git = shell::command("git");
    shell::output(git.args(["clone", "--quiet"]).arg(shell::root()).arg(&clone))?;
    let mut again = shell::cargo(["xtask", "image", "--output"]);
    again.arg(&output).current_dir(&clone).env("CARGO_TARGET_DIR", folder.join("target"));
    again.args(archs.iter().flat_map(|arch| ["--arch", arch.name()]));
    shell::run_quietly("building once more, in a clone", again)?;
    ensure!(
        first == read(&output)?,
        "the two builds differ: compare the image in {} with that in the target folder",
        output.display()
    );
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    shell::print(&format!("both builds are the same ({})", shell::seconds(start)));
    Ok(())
}
