//! Builds the programs for guests: test binaries, the first process, and the program `svclb`. For this
//! machine's architecture the tests are the same files that `cargo xtask test` runs; for another one all
//! programs are static, and a cross compiler links them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::initramfs::Archive;
use super::kernel::Kernel;
use crate::program::{self, Arch, For};
use crate::{run, shell};

/// Crates whose tests run in guests: those on the kernel, with the first process of a guest; those that
/// depend on the architecture; the crates' own on the kernel (rights, pins, files, interfaces).
const TESTED: [&str; 5] =
    ["svclb-tests", "svclb-common", "svclb-sources", "svclb-dataplane", "svclb-agent"];
/// The first of them that are also built for another architecture.
const CROSS_BUILT: usize = 2;
/// The test binary of a library among [`super::FOREIGN`].
const LIBRARY: &str = "svclb_common";
/// The first process of a guest.
const GUEST: &str = "guest";
/// Programs of this machine that tests use.
const TOOLS: [&str; 11] = [
    "bash", "bpftool", "cut", "env", "grep", "mount", "setpriv", "sh", "sleep", "timeout",
    "unshare",
];

/// Built programs of one architecture.
pub(super) struct Programs {
    /// The architecture.
    arch: Arch,
    /// True if that is this machine's.
    is_host: bool,
    /// Name and path of each test binary.
    tests: Vec<(String, PathBuf)>,
    guest: PathBuf,
    svclb: PathBuf,
}

impl Programs {
    /// Builds them, with the test binaries whose name is `wanted`.
    pub(super) fn build(arch: Arch, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let target = arch.target();
        let is_host = !arch.is_foreign();
        let mut variables = arch.variables();
        if !is_host {
            let upper = target.to_uppercase().replace('-', "_");
            // This machine cannot use the symbols.
            let flags = "-Ctarget-feature=+crt-static -Cdebuginfo=0".to_owned();
            variables.push((format!("CARGO_TARGET_{upper}_RUSTFLAGS"), flags));
        }
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let crates = if is_host { &TESTED[..] } else { &TESTED[..CROSS_BUILT] };
        let mut arguments = vec!["--no-run"];
        match is_host {
            // The crates that `cargo xtask test` selects: it has built all of this.
            true => arguments.extend(run::HOST),
            false => {
                arguments.extend(["--target", target, "--lib"]);
                arguments.extend(crates.iter().flat_map(|name| ["--package", name]));
                let binaries = super::FOREIGN.iter().filter(|name| **name != LIBRARY);
                arguments.extend(binaries.flat_map(|name| ["--test", name]));
            }
        }
        shell::log(&format!("building the tests for guests ({})", arch.name()));
        let (mut tests, mut guest) = (Vec::new(), None);
        run::artifacts("test", &arguments, &variables, |artifact| {
            if !crates.contains(&&run::package(&artifact)[..]) {
                return;
            }
            let name = artifact.target.name;
            let Some(path) = artifact.executable.map(PathBuf::from) else { return };
            if !artifact.profile.test && name == GUEST {
                guest = Some(path);
            } else if artifact.profile.test && name != GUEST && wanted(&name) {
                tests.push((name, path));
            }
        })?;
        ensure!(!tests.is_empty(), "no test binary is for guests");
        let guest = guest.context("cargo built no program `guest`")?;
        let svclb = program::build(arch, For::Tests)?.path;
        Ok(Self { arch, is_host, tests, guest, svclb })
    }

    /// Packs the programs for a kernel, with arguments for each test binary.
    pub(super) fn pack(
        &self,
        kernel: &Kernel,
        arguments: &[&str],
        to: &Path,
    ) -> anyhow::Result<()> {
        let strip = format!("{}strip", self.arch.tools());
        let scratch = to.with_extension("stripped");
        let mut archive = Archive::default();
        for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/modules", "/tests"] {
            archive.folder(Path::new(folder))?;
        }
        archive.program(Path::new("/init"), &self.guest, &strip, &scratch)?;
        archive.program(Path::new("/svclb"), &self.svclb, &strip, &scratch)?;
        for (name, path) in &self.tests {
            archive.program(&Path::new("/tests").join(name), path, &strip, &scratch)?;
        }
        for tool in if self.is_host { &TOOLS[..] } else { &[] } {
            let path = shell::find(tool).with_context(|| format!("there is no {tool} here"))?;
            archive.program(&Path::new("/bin").join(tool), &path, &strip, &scratch)?;
        }
        for path in kernel.modules()? {
            let name = path.file_name().context("a module has a name")?;
            let content = std::fs::read(&path)?;
            archive.file(&Path::new("/modules").join(name), &content)?;
        }
        archive.file(Path::new("/arguments"), arguments.join("\n").as_bytes())?;
        archive.write(to)?;
        std::fs::remove_file(&scratch).context("a scratch file can be removed")
    }
}
