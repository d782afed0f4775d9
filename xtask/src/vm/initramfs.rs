//! Writes a guest's initial file system: an archive in the format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cpio::newc::{Builder, trailer};

use crate::shell;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive that is being written.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Folders and libraries that it already has.
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a folder and its parents.
    pub(super) fn folder(&mut self, path: &Path) -> anyhow::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .filter(|it| it.parent().is_some() && !self.folders.contains(*it))
            .collect();
        for folder in missing.into_iter().rev() {
            self.entry(folder, FOLDER, &[])?;
            self.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Adds an executable file.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        self.entry(path, PROGRAM, content)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path);
        let name = name.to_str().context("a file's name is not UTF-8")?;
        let length = u32::try_from(content.len()).context("a file is too large")?;
        let mut writer = Builder::new(name).mode(mode).nlink(1).write(&mut self.bytes, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    /// Adds a program without its symbols, and the shared libraries that it needs.
    pub(super) fn program(
        &mut self,
        path: &Path,
        program: &Path,
        strip: &str,
        scratch: &Path,
    ) -> anyhow::Result<()> {
        self.file(path, &stripped(program, strip, scratch)?)?;
        for library in libraries(program)? {
            if self.folders.insert(library.clone()) {
                let content = fs::read(&library)
                    .with_context(|| format!("cannot read {}", library.display()))?;
                self.file(&library, &content)?;
            }
        }
        Ok(())
    }

    /// Writes the archive to a file.
    pub(super) fn write(mut self, to: &Path) -> anyhow::Result<()> {
        trailer(&mut self.bytes)?;
        fs::write(to, &self.bytes).with_context(|| format!("cannot write {}", to.display()))
    }
}

/// Returns a program without its symbols, which are most of its size.
fn stripped(program: &Path, strip: &str, scratch: &Path) -> anyhow::Result<Vec<u8>> {
    let mut command = shell::command(strip);
    command.arg("-o").arg(scratch).arg(program);
    shell::output(&mut command)?;
    let content = fs::read(scratch);
    content.with_context(|| format!("cannot read {}", scratch.display()))
}

/// Returns the shared libraries of a program, none if it is static.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It fails for static programs.
    let mut ldd = shell::command("ldd");
    ldd.arg(program);
    let output = ldd.output().with_context(|| shell::cannot_start(&ldd))?;
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Returns the paths in the output of ldd(1): `libc.so.6 => /lib/libc.so.6 (0x0)`, `/lib64/ld-linux.so.2 (0x0)`.
fn parse(ldd: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    };
    ldd.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_comes_once_and_before_its_files() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/one"), b"1").unwrap();
        archive.file(Path::new("/a/b/two"), b"22").unwrap();
        let mut names = Vec::new();
        let bytes = {
            trailer(&mut archive.bytes).unwrap();
            archive.bytes
        };
        let mut rest = &bytes[..];
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            names.push(format!("{} {:o}", entry.name(), entry.mode()));
            rest = reader.finish().unwrap();
        }
        assert_eq!(names, ["a 40755", "a/b 40755", "a/b/one 100755", "a/b/two 100755"]);
    }

    #[test]
    fn libraries_are_the_paths_in_the_output_of_ldd() {
        let output = "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x1)\n\t/lib64/ld.so (0x2)\n";
        assert_eq!(parse(output), [PathBuf::from("/lib/x/libc.so.6"), "/lib64/ld.so".into()]);
        assert_eq!(parse("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
