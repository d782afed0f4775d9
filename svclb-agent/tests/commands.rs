//! The program's commands as a process, where nothing is installed: none of them needs root.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails in them fails the test, with its reason"
)]

use std::process::{Command, Output};

use serde_json::Value;

/// A path at which there is nothing.
const NOTHING: &str = "/nonexistent/svclb";

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svclb")).args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_check_of_nothing_conforms_to_its_schema_and_has_names() {
    let json = run(&["check", "--pins", NOTHING, "-o", "json"]);
    let findings: Value = serde_json::from_slice(&json.stdout).unwrap();
    let schema = run(&["schema", "check"]);
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&findings).map(|error| error.to_string()).collect();
    assert_eq!(faults, [""; 0], "{findings:#}");
    let names = text(&run(&["check", "--pins", NOTHING, "-o", "name"]).stdout);
    assert_eq!(names.lines().count(), findings.as_array().unwrap().len(), "{names}");
    assert!(names.lines().any(|name| name == "kernel"), "{names}");
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let script = text(&run(&["completions", "bash"]).stdout);
    let rows = [
        ("a command", "svclb ser", "services"),
        ("a flag", "svclb agent --node-p", "--node-port-addresses"),
        ("values", "svclb services -o ", "table wide json yaml name"),
        ("values without names", "svclb status -o ", "table wide json yaml"),
    ];
    for (row, line, expected) in rows {
        // The words before the cursor, as bash hands them on: the command, the current word, the previous one.
        let words: Vec<&str> = line.split(' ').collect();
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let [.., previous, current] = &quoted[..] else { unreachable!("two words at least") };
        let call = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _svclb svclb {current} {previous}; echo \"${{COMPREPLY[*]}}\"",
            quoted.join(" "),
            words.len() - 1,
        );
        let output = Command::new("bash").args(["--norc", "-c", &call]).output().unwrap();
        assert_eq!(text(&output.stdout).trim(), expected, "{row}: {}", text(&output.stderr));
    }
}
