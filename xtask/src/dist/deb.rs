//! Writes a Debian package (deb(5)): an ar archive with two tars, one of files for dpkg and one of files to
//! install. The texts in it are those of `packaging/debian`.

use crate::image::compress;
use crate::image::layer::{self, Entry};
use crate::program::{Arch, read};
use crate::shell;

use super::Common;

/// The folder of the texts.
const TEXTS: &str = "packaging/debian";
/// Scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// The unit, and where systemd looks for it.
const UNIT: (&str, &str) = ("svclb.service", "usr/lib/systemd/system/svclb.service");
/// Documents, and their names in the package's folder of documents.
const DOCUMENTS: [(&str, &str); 3] = [
    ("README.Debian", "README.Debian"),
    ("copyright", "copyright"),
    ("hello.yaml", "examples/hello.yaml"),
];
/// The folder that the unit's agent reads. The package brings it empty.
const SERVICES: &str = "etc/svclb";

/// Packs the package of an architecture.
pub(super) fn package(
    common: &Common,
    arch: Arch,
    program: Vec<u8>,
    sbom: Vec<u8>,
) -> anyhow::Result<Vec<u8>> {
    let text = |name: &str| read(&shell::root().join(TEXTS).join(name));
    let files = files(common, program, sbom, &text)?;
    // In KiB, as a file system would take it.
    let installed: usize = files.iter().map(|file| file.len().div_ceil(1024)).sum();
    let control = String::from_utf8(text("control")?)?
        .replace("@VERSION@", &common.version)
        .replace("@ARCHITECTURE@", arch.name())
        .replace("@SIZE@", &installed.to_string());
    let mut for_dpkg = vec![Entry::file("control", control.into_bytes())];
    for script in SCRIPTS {
        for_dpkg.push(Entry::program(script, text(script)?));
    }
    Ok(ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", &compress(&layer::tar(for_dpkg, &[])?)?),
        ("data.tar.gz", &compress(&layer::tar(files, &[SERVICES])?)?),
    ]))
}

/// The files to install.
fn files(
    common: &Common,
    program: Vec<u8>,
    sbom: Vec<u8>,
    text: &impl Fn(&str) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Vec<Entry>> {
    let document = |name: &str| format!("usr/share/doc/svclb/{name}");
    let mut files = vec![
        Entry::program("usr/bin/svclb", program),
        Entry::file(UNIT.1, text(UNIT.0)?),
        Entry::file(&document("svclb.cdx.json"), sbom),
    ];
    for (name, path) in DOCUMENTS {
        files.push(Entry::file(&document(path), text(name)?));
    }
    for (path, script) in &common.completions {
        files.push(Entry::file(&format!("usr/share/{path}"), script.clone()));
    }
    for (page, content) in &common.man {
        files.push(Entry::file(&format!("usr/share/man/man1/{page}.gz"), compress(content)?));
    }
    for (name, content) in &common.licences {
        files.push(Entry::file(&document(name), content.clone()));
    }
    Ok(files)
}

/// Packs an ar archive (ar(5)) of files that root owns, with the start of the epoch as their time.
fn ar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, data) in files {
        let [time, user, group] = [0; 3];
        let (mode, size) = ("100644", data.len());
        let header = format!("{name:<16}{time:<12}{user:<6}{group:<6}{mode:<8}{size:<10}`\n");
        archive.extend(header.as_bytes());
        archive.extend(*data);
        // Each file begins at an even place.
        archive.extend(vec![b'\n'; data.len() % 2]);
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_of_an_archive_has_a_header_and_begins_at_an_even_place() {
        let archive = ar(&[("debian-binary", b"2.0\n"), ("odd", b"x"), ("last", b"")]);
        let header = |name: &str, size: &str| {
            format!("{name:16}0           0     0     100644  {size:10}`\n")
        };
        let expected = [
            "!<arch>\n",
            &header("debian-binary", "4"),
            "2.0\n",
            &header("odd", "1"),
            "x\n",
            &header("last", "0"),
        ];
        assert_eq!(String::from_utf8(archive).unwrap(), expected.concat());
        assert_eq!(header("odd", "1").len(), 60);
    }
}
