//! Renames the folders whose paths a build leaves in the program, in texts of panics and in the debug
//! information of the eBPF programs. The image then does not reveal paths of the machine, nor depend on them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{provider, setup, shell};

/// Flags for rustc, which override all other settings of them (doc.rust-lang.org/cargo, "build.rustflags").
pub(super) const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
/// Separator between these flags.
pub(super) const SEPARATOR: &str = "\x1f";
/// Flags for the compiler of the eBPF programs, read by svclb-dataplane's build script.
pub(super) const KERNEL_FLAGS: &str = "SVCLB_BPF_RUSTFLAGS";

/// Folders and their new names. A later folder may be inside of an earlier one.
pub(super) struct Renamed {
    /// Folders of the build.
    folders: Vec<(PathBuf, &'static str)>,
    /// Source of the standard library of each compiler.
    library: PathBuf,
    kernel_library: PathBuf,
}

/// New name of a standard library's source.
const LIBRARY: &str = "/rust";

impl Renamed {
    /// Finds the folders on this machine. `target` is the target folder of the build.
    ///
    /// # Errors
    /// A compiler, or cargo's folder, is not found.
    pub(super) fn find(target: &str) -> anyhow::Result<Self> {
        let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let usual = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
        let cargo = named.filter(|path| path.is_absolute()).or_else(usual);
        let cargo = cargo.context("neither CARGO_HOME nor HOME is set")?;
        let sysroot = setup::sysroot()?;
        let kernel = provider::find().map_err(anyhow::Error::msg)?.compiler;
        let library = |sysroot: &Path| sysroot.join("lib/rustlib/src/rust");
        let folders = vec![
            (cargo, "/cargo"),
            (shell::root().to_owned(), "/svclb"),
            (PathBuf::from(target), "/target"),
        ];
        Ok(Self { folders, library: library(&sysroot), kernel_library: library(&kernel.sysroot) })
    }

    /// Flags for the program.
    pub(super) fn flags(&self) -> Vec<String> {
        self.with(&self.library)
    }

    /// Flags for the eBPF programs. In their variable, flags are separated by blanks, so a folder with a
    /// blank in its name is not renamed.
    pub(super) fn kernel_flags(&self) -> String {
        let mut flags = self.with(&self.kernel_library);
        flags.retain(|flag| !flag.contains(char::is_whitespace));
        flags.join(" ")
    }

    fn with(&self, library: &Path) -> Vec<String> {
        let folders = self.folders.iter().map(|(from, to)| (from.as_path(), *to));
        std::iter::once((library, LIBRARY))
            .chain(folders)
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_a_flag_and_the_inner_one_comes_last() {
        let folders = [("/home/a/.cargo", "/cargo"), ("/home/a b", "/svclb")];
        let renamed = Renamed {
            folders: folders.map(|(from, to)| (PathBuf::from(from), to)).into(),
            library: "/one".into(),
            kernel_library: "/two".into(),
        };
        let expected = [
            "--remap-path-prefix=/one=/rust",
            "--remap-path-prefix=/home/a/.cargo=/cargo",
            "--remap-path-prefix=/home/a b=/svclb",
        ];
        assert_eq!(renamed.flags(), expected);
        let expected = "--remap-path-prefix=/two=/rust --remap-path-prefix=/home/a/.cargo=/cargo";
        assert_eq!(renamed.kernel_flags(), expected);
    }
}
