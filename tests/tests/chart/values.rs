//! The description of the chart's values: in values.yaml, in its schema and in docs/install.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use svclb_tests::cluster::documents;

use super::helm::EVERY_VALUE;
use super::rendered::workspace;

/// A commented value of values.yaml.
struct Row {
    /// The names from the outermost one on.
    path: Vec<String>,
    comment: String,
}

/// The values with a comment right above. The others are parts of these, or groups of them.
fn rows(yaml: &str) -> Vec<Row> {
    let (mut rows, mut path, mut comment) = (Vec::new(), Vec::<String>::new(), Vec::new());
    for line in yaml.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        if let Some(text) = line.trim_start().strip_prefix("# ") {
            comment.push(text);
            continue;
        }
        if let Some((name, _)) = line.trim_start().split_once(':') {
            path.truncate(depth);
            path.push(name.to_owned());
            if !comment.is_empty() {
                rows.push(Row { path: path.clone(), comment: comment.join(" ") });
            }
        }
        comment.clear();
    }
    rows
}

#[test]
fn no_value_is_left_out_of_the_tests() {
    let yaml = fs::read_to_string(workspace().join("charts/svclb/values.yaml")).unwrap();
    let tested = &documents(EVERY_VALUE)[0];
    for Row { path, .. } in rows(&yaml) {
        assert!(tested.pointer(&format!("/{}", path.join("/"))).is_some(), "{}", path.join("."));
    }
}

#[test]
fn golden_table_of_values_in_the_manual() {
    let yaml = fs::read_to_string(workspace().join("charts/svclb/values.yaml")).unwrap();
    let values = &documents(&yaml)[0];
    let mut table = "| value | default | meaning |\n|---|---|---|\n".to_owned();
    for Row { path, comment } in rows(&yaml) {
        let default = values.pointer(&format!("/{}", path.join("/"))).unwrap();
        writeln!(table, "| `{}` | `{default}` | {comment} |", path.join(".")).unwrap();
    }
    let path = workspace().join("docs/install.md");
    let found = fs::read_to_string(&path).unwrap();
    let (head, rest) = found.split_once("<!-- values -->\n").unwrap();
    let (_, tail) = rest.split_once("<!-- end -->").unwrap();
    let expected = format!("{head}<!-- values -->\n{table}<!-- end -->{tail}");
    if std::env::var_os("SVCLB_BLESS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "`cargo xtask check --bless` writes {}", path.display());
}

#[test]
fn the_schema_describes_every_value_and_permits_no_other() {
    let chart = workspace().join("charts/svclb");
    let read = |name: &str| fs::read_to_string(chart.join(name)).unwrap();
    let yaml = read("values.yaml");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut described = BTreeMap::new();
    describe(&schema, "", &mut described);
    described.remove("global").expect("Helm passes `global` to every chart of another chart");
    let rows = rows(&yaml).into_iter().map(|row| (row.path.join("."), row.comment));
    assert_eq!(described, rows.collect::<BTreeMap<_, _>>());
}

/// The descriptions of values, by their names. A group of values has none.
fn describe(schema: &Value, name: &str, found: &mut BTreeMap<String, String>) {
    if let Some(description) = schema["description"].as_str() {
        found.insert(name.to_owned(), description.to_owned());
        return;
    }
    assert_eq!(schema["additionalProperties"], false, "{name}");
    for (part, schema) in schema["properties"].as_object().unwrap() {
        let name = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
        describe(schema, &name, found);
    }
}
