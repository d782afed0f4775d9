//! Checks that fuzz/Cargo.lock and Cargo.lock agree, so that the fuzz targets test the versions that ship.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand};

use crate::shell;

/// The manifest of the fuzz targets, which are a separate workspace.
const FUZZ: &str = "fuzz/Cargo.toml";

/// The versions of each package.
type Versions = BTreeMap<String, BTreeSet<String>>;

/// Checks that fuzz/Cargo.lock is up to date, and that Cargo.lock has each of its versions of packages that
/// both have.
///
/// # Errors
/// One line for each package that differs, with the correction; or fuzz/Cargo.lock has to change.
pub(crate) fn check() -> anyhow::Result<()> {
    let renew = "fuzz/Cargo.lock is not up to date, or a crate cannot be fetched: `cargo metadata \
                 --manifest-path fuzz/Cargo.toml` updates it";
    let shipped = versions("Cargo.toml").context("Cargo.lock cannot be read")?;
    let faults = faults(&shipped, &versions(FUZZ).context(renew)?);
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

/// Compares the packages that both have.
fn faults(shipped: &Versions, fuzzed: &Versions) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, versions) in fuzzed {
        let Some(shipped) = shipped.get(name) else { continue };
        for version in versions.difference(shipped) {
            let wanted: Vec<&str> = shipped.iter().map(String::as_str).collect();
            let wanted = wanted.join(" or ");
            faults.push(format!(
                "fuzz/Cargo.lock has {name} {version}, Cargo.lock {wanted}: the version that ships is not fuzzed; \
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
    fn a_package_in_another_version_than_ships_is_reported() {
        let shipped = of(&[("a", "1.0.0"), ("b", "1.0.0"), ("b", "2.0.0"), ("c", "1.0.0")]);
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
        let rows: [Row<'_>; 5] = [
            ("the same", &[("a", "1.0.0"), ("c", "1.0.0")], &[]),
            ("one of two", &[("b", "2.0.0")], &[]),
            ("not in the workspace", &[("d", "9.0.0")], &[]),
            ("another", &[("a", "1.0.1"), ("c", "1.0.0")], &["has a 1.0.1, Cargo.lock 1.0.0: "]),
            ("a third", &[("b", "2.0.1")], &["has b 2.0.1, Cargo.lock 1.0.0 or 2.0.0: "]),
        ];
        for (row, fuzzed, expected) in rows {
            let faults = faults(&shipped, &of(fuzzed));
            assert_eq!(faults.len(), expected.len(), "{row}: {faults:?}");
            for (fault, words) in faults.iter().zip(expected) {
                assert!(fault.contains(words), "{row}: {fault}");
            }
        }
    }
}
