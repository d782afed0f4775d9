//! The lock of fuzz/ against that of the workspace: what is fuzzed is what ships, in its versions.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand};

use crate::shell;

/// The manifest of the fuzz targets, which are a workspace of their own.
const FUZZ: &str = "fuzz/Cargo.toml";

/// Which versions of each package there are.
type Versions = BTreeMap<String, BTreeSet<String>>;

/// Checks that fuzz/Cargo.lock is up to date, and has no other version of a package than Cargo.lock has.
///
/// # Errors
/// One line for each package that differs and how to correct it, or fuzz/Cargo.lock has to change.
pub(crate) fn check() -> anyhow::Result<()> {
    let renew = "fuzz/Cargo.lock is not up to date, or a crate cannot be fetched: `cargo metadata \
                 --manifest-path fuzz/Cargo.toml` renews it";
    let ours = versions("Cargo.toml").context("Cargo.lock cannot be read")?;
    let faults = faults(&ours, &versions(FUZZ).context(renew)?);
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn versions(manifest: &str) -> anyhow::Result<Versions> {
    let mut command = MetadataCommand::new();
    command.current_dir(shell::root()).manifest_path(shell::root().join(manifest));
    let metadata: Metadata = command.other_options(["--locked".to_owned()]).exec()?;
    let mut versions = Versions::new();
    for package in metadata.packages {
        versions.entry(package.name.to_string()).or_default().insert(package.version.to_string());
    }
    Ok(versions)
}

/// What the targets are built with and the workspace is not, of the packages that both have.
fn faults(ours: &Versions, fuzzed: &Versions) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, versions) in fuzzed {
        let Some(ours) = ours.get(name) else { continue };
        for version in versions.difference(ours) {
            let wanted: Vec<&str> = ours.iter().map(String::as_str).collect();
            let wanted = wanted.join(" or ");
            faults.push(format!(
                "fuzz/Cargo.lock has {name} {version}, Cargo.lock {wanted}: what ships is not fuzzed; \
                 `cargo update --manifest-path {FUZZ} -p {name}@{version} --precise VERSION` changes it"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(packages: &[(&str, &str)]) -> Versions {
        let mut versions = Versions::new();
        for (name, version) in packages {
            versions.entry((*name).to_owned()).or_default().insert((*version).to_owned());
        }
        versions
    }

    #[test]
    fn a_package_of_another_version_than_ships_is_named() {
        let ours = of(&[("a", "1.0.0"), ("b", "1.0.0"), ("b", "2.0.0"), ("c", "1.0.0")]);
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
        let rows: [Row<'_>; 5] = [
            ("the same", &[("a", "1.0.0"), ("c", "1.0.0")], &[]),
            ("one of two", &[("b", "2.0.0")], &[]),
            ("not ours", &[("d", "9.0.0")], &[]),
            ("another", &[("a", "1.0.1"), ("c", "1.0.0")], &["has a 1.0.1, Cargo.lock 1.0.0: "]),
            ("a third", &[("b", "2.0.1")], &["has b 2.0.1, Cargo.lock 1.0.0 or 2.0.0: "]),
        ];
        for (row, fuzzed, expected) in rows {
            let faults = faults(&ours, &of(fuzzed));
            assert_eq!(faults.len(), expected.len(), "{row}: {faults:?}");
            for (fault, words) in faults.iter().zip(expected) {
                assert!(fault.contains(words), "{row}: {fault}");
            }
        }
    }
}
