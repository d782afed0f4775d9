//! `cargo xtask image`: the program as a container image, in a file, with no container engine.

mod archive;
mod layer;
mod paths;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::ValueEnum;

use crate::{run, setup, shell};
use archive::Image;

/// The folder of the build, below cargo's own: other flags must not build everything anew.
const FOLDER: &str = "image";
/// Files of the workspace that go with the program, into `/licenses`.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// A registry that does not exist: a node never fetches by this name, it must be loaded.
const NAME: &str = "localhost/svclb";

/// An architecture, by its name in images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// This machine's.
    pub(crate) fn host() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no image is built for {other}: name another by --arch"),
        }
    }

    /// Its name in images, and Debian's.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name as the compiler's target.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// `e_machine` of a program for it (elf(5)).
    fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

/// Builds the image, says where it is.
///
/// # Errors
/// The build fails, or the file cannot be written.
pub(crate) fn run(output: Option<&Path>, arch: Option<Arch>) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    let arch = match arch {
        Some(arch) => arch,
        None => Arch::host()?,
    };
    let file = build(output, arch)?;
    shell::print(&file.display().to_string());
    Ok(())
}

/// The image for this machine, where the next build replaces it.
///
/// # Errors
/// As [`run()`].
pub(crate) fn for_tests() -> anyhow::Result<PathBuf> {
    build(None, Arch::host()?)
}

/// The program of the image alone, built with these variables for cargo too.
///
/// # Errors
/// As [`run()`].
pub(crate) fn program_for(arch: Arch, variables: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    program(&target_directory()?.join(FOLDER), arch, variables)
}

fn build(output: Option<&Path>, arch: Arch) -> anyhow::Result<PathBuf> {
    let start = Instant::now();
    let folder = target_directory()?.join(FOLDER);
    shell::say(&format!("building svclb for an image ({})", arch.name()));
    let program = program(&folder, arch, &[])?;
    let version = env!("CARGO_PKG_VERSION");
    let mut files = vec![layer::Entry::program("svclb", read(&program)?)];
    for name in LICENCES {
        files.push(layer::Entry::file(
            &format!("licenses/{name}"),
            read(&shell::root().join(name))?,
        ));
    }
    let image = Image {
        layer: layer::tar(files)?,
        architecture: arch.name(),
        name: NAME,
        version,
        revision: revision(),
    };
    let path = match output {
        Some(path) => std::path::absolute(path)?,
        None => folder.join(format!("svclb-{version}-{}.tar", arch.name())),
    };
    let bytes = image.archive()?;
    fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    shell::say(&format!(
        "{NAME}:{version}, {} MB, in {}",
        bytes.len().div_ceil(1_000_000),
        shell::seconds(start)
    ));
    Ok(path)
}

/// Where cargo builds.
///
/// # Errors
/// cargo does not say.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let mut command = MetadataCommand::new();
    let metadata = command.current_dir(shell::root()).no_deps().exec()?;
    Ok(metadata.target_directory.into())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Builds the program so that it needs no other file.
fn program(folder: &Path, arch: Arch, more: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let target = arch.target();
    let folder = folder.to_str().context("the target folder's name is not UTF-8")?;
    let paths = paths::Renamed::find(folder)?;
    // With --target they are not for build scripts. Flags of the user's, by variables or by cargo's
    // configuration, do not count beside them.
    let flags = [paths.flags(), vec!["-Ctarget-feature=+crt-static".to_owned()]].concat();
    let (flags, kernel) = (flags.join(paths::SEPARATOR), paths.kernel_flags());
    let variables = [(paths::FLAGS, &flags[..]), (paths::KERNEL_FLAGS, &kernel[..])];
    let variables = [&variables[..], more].concat();
    let arguments = [
        "--release",
        "--package",
        "svclb-agent",
        "--bin",
        "svclb",
        "--target",
        target,
        "--target-dir",
        folder,
        "--config",
        "profile.release.strip=true",
    ];
    let program = run::build(&arguments, &variables).with_context(|| {
        format!(
            "cannot build for {target} (another machine's architecture needs `rustup target add \
             {target}` and a linker for it, named by `target.{target}.linker` in cargo's configuration)"
        )
    })?;
    is_static(&read(&program)?, arch)
        .with_context(|| format!("{} cannot go into an image", program.display()))?;
    Ok(program)
}

/// Looks at the ELF header (elf(5), 64-bit little endian): the right machine, and no interpreter.
fn is_static(elf: &[u8], arch: Arch) -> anyhow::Result<()> {
    let number = |at: usize, length: usize| -> anyhow::Result<usize> {
        let bytes = elf.get(at..at + length).context("it is cut off")?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "it is no 64-bit ELF program");
    ensure!(number(18, 2)? == usize::from(arch.machine()), "it is for another machine");
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for place in 0..count {
        const PT_INTERP: usize = 3;
        ensure!(number(table + place * size, 4)? != PT_INTERP, "it needs a dynamic linker");
    }
    Ok(())
}

/// The commit, where this is a clean checkout.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = shell::command("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changes = git(&["status", "--porcelain"])?;
    if changes.is_empty() { git(&["rev-parse", "HEAD"]) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_linker_or_another_machine_is_refused() {
        let own = fs::read("/proc/self/exe").unwrap();
        let host = Arch::host().unwrap();
        let other = if host == Arch::Amd64 { Arch::Arm64 } else { Arch::Amd64 };
        let mut still = own.clone();
        // No program headers: nothing asks for an interpreter.
        still[56..58].fill(0);
        let rows: [(&str, &[u8], Arch, Option<&str>); 5] = [
            ("dynamic", &own, host, Some("dynamic linker")),
            ("another machine", &still, other, Some("another machine")),
            ("a script", b"#!/bin/sh", host, Some("no 64-bit ELF")),
            ("cut off", &own[..40], host, Some("cut off")),
            ("static", &still, host, None),
        ];
        for (row, elf, arch, expected) in rows {
            let said = is_static(elf, arch).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(said, None, "{row}"),
                Some(words) => assert!(said.as_ref().unwrap().contains(words), "{row}: {said:?}"),
            }
        }
    }
}
