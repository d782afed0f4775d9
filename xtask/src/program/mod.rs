//! Builds the program `svclb` as it ships: static, for one architecture, with the list of its crates.

mod contents;
mod paths;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::ValueEnum;

use crate::{run, setup, shell};
pub(crate) use contents::Contents;

/// The folder of this build, below cargo's target folder: its flags are not those of other builds.
const FOLDER: &str = "image";
/// The section that scanners read the list of crates from (github.com/rust-secure-code/cargo-auditable).
const SECTION: &str = ".dep-v0";

/// An architecture. The names are those in images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// All of them, in the order in which they are built.
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Returns each of these once, or all if there are none, in the order in which they are built.
    pub(crate) fn select(named: &[Self]) -> Vec<Self> {
        let is_named = |arch: &Self| named.is_empty() || named.contains(arch);
        Self::ALL.into_iter().filter(is_named).collect()
    }

    /// Returns this machine's architecture.
    pub(crate) fn host() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("svclb is not built on {other}, only on amd64 and arm64"),
        }
    }

    /// True if this is not the architecture of this machine.
    pub(crate) fn is_foreign(self) -> bool {
        Self::host().is_ok_and(|host| host != self)
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

    /// Prefix of the names of the tools for it: of a cross compiler, if it is foreign.
    pub(crate) fn tools(self) -> &'static str {
        match self {
            _ if !self.is_foreign() => "",
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }

    /// Variables that make cargo use the cross compiler for it: none, if it is not foreign.
    pub(crate) fn variables(self) -> Vec<(String, String)> {
        if !self.is_foreign() {
            return Vec::new();
        }
        let compiler = format!("{}gcc", self.tools());
        let target = self.target().replace('-', "_");
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
        vec![(linker, compiler.clone()), (format!("CC_{target}"), compiler)]
    }

    /// `e_machine` of its programs (elf(5)).
    fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

/// The purpose of a program, which decides how long its build may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    /// It ships.
    Release,
    /// It is tested. For another architecture than this machine's it is not optimized at link time, which
    /// takes long and does not matter to tests.
    Tests,
}

/// A built program.
pub(crate) struct Program {
    pub(crate) arch: Arch,
    /// Its file.
    pub(crate) path: PathBuf,
    /// The crates in it.
    pub(crate) contents: Contents,
}

/// Installs what is missing to build for these architectures.
///
/// # Errors
/// Something cannot be installed here: the error lists it, with its purpose.
pub(crate) fn ensure_tools(archs: &[Arch]) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    for arch in archs.iter().filter(|arch| arch.is_foreign()) {
        setup::ensure(setup::Need::Cross)?;
        setup::ensure_target(arch.target())?;
    }
    Ok(())
}

/// Builds the program as a static one, which needs no other file.
///
/// # Errors
/// The build fails.
pub(crate) fn build(arch: Arch, purpose: For) -> anyhow::Result<Program> {
    let profile = match purpose {
        For::Tests if arch.is_foreign() => "measure",
        _ => "release",
    };
    let target = arch.target();
    let folder = target_directory()?.join(FOLDER);
    let folder = folder.to_str().context("the target folder's name is not UTF-8")?;
    let paths = paths::Renamed::find(folder)?;
    // With --target they do not apply to build scripts. They override the user's flags, which come from
    // other variables or from cargo's configuration.
    let flags = [paths.flags(), vec!["-Ctarget-feature=+crt-static".to_owned()]].concat();
    let (flags, kernel) = (flags.join(paths::SEPARATOR), paths.kernel_flags());
    let cross = arch.variables();
    let mut variables = vec![(paths::FLAGS, &flags[..]), (paths::KERNEL_FLAGS, &kernel[..])];
    variables.extend(cross.iter().map(|(name, value)| (&name[..], &value[..])));
    let strip = format!("profile.{profile}.strip=true");
    let arguments = ["--profile", profile, "--package", "svclb-agent", "--bin", "svclb"];
    let where_to = ["--target", target, "--target-dir", folder, "--config", &strip];

    // cargo names every crate that it compiled for the target, now or earlier. Macros and build scripts are
    // compiled for this machine, into another folder.
    let output = Path::new(folder).join(target);
    let (mut found, mut linked) = (None, BTreeSet::new());
    run::artifacts("build", &[&arguments[..], &where_to].concat(), &variables, |artifact| {
        found = run::program(&artifact).or(found.take());
        if artifact.filenames.iter().any(|file| file.as_std_path().starts_with(&output)) {
            linked.insert(artifact.package_id);
        }
    })
    .with_context(|| format!("cannot build for {target}"))?;
    let built = found.context("cargo built no program `svclb`")?;
    let contents = Contents::find(target, linked)?;
    let path = list_crates(&built, arch, &contents)?;
    check_static(&read(&path)?, arch)
        .with_context(|| format!("{} cannot be shipped", path.display()))?;
    Ok(Program { arch, path, contents })
}

/// Copies a program, and adds the section with its crates.
fn list_crates(built: &Path, arch: Arch, contents: &Contents) -> anyhow::Result<PathBuf> {
    let folder = built.with_file_name("auditable");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (list, program) = (folder.join("crates"), folder.join("svclb"));
    fs::write(&list, contents.section()?)
        .with_context(|| format!("cannot write {}", list.display()))?;
    let section = format!("{SECTION}={}", list.display());
    let mut objcopy = shell::command(format!("{}objcopy", arch.tools()));
    objcopy.args(["--add-section", &section]).arg(built).arg(&program);
    shell::output(&mut objcopy)?;
    Ok(program)
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

/// Reads a file.
///
/// # Errors
/// The system's, with the path.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_selected_architecture_is_built_once() {
        use Arch::{Amd64, Arm64};
        let rows: [(&str, &[Arch], &[Arch]); 3] = [
            ("none named", &[], &Arch::ALL),
            ("one", &[Arm64], &[Arm64]),
            ("twice, in another order", &[Arm64, Amd64, Arm64], &Arch::ALL),
        ];
        for (row, named, expected) in rows {
            assert_eq!(Arch::select(named), expected, "{row}");
        }
    }

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
