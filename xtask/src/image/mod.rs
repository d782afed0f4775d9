//! `cargo xtask image` writes a container image of the program to a file, without a container engine.

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

/// The folder of this build, below cargo's target folder: its flags are not those of other builds.
const FOLDER: &str = "image";
/// The profile of the program in an image.
const RELEASE: &str = "release";
/// Files of the workspace that are added to the image, in `/licenses`.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// This registry does not exist: the image must be loaded on a node, which cannot pull it.
const NAME: &str = "localhost/svclb";

/// An architecture. The names are those in images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// Returns this machine's architecture.
    pub(crate) fn host() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no image is built for {other}: name another by --arch"),
        }
    }

    /// Its name in images, and in Debian.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its target for the compiler.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// `e_machine` of its programs (elf(5)).
    fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

/// Builds the image, and prints its path.
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

/// Builds the image for this machine into the target folder.
///
/// # Errors
/// As [`run()`].
pub(crate) fn for_tests() -> anyhow::Result<PathBuf> {
    build(None, Arch::host()?)
}

/// Builds only the program of the image, with these additional variables for cargo. For another architecture
/// than this machine's it is not optimized at link time, which takes long and does not matter to tests.
///
/// # Errors
/// As [`run()`].
pub(crate) fn program_for(arch: Arch, variables: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let profile = if Arch::host()? == arch { RELEASE } else { "measure" };
    program(&target_directory()?.join(FOLDER), arch, profile, variables)
}

fn build(output: Option<&Path>, arch: Arch) -> anyhow::Result<PathBuf> {
    let start = Instant::now();
    let folder = target_directory()?.join(FOLDER);
    shell::log(&format!("building svclb for an image ({})", arch.name()));
    let program = program(&folder, arch, RELEASE, &[])?;
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
    shell::log(&format!(
        "{NAME}:{version}, {} MB, in {}",
        bytes.len().div_ceil(1_000_000),
        shell::seconds(start)
    ));
    Ok(path)
}

/// Returns cargo's target folder.
///
/// # Errors
/// `cargo metadata` fails.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let mut command = MetadataCommand::new();
    let metadata = command.current_dir(shell::root()).no_deps().exec()?;
    Ok(metadata.target_directory.into())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Builds the program as a static one, which needs no other file.
fn program(
    folder: &Path,
    arch: Arch,
    profile: &str,
    more: &[(&str, &str)],
) -> anyhow::Result<PathBuf> {
    let target = arch.target();
    let folder = folder.to_str().context("the target folder's name is not UTF-8")?;
    let paths = paths::Renamed::find(folder)?;
    // With --target they do not apply to build scripts. They override the user's flags, which come from
    // other variables or from cargo's configuration.
    let flags = [paths.flags(), vec!["-Ctarget-feature=+crt-static".to_owned()]].concat();
    let (flags, kernel) = (flags.join(paths::SEPARATOR), paths.kernel_flags());
    let variables = [(paths::FLAGS, &flags[..]), (paths::KERNEL_FLAGS, &kernel[..])];
    let variables = [&variables[..], more].concat();
    let arguments = [
        "--profile",
        profile,
        "--package",
        "svclb-agent",
        "--bin",
        "svclb",
        "--target",
        target,
        "--target-dir",
        folder,
        "--config",
        &format!("profile.{profile}.strip=true"),
    ];
    let program = run::build(&arguments, &variables).with_context(|| {
        format!(
            "cannot build for {target} (another architecture needs `rustup target add \
             {target}` and a linker for it, named by `target.{target}.linker` in cargo's configuration)"
        )
    })?;
    check_static(&read(&program)?, arch)
        .with_context(|| format!("{} cannot go into an image", program.display()))?;
    Ok(program)
}

/// Checks the ELF header (elf(5), 64-bit little endian) for the machine and against an interpreter.
fn check_static(elf: &[u8], arch: Arch) -> anyhow::Result<()> {
    let number = |at: usize, length: usize| -> anyhow::Result<usize> {
        let bytes = elf.get(at..at + length).context("it is truncated")?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "it is not a 64-bit ELF program");
    ensure!(number(18, 2)? == usize::from(arch.machine()), "it is for another machine");
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for place in 0..count {
        const PT_INTERP: usize = 3;
        ensure!(number(table + place * size, 4)? != PT_INTERP, "it needs a dynamic linker");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_and_those_for_another_machine_are_rejected() {
        let own = fs::read("/proc/self/exe").unwrap();
        let host = Arch::host().unwrap();
        let other = if host == Arch::Amd64 { Arch::Arm64 } else { Arch::Amd64 };
        let mut static_one = own.clone();
        // Without program headers it has no interpreter.
        static_one[56..58].fill(0);
        let rows: [(&str, &[u8], Arch, Option<&str>); 5] = [
            ("dynamic", &own, host, Some("dynamic linker")),
            ("another machine", &static_one, other, Some("another machine")),
            ("a script", b"#!/bin/sh", host, Some("not a 64-bit ELF")),
            ("truncated", &own[..40], host, Some("truncated")),
            ("static", &static_one, host, None),
        ];
        for (row, elf, arch, expected) in rows {
            let error = check_static(elf, arch).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(error, None, "{row}"),
                Some(words) => assert!(error.as_ref().unwrap().contains(words), "{row}: {error:?}"),
            }
        }
    }
}
