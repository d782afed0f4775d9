//! Records the kernels on which all tests passed: docs/kernels.json, which a run of `cargo xtask vm` without
//! a filter writes, and the README's table, which is generated from it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use super::Report;
use super::kernel;
use crate::shell;

const BEGIN: &str = "<!-- made of docs/kernels.json by `cargo xtask vm` -->\n";
const END: &str = "<!-- end -->";

fn path() -> PathBuf {
    shell::root().join("docs/kernels.json")
}

fn readme() -> PathBuf {
    shell::root().join("README.md")
}

/// Records the kernels on which all tests passed, keeps the entries of other kernels, and updates the
/// README's table.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn write(reports: &[Report]) -> anyhow::Result<()> {
    let old = if path().exists() { read()? } else { Map::new() };
    let mut new = Map::new();
    for series in &kernel::ALL {
        let passed = |report: &&Report| report.series == series && report.counts().failed == 0;
        let entry = reports.iter().find(passed).map(entry);
        let entry = entry.or_else(|| old.get(series.name).cloned());
        new.extend(entry.map(|entry| (series.name.to_owned(), entry)));
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&new)?);
    fs::write(path(), text).with_context(|| format!("cannot write {}", path().display()))?;
    shell::log("docs/kernels.json is written");
    check(true)
}

fn entry(report: &Report) -> Value {
    json!({
        "architecture": report.series.arch.name(),
        "package": report.version,
        "release": report.console.release,
        "features": features(report),
        "passed": report.counts().passed,
    })
}

fn features(report: &Report) -> Value {
    let features = report.console.features.iter();
    Value::Object(features.map(|(name, there)| (name.clone(), json!(there))).collect())
}

fn read() -> anyhow::Result<Map<String, Value>> {
    let text = fs::read_to_string(path())
        .with_context(|| format!("cannot read {}: run `cargo xtask vm`", path().display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is malformed", path().display()))
}

/// Compares the features of kernels with the record. Versions are not compared, as mirrors update packages.
///
/// # Errors
/// The features of a kernel differ.
pub(super) fn compare(reports: &[Report]) -> anyhow::Result<()> {
    let record = read()?;
    for report in reports {
        let (name, found) = (report.series.name, features(report));
        let recorded = record.get(name).map(|entry| &entry["features"]);
        ensure!(
            recorded == Some(&found),
            "kernel {name} has {found}, but docs/kernels.json has {}: run `cargo xtask vm`",
            recorded.unwrap_or(&Value::Null)
        );
    }
    Ok(())
}

/// Checks that the README's table agrees with the record, or updates it if `bless`.
///
/// # Errors
/// The table differs, the record lacks a kernel, or a file cannot be read or written.
pub(crate) fn check(bless: bool) -> anyhow::Result<()> {
    let (readme, record) = (readme(), read()?);
    for series in &kernel::ALL {
        ensure!(
            record.contains_key(series.name),
            "docs/kernels.json lacks kernel {}: run `cargo xtask vm`",
            series.name
        );
    }
    let text = fs::read_to_string(&readme)?;
    let wanted = with_table(&text, &table(&record))
        .with_context(|| format!("the README has no table between {BEGIN:?} and {END:?}"))?;
    if wanted == text {
        return Ok(());
    }
    if !bless {
        bail!(
            "the README's kernels differ from docs/kernels.json: run `cargo xtask check --bless`"
        );
    }
    fs::write(&readme, wanted).with_context(|| format!("cannot write {}", readme.display()))
}

/// Replaces the table between the marks.
fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn table(record: &Map<String, Value>) -> String {
    let mut table =
        "| kernel | | a refused UDP call | node ports on loopback | MPTCP | tests passed |\n\
         |---|---|---|---|---|---|\n"
            .to_owned();
    for entry in record.values() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let has = |name: &str| entry["features"][name] == json!(true);
        let udp = if has("set_retval") { "ECONNREFUSED" } else { "EPERM" };
        let loopback = if has("netns_cookie") { "yes" } else { "in the first namespace" };
        let mptcp = if has("mptcp") { "yes" } else { "none in this kernel" };
        let arch = text("architecture");
        table.push_str(&format!(
            "| {} | {arch} | {udp} | {loopback} | {mptcp} | {} |\n",
            text("package"),
            entry["passed"]
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_between_its_marks() {
        let record = json!({
            "5.10": {
                "architecture": "amd64",
                "package": "5.10.262-1",
                "features": { "set_retval": false, "mptcp": false },
                "passed": 61,
            },
        });
        let table = table(record.as_object().unwrap());
        let row =
            "| 5.10.262-1 | amd64 | EPERM | in the first namespace | none in this kernel | 61 |\n";
        assert!(table.ends_with(row), "{table}");
        let text = format!("before\n{BEGIN}old\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}{table}{END}\nafter\n");
        assert_eq!(with_table(&text, &table), Some(expected.clone()));
        assert_eq!(with_table(&expected, &table), Some(expected));
        assert_eq!(with_table("nothing", &table), None);
    }
}
