//! The tests that docs/reliability.md and docs/security.md name: each exists, and no row is without one.
//!
//! The last column names a test as `place::name`. The place is the end of the path of its file, as modules
//! are written: `kube::start` is tests/tests/kube/start.rs, `plan::tests::deaths` is
//! svclb-core/src/plan/tests/crashes.rs; a module `tests` inside of a file counts too.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::shell;

/// Where they are named.
const PAGES: [&str; 2] = ["docs/reliability.md", "docs/security.md"];
/// Folders of crates that have tests.
const CRATES: [&str; 8] = [
    "svclb-common",
    "svclb-core",
    "svclb-objects",
    "svclb-sources",
    "svclb-dataplane",
    "svclb-agent",
    "tests",
    "xtask",
];
/// Folders of a crate with Rust in them.
const FOLDERS: [&str; 2] = ["src", "tests"];

/// A file and its tests.
struct Tests {
    /// Its place: crate, binary or modules.
    place: Vec<String>,
    /// Their names.
    names: Vec<String>,
}

/// Compares the pages with the tree.
///
/// # Errors
/// A page names what is no test, or has a row without one: all of them.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for name in CRATES {
        for folder in FOLDERS {
            collect(&shell::root().join(name).join(folder), &[name.to_owned()], &mut found)?;
        }
    }
    let mut all = Vec::new();
    for page in PAGES {
        let path = shell::root().join(page);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        all.extend(wrong(page, &text, &found));
    }
    let wrong = all;
    if !wrong.is_empty() {
        bail!("{}\nname tests in the last column as `place::name` (xtask/src/named_tests.rs)", {
            wrong.join("\n")
        });
    }
    Ok(())
}

/// The tests of a folder and those below.
fn collect(folder: &Path, place: &[String], found: &mut Vec<Tests>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let cannot = || format!("cannot read {}", folder.display());
    for entry in folder.read_dir().with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let below = [place, std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            collect(&path, &below, found)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let is_whole = ["mod", "main", "lib"].contains(&&stem[..]);
            let place = if is_whole { place.to_vec() } else { below };
            found.push(Tests { place, names: tests(&text) });
        }
    }
    Ok(())
}

/// The names of the tests of a file: functions behind `#[test]` or `#[tokio::test]`, also in a macro.
fn tests(text: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let line = ["pub ", "async "]
            .into_iter()
            .fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
        let Some(rest) = line.strip_prefix("fn ") else { continue };
        if std::mem::take(&mut is_test) {
            let is_end = |letter: char| letter != '_' && !letter.is_ascii_alphanumeric();
            names.push(rest.split(is_end).next().unwrap_or_default().to_owned());
        }
    }
    names
}

/// What is wrong with the tables of a page, a line each. The first row of a table names its columns.
fn wrong(page: &str, text: &str, found: &[Tests]) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with("| ");
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("|--"));
    let rows = lines.iter().enumerate().filter(|(at, line)| is_row(line) && !is_head(*at));
    for (_, row) in rows {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let fault = cells.next().unwrap_or_default();
        let named: Vec<&str> =
            cells.next_back().unwrap_or_default().split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{page}: no test is named for {fault:?}"));
        }
        let missing = named.iter().filter(|name| !is_there(name, found));
        wrong.extend(missing.map(|name| format!("{page}: {fault:?}: there is no test `{name}`")));
    }
    if wrong.is_empty() && !lines.iter().any(|line| is_row(line)) {
        wrong.push(format!("{page} has no table"));
    }
    wrong
}

/// Whether there is a test of this name in such a place.
fn is_there(named: &str, found: &[Tests]) -> bool {
    let Some((place, name)) = named.rsplit_once("::") else { return false };
    let place: Vec<&str> = place.split("::").collect();
    let ends = |whole: &[String], end: &[&str]| {
        whole.len() >= end.len()
            && whole[whole.len() - end.len()..].iter().zip(end).all(|(a, b)| a == b)
    };
    let inside = place.strip_suffix(&["tests"]).filter(|rest| !rest.is_empty());
    found.iter().filter(|file| file.names.iter().any(|it| it == name)).any(|file| {
        ends(&file.place, &place) || inside.is_some_and(|place| ends(&file.place, place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
#[test]
fn a_plain_one() {}

fn no_test() {}

#[tokio::test(flavor = \"multi_thread\")]
#[expect(
    clippy::print_stdout,
)]
async fn one_that_waits() {}

proptest! {
    #[test]
    fn one_in_a_macro(
        it in any(),
    ) {}
}
";

    fn found() -> Vec<Tests> {
        let place = ["svclb-core", "plan", "deaths"].map(str::to_owned).into();
        vec![Tests { place, names: super::tests(FILE) }]
    }

    fn page(tests: &str) -> String {
        format!(
            "# Faults\n\n| fault | what happens | test |\n|---|---|---|\n| a, b | `c` | {tests} |\n"
        )
    }

    #[test]
    fn every_test_that_the_page_names_exists() {
        check().unwrap();
    }

    #[test]
    fn tests_are_known_by_their_attribute_also_in_a_macro() {
        assert_eq!(super::tests(FILE), ["a_plain_one", "one_that_waits", "one_in_a_macro"]);
    }

    #[test]
    fn each_name_that_is_no_test_and_each_fault_without_one_is_wrong() {
        let rows = [
            ("`plan::deaths::a_plain_one`", 0),
            ("`deaths::one_in_a_macro`, and more: `svclb-core::plan::deaths::one_that_waits`", 0),
            ("`plan::deaths::tests::a_plain_one`", 0),
            ("`deaths::no_test`", 1),
            ("`deaths::a_plain`", 1),
            ("`a_plain_one`", 1),
            ("`births::a_plain_one`", 1),
            ("`tests::a_plain_one`", 1),
            ("`deaths::a_plain_one`, `deaths::b`, `deaths::c`", 2),
            ("deaths::a_plain_one", 1),
            ("", 1),
        ];
        for (tests, expected) in rows {
            let wrong = wrong("PAGE", &page(tests), &found());
            assert_eq!(wrong.len(), expected, "{tests}: {wrong:?}");
            assert!(wrong.iter().all(|it| it.contains("a, b")), "{wrong:?}");
        }
        assert_eq!(wrong("PAGE", "no table", &found()).len(), 1);
        let two = format!("{}\n{}", page("`deaths::no_test`"), page("`deaths::a_plain_one`"));
        assert_eq!(wrong("PAGE", &two, &found()).len(), 1, "a second table has a head too");
    }
}
