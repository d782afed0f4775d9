//! `cargo xtask image` writes a container image of the program to a file, without a container engine.

mod archive;
pub(crate) mod layer;
mod reproduce;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use crate::program::{self, Arch, For, Program, read};
use crate::shell;
pub(crate) use archive::compress;
use archive::{About, Image};
pub(crate) use reproduce::check as check_reproducible;

/// Files of the workspace that are added to the image, in `/licenses`.
pub(crate) const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// This registry does not exist: the image must be loaded on a node, which cannot pull it.
const NAME: &str = "localhost/svclb";

/// Builds the image for these architectures (all, if none is given), and prints its path.
///
/// # Errors
/// The build fails, or the file cannot be written.
pub(crate) fn run(output: Option<&Path>, archs: &[Arch]) -> anyhow::Result<()> {
    let archs = &Arch::select(archs);
    program::ensure_tools(archs)?;
    let file = build(output, &programs(archs, For::Release)?)?;
    shell::print(&file.display().to_string());
    Ok(())
}

/// Builds the program for each architecture.
///
/// # Errors
/// A build fails.
pub(crate) fn programs(archs: &[Arch], purpose: For) -> anyhow::Result<Vec<Program>> {
    let build = |arch: &Arch| {
        shell::log(&format!("building svclb to ship ({})", arch.name()));
        program::build(*arch, purpose)
    };
    archs.iter().map(build).collect()
}

/// Packs programs into an image, by default in the target folder, and returns its path.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn build(output: Option<&Path>, programs: &[Program]) -> anyhow::Result<PathBuf> {
    let start = Instant::now();
    let [first, ..] = programs else { anyhow::bail!("an image has a program") };
    let about = About::new(NAME, first.contents.program()?, revision());
    let images = programs.iter().map(image).collect::<anyhow::Result<Vec<Image>>>()?;
    let path = match output {
        Some(path) => std::path::absolute(path)?,
        None => program::target_directory()?.join("image").join(match programs {
            [only] => format!("svclb-{}-{}.tar", about.version, only.arch.name()),
            _ => format!("svclb-{}.tar", about.version),
        }),
    };
    let archive = archive::archive(&about, &images)?;
    fs::write(&path, &archive.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let names: Vec<&str> = programs.iter().map(|program| program.arch.name()).collect();
    shell::log(&format!(
        "{}:{} ({}), {}, {} MB, in {}",
        about.name,
        about.version,
        names.join(", "),
        archive.digest,
        archive.bytes.len().div_ceil(1_000_000),
        shell::seconds(start)
    ));
    Ok(path)
}

fn image(program: &Program) -> anyhow::Result<Image> {
    let mut files = vec![
        layer::Entry::program("svclb", read(&program.path)?),
        layer::Entry::file("svclb.cdx.json", program.contents.sbom()?),
    ];
    for name in LICENCES {
        files.push(layer::Entry::file(
            &format!("licenses/{name}"),
            read(&shell::root().join(name))?,
        ));
    }
    Ok(Image { layer: layer::root(files)?, architecture: program.arch.name() })
}

/// Returns the commit, if this is a clean checkout.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = shell::command("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changes = git(&["status", "--porcelain"])?;
    if changes.is_empty() { git(&["rev-parse", "HEAD"]) } else { None }
}
