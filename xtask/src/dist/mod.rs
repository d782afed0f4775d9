//! `cargo xtask dist` writes what a release has to a folder: for each architecture an archive, a Debian package
//! and an SBOM; and the checksums of all of them. The same program gives the same bytes.

mod deb;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::image::layer::{self, Entry};
use crate::image::{self, LICENCES};
use crate::program::{self, Arch, For, Program, read};
use crate::shell;

/// The folder, below cargo's target folder.
const FOLDER: &str = "dist";
/// The shells with a script for completions, and its name where the shell looks for it.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/svclb"),
    ("zsh", "zsh/vendor-completions/_svclb"),
    ("fish", "fish/vendor_completions.d/svclb.fish"),
];

/// The files that are the same for all architectures.
struct Common {
    version: String,
    licences: Vec<(&'static str, Vec<u8>)>,
    readme: Vec<u8>,
    /// Scripts for completions, by their path below `/usr/share`.
    completions: Vec<(&'static str, Vec<u8>)>,
    /// Man pages, by name.
    man: Vec<(String, Vec<u8>)>,
}

/// Writes a release for these architectures (all, if none is given), and prints its folder.
///
/// # Errors
/// A build fails, or a file cannot be written.
pub(crate) fn run(archs: &[Arch]) -> anyhow::Result<()> {
    let archs = &Arch::select(archs);
    program::ensure_tools(archs)?;
    let programs = image::programs(archs, For::Release)?;
    // Its own architecture's program can be started here, and says the same as the others.
    let own = programs.iter().position(|program| !program.arch.is_foreign());
    let folder = match own {
        Some(own) => write(&programs, &programs[own])?,
        None => write(&programs, &program::build(Arch::host()?, For::Release)?)?,
    };
    shell::print(&folder.display().to_string());
    Ok(())
}

/// Packs programs into the folder, and returns it. `own` is for this machine.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn write(programs: &[Program], own: &Program) -> anyhow::Result<PathBuf> {
    let start = Instant::now();
    let folder = program::target_directory()?.join(FOLDER);
    // Files of an earlier version would get checksums too.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let common = Common::read(own, &folder)?;
    let mut files = Vec::new();
    for program in programs {
        let arch = program.arch.name();
        let name = format!("svclb-{}-linux-{arch}", common.version);
        let binary = read(&program.path)?;
        let sbom = program.contents.sbom()?;
        let archive = common.archive(&name, binary.clone(), sbom.clone())?;
        files.push((format!("{name}.tar.gz"), archive));
        let package = deb::package(&common, program.arch, binary, sbom.clone())?;
        files.push((format!("svclb_{}_{arch}.deb", common.version), package));
        files.push((format!("{name}.cdx.json"), sbom));
    }
    files.sort();
    let sums: String = files.iter().map(|(name, data)| line_of_sums(name, data)).collect();
    files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
    for (name, data) in &files {
        let path = folder.join(name);
        fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))?;
    }
    shell::log(&format!("{} files, in {}", files.len(), shell::seconds(start)));
    Ok(folder)
}

/// A line that `sha256sum --check` reads.
fn line_of_sums(name: &str, data: &[u8]) -> String {
    let digest: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}  {name}\n")
}

impl Common {
    /// Reads the files of the checkout, and asks the program for the rest.
    fn read(own: &Program, scratch: &Path) -> anyhow::Result<Self> {
        let about = own.contents.program()?;
        let of_checkout = |name: &str| read(&shell::root().join(name));
        let licences = LICENCES.iter().map(|name| Ok((*name, of_checkout(name)?)));
        let completions = COMPLETIONS.iter().map(|(name, path)| {
            let mut print = shell::command(&own.path);
            Ok((*path, shell::output(print.args(["completions", name]))?))
        });
        Ok(Self {
            version: about.version.to_string(),
            licences: licences.collect::<anyhow::Result<_>>()?,
            readme: of_checkout("README.md")?,
            completions: completions.collect::<anyhow::Result<_>>()?,
            man: man_pages(&own.path, &scratch.join("man"))?,
        })
    }

    /// Packs the archive for machines without Debian's packages.
    fn archive(&self, name: &str, program: Vec<u8>, sbom: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let file = |path: &str, data: &[u8]| Entry::file(&format!("{name}/{path}"), data.to_vec());
        let mut files = vec![
            Entry::program(&format!("{name}/svclb"), program),
            file("svclb.cdx.json", &sbom),
            file("README.md", &self.readme),
        ];
        files.extend(self.licences.iter().map(|(path, data)| file(path, data)));
        let completions = self.completions.iter();
        files.extend(completions.map(|(path, data)| file(&format!("share/{path}"), data)));
        let man = self.man.iter();
        files.extend(man.map(|(page, data)| file(&format!("share/man/man1/{page}"), data)));
        image::compress(&layer::tar(files, &[])?)
    }
}

/// Lets the program write its man pages, and reads them.
fn man_pages(program: &Path, scratch: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    shell::output(shell::command(program).arg("man").arg(scratch))?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(scratch)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        pages.push((name.context("a man page has a name")?.to_owned(), read(&path)?));
    }
    fs::remove_dir_all(scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_the_same_bytes_at_any_time() {
        let make = || {
            let common = Common {
                version: "1.0.0".to_owned(),
                licences: vec![("LICENSE-MIT", b"MIT".to_vec())],
                readme: b"read".to_vec(),
                completions: vec![("fish/vendor_completions.d/svclb.fish", b"#".to_vec())],
                man: vec![("svclb.1".to_owned(), b".TH".to_vec())],
            };
            let package = deb::package(&common, Arch::Amd64, vec![1; 5000], b"{}".to_vec());
            let archive = common.archive("svclb-1.0.0-linux-amd64", vec![1; 5000], b"{}".to_vec());
            (archive.unwrap(), package.unwrap())
        };
        let first = make();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(first == make(), "no time is in it");
    }

    #[test]
    fn sums_have_the_form_of_sha256sum() {
        let expected =
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a.tar.gz\n";
        assert_eq!(line_of_sums("a.tar.gz", &[]), expected);
    }
}
