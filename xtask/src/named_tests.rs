//! Checks that each row of the tables of tests in these pages names a test, and that the named tests exist.
//!
//! The last column names a test as `place::name`. The place is the end of the test's path, which consists of
//! its crate, its binary and its modules without those called `tests`: `kube::start::NAME` is in
//! tests/tests/kube/start.rs, `plan::crashes::NAME` in svclb-core/src/plan/tests/crashes.rs.

use anyhow::{Context as _, ensure};

use crate::{shell, test};

/// The pages with these tables.
const PAGES: [&str; 4] =
    ["docs/package.md", "docs/reliability.md", "docs/security.md", "docs/upgrade.md"];

/// Compares the pages with the built tests.
///
/// # Errors
/// The tests do not build, a row names no test, or a named test does not exist: one line for each.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut tests = Vec::new();
    for binary in test::build()?.1 {
        let place = binary.place();
        tests.extend(binary.tests("")?.iter().map(|name| format!("{place}::{name}")));
    }
    let mut faults = Vec::new();
    for page in PAGES {
        let path = shell::root().join(page);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        faults.extend(faults_of(page, &text, &tests));
    }
    ensure!(
        faults.is_empty(),
        "{}\nname tests in the last column as `place::name` (xtask/src/named_tests.rs)",
        faults.join("\n")
    );
    Ok(())
}

/// Returns the faults in those tables of a page whose last column is `test`. The first row of a table is its head.
fn faults_of(page: &str, text: &str, tests: &[String]) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::new();
    let mut is_of_tests = false;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        if lines.get(at + 1).is_some_and(|next| next.starts_with("|--")) {
            is_of_tests = line.ends_with("| test |");
        } else if is_of_tests {
            rows.push(line.trim_matches('|'));
        }
    }
    if rows.is_empty() {
        return vec![format!("{page} has no table whose last column is `test`")];
    }
    let mut faults = Vec::new();
    for row in rows {
        let (first, _) = row.split_once('|').unwrap_or_default();
        let (_, last) = row.rsplit_once('|').unwrap_or_default();
        let (first, mut names) = (first.trim(), last.split('`').skip(1).step_by(2).peekable());
        if names.peek().is_none() {
            faults.push(format!("{page}: {first:?} names no test"));
        }
        let missing = names.filter(|name| !exists(name, tests));
        faults.extend(missing.map(|name| format!("{page}: {first:?}: there is no test `{name}`")));
    }
    faults
}

/// True if the path of a test ends with this place and name.
fn exists(named: &str, tests: &[String]) -> bool {
    let named = without_tests(&format!("::{named}"));
    let has_place = named.matches("::").count() > 1;
    has_place && tests.iter().any(|path| without_tests(&format!("::{path}")).ends_with(&named))
}

/// Removes the modules called `tests` from a path.
fn without_tests(path: &str) -> String {
    path.replace("::tests::", "::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(page: &str) -> Vec<String> {
        let tests = ["a_plain_one", "one_that_waits"];
        let tests = tests.map(|name| format!("svclb-core::plan::tests::deaths::{name}"));
        faults_of("PAGE", page, &tests)
    }

    fn page(tests: &str) -> String {
        format!(
            "# Faults\n\n| fault | what happens | test |\n|---|---|---|\n| a, b | `c` | {tests} |\n"
        )
    }

    #[test]
    fn each_row_without_a_test_and_each_missing_test_is_a_fault() {
        let rows = [
            ("`plan::deaths::a_plain_one`", 0),
            ("`plan::tests::deaths::a_plain_one`", 0),
            ("`deaths::a_plain_one`, and more: `svclb-core::plan::deaths::one_that_waits`", 0),
            ("`deaths::tests::a_plain_one`", 0),
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
            let faults = faults(&page(tests));
            assert_eq!(faults.len(), expected, "{tests}: {faults:?}");
            assert!(faults.iter().all(|it| it.contains("a, b")), "{faults:?}");
        }
        assert_eq!(faults("no table").len(), 1);
        let two = format!("{}\n{}", page("`deaths::no_test`"), page("`deaths::a_plain_one`"));
        assert_eq!(faults(&two).len(), 1, "a second table has a head too");
    }
}
