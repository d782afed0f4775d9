//! Scenarios: objects in YAML, with the steps that a pass takes for them and the maps after it, as text.
//!
//! Each `*.txt` file beside this one shows one rule of what a Service means, or one invariant of the order
//! of a change (ARCHITECTURE.md, "Invariants"). `cargo xtask check --bless` rewrites the generated
//! sections; README.md of this folder has the format.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cluster;
mod difference;
mod maps;
mod scenario;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};

use scenario::Scenario;

/// The number of scenarios may grow, not shrink: a wrong path would find none.
const LEAST: usize = 40;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let is_scenario = |path: &PathBuf| path.extension().is_some_and(|it| it == "txt");
    let mut found: Vec<PathBuf> = entries.filter(is_scenario).collect();
    found.sort();
    found
}

/// The text of a scenario as it should be.
fn rendered(text: &str) -> Result<String, String> {
    Scenario::parse(text)?.render()
}

/// The difference between a scenario file and what the code makes of it; none when they are equal.
fn difference(name: &str, text: &str) -> Option<String> {
    let expected = match rendered(text) {
        Ok(expected) => expected,
        Err(problem) => return Some(format!("{name}: {problem}\n")),
    };
    difference::first(text, &expected).map(|difference| format!("{name}:{difference}"))
}

#[test]
fn scenarios_match_their_goldens() {
    let bless = std::env::var_os("SVCLB_BLESS").is_some();
    let paths = scenarios();
    assert!(paths.len() >= LEAST, "{} scenarios in tests/scenarios", paths.len());
    let mut differences = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        if bless && let Ok(expected) = rendered(&text) {
            fs::write(&path, expected).unwrap();
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy();
        differences.extend(difference(&name, &text));
    }
    assert!(
        differences.is_empty(),
        "{} scenarios differ from what the code does now (-: the file, +: the code):\n\n{}\n\
         `cargo xtask check --bless` rewrites their generated sections; look at the difference.",
        differences.len(),
        differences.join("\n"),
    );
}

const SMALL: &str = "\
# A Service.

## objects
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
";

#[test]
fn a_changed_golden_is_found() {
    let golden = rendered(SMALL).unwrap();
    assert_eq!(difference("small", &golden), None);
    // A step, a frontend and a missing line.
    for (was, becomes) in [
        ("next_service 1 -> 2", "next_service 1 -> 3"),
        ("10.96.0.10:80/TCP -> refuse", "10.96.0.10:81/TCP -> refuse"),
        ("services\n", ""),
    ] {
        let changed = golden.replacen(was, becomes, 1);
        assert_ne!(changed, golden, "{was} is in the golden:\n{golden}");
        let found = difference("small", &changed).unwrap();
        assert!(found.starts_with("small:"), "{found}");
        let shown = was.trim_end();
        assert!(found.lines().any(|line| line.starts_with('+') && line.contains(shown)), "{found}");
    }
}

#[test]
fn a_changed_object_changes_its_golden() {
    let golden = rendered(SMALL).unwrap();
    let changed = golden.replacen("{port: 80}", "{port: 81}", 1);
    assert!(difference("small", &changed).unwrap().contains("+frontend 10.96.0.10:81/TCP"));
}

#[test]
fn a_scenario_with_an_unknown_section_or_setting_is_an_error() {
    for (text, problem) in [
        ("# A rule.\n\n## object\n", "unknown section"),
        ("# A rule.\n\n## settings\nslot: 3\n\n## objects\n", "unknown setting"),
        ("# A rule.\n\n## steps\n", "no objects"),
        ("## objects\n", "begin with a comment"),
        ("# A rule.\n\n## objects\ndelete: Pod shop/web\n", "Pod shop/web"),
        ("# A rule.\n\n## objects\ndelete: Service shop/web\n", "there is no Service shop/web"),
    ] {
        let found = rendered(text).unwrap_err();
        assert!(found.contains(problem), "{found}, expected {problem}");
    }
}

#[test]
fn a_rendered_scenario_is_stable() {
    let once = rendered(SMALL).unwrap();
    assert_eq!(rendered(&once).unwrap(), once);
}
