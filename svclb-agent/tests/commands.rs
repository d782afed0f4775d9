//! The program's commands as a process, where nothing is installed: none of them needs root.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails in them fails the test, with its reason"
)]

use std::path::Path;
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
fn exit_codes_are_those_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man");
    let [pages, file] = [&pages, Path::new("/dev/null")].map(|path| path.to_str().unwrap());
    let rows: [(i32, &[&str]); 32] = [
        (0, &["--help"]),
        (0, &["--version"]),
        (0, &["help", "agent"]),
        (0, &["completions", "fish"]),
        (0, &["man", pages]),
        (0, &["schema"]),
        (0, &["schema", "status"]),
        (0, &["schema", "agent-configuration"]),
        (0, &["config", "--", "agent", "--node", "here"]),
        (0, &["uninstall", "--pins", NOTHING]),
        (1, &["agent", "--cgroup", NOTHING]),
        (1, &["agent", "--config", NOTHING]),
        (1, &["config", "--pins", NOTHING]),
        (1, &["services", "--pins", NOTHING]),
        (1, &["backends", "--pins", NOTHING]),
        (1, &["sockets", "--pins", NOTHING]),
        (1, &["status", "--pins", NOTHING]),
        (1, &["status", "--ready", "--pins", NOTHING]),
        (1, &["check", "--pins", NOTHING]),
        (1, &["mount-bpffs", NOTHING]),
        (1, &["man", file]),
        (2, &[]),
        (2, &["nothing"]),
        (2, &["agent", "--nothing"]),
        (2, &["services", "-o", "nothing"]),
        (2, &["status", "-o", "name"]),
        (2, &["check", "more"]),
        (2, &["mount-bpffs", "/", "more"]),
        (2, &["completions"]),
        (2, &["config", "--", "--nothing"]),
        (2, &["man"]),
        (2, &["schema", "agent"]),
    ];
    for (code, arguments) in rows {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        // Only a terminal gets colours.
        assert!(!(stdout + &stderr).contains('\u{1b}'), "{arguments:?}: {stderr}");
        let is_explained = match code {
            0 => stderr.is_empty(),
            // The agent has a log before its error.
            1 => stderr.lines().last().unwrap().starts_with("svclb: "),
            _ => stderr.contains("Usage: svclb") || stderr.contains("--help"),
        };
        assert!(is_explained, "{arguments:?}: {stderr}");
    }
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
