//! Checks the licences and the origins of dependencies.

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand, Package, Source};
use spdx::{Expression, ParseMode};

use crate::shell;

/// Licences of code that may be linked into a program under MIT or Apache-2.0, with the reason.
const ALLOWED: &[(&str, &str)] = &[
    ("Apache-2.0", "svclb's own"),
    ("MIT", "svclb's own"),
    ("BSD-2-Clause", "permissive, asks for its notice only"),
    ("BSD-3-Clause", "the same, and not to use the authors' names"),
    ("CDLA-Permissive-2.0", "permissive, of data: the web's certificate authorities as a list"),
    ("ISC", "MIT in other words"),
    ("MIT-0", "MIT that asks for no notice: of a test dependency"),
    ("Unlicense", "public domain"),
    ("Unicode-3.0", "permissive, of the Unicode tables that crates carry"),
    ("Zlib", "permissive, asks for no notice in binaries"),
];

/// Checks that Cargo.lock is up to date, and each crate in it.
///
/// # Errors
/// One line for each crate that must not be used, or Cargo.lock has to change.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut command = MetadataCommand::new();
    command.current_dir(shell::root()).other_options(["--locked".to_owned()]);
    let metadata = command.exec().context(
        "Cargo.lock is not up to date, or a crate cannot be fetched: `cargo metadata` updates it",
    )?;
    let faults = faults(&metadata);
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn faults(metadata: &Metadata) -> Vec<String> {
    let is_member = |package: &Package| metadata.workspace_members.contains(&package.id);
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        if !is_member(package) {
            faults.extend(
                source_fault(package.source.as_ref()).map(|fault| format!("{name}: {fault}")),
            );
        }
        let fault = licence_fault(package.license.as_deref());
        faults.extend(fault.map(|fault| format!("{name}: {fault}")));
    }
    faults
}

/// Returns the reason why a crate from this source must not be used.
fn source_fault(source: Option<&Source>) -> Option<String> {
    match source {
        Some(source) if source.is_crates_io() => None,
        Some(other) => {
            Some(format!("comes from {other}: only cargo's own registry is reproducible"))
        }
        None => {
            Some("is a path outside of the workspace, which is not on other machines".to_owned())
        }
    }
}

/// Returns the licence of a crate as an SPDX expression.
///
/// # Errors
/// It names none, or the text is not an expression.
pub(crate) fn expression(package: &Package) -> anyhow::Result<String> {
    let licence = package.license.as_deref().context("no licence");
    let expression = licence.and_then(|licence| {
        let canonical = Expression::canonicalize(licence)?;
        Ok(canonical.unwrap_or_else(|| licence.to_owned()))
    });
    expression.with_context(|| format!("the licence of {}", package.name))
}

/// Returns the reason why code under this licence must not be used.
fn licence_fault(licence: Option<&str>) -> Option<String> {
    let Some(licence) = licence else {
        return Some("names no licence".to_owned());
    };
    // Older crates write MIT/Apache-2.0 for OR.
    let expression = match Expression::parse_mode(licence, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("licence {licence:?} is no SPDX expression: {error}")),
    };
    let is_allowed = expression.evaluate(|requirement| {
        // An exception only grants more.
        let id = requirement.license.id();
        id.is_some_and(|id| ALLOWED.iter().any(|(allowed, _)| *allowed == id.name))
    });
    (!is_allowed).then(|| {
        let allowed: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
        format!("licence {licence} is not among {}", allowed.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_passes_only_if_the_list_satisfies_it() {
        let rows = [
            ("alone", Some("MIT"), true),
            ("a choice", Some("MIT OR Apache-2.0"), true),
            ("a choice with a bad one", Some("GPL-3.0-only OR MIT"), true),
            ("both, one bad", Some("MIT AND GPL-3.0-only"), false),
            ("both, good", Some("(MIT OR Apache-2.0) AND Unicode-3.0"), true),
            ("with an exception", Some("Apache-2.0 WITH LLVM-exception"), true),
            ("old form", Some("MIT/Apache-2.0"), true),
            ("copyleft", Some("GPL-2.0-only"), false),
            ("own licence", Some("LicenseRef-Mine"), false),
            ("no expression", Some("do what you want"), false),
            ("none", None, false),
        ];
        for (row, licence, passes) in rows {
            assert_eq!(licence_fault(licence).is_none(), passes, "{row}");
        }
    }

    #[test]
    fn each_allowed_licence_is_known_by_its_spdx_name_and_has_a_reason() {
        for (name, reason) in ALLOWED {
            assert!(spdx::license_id(name).is_some(), "{name}");
            assert!(!reason.is_empty(), "{name}");
        }
    }

    #[test]
    fn only_the_registry_is_a_source() {
        // Cargo.lock names the registry even if a mirror is used.
        let lock = include_str!("../../Cargo.lock");
        let registry = lock.lines().find_map(|line| line.strip_prefix("source = ")).unwrap();
        let fault = |source: &str| source_fault(Some(&Source { repr: source.to_owned() }));
        assert_eq!(fault(registry.trim_matches('"')), None);
        assert!(fault("git+https://example.org/x?rev=1#1").is_some());
        assert!(fault("registry+https://example.org/index").is_some());
        assert!(source_fault(None).is_some());
    }
}
