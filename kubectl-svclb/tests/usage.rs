//! The plugin as a process: its usage, and its errors where there is no kubectl.
#![expect(clippy::unwrap_used, reason = "a failure in a helper fails the test, with its reason")]

use std::process::{Command, Output};

fn plugin(arguments: &[&str], path: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-svclb"));
    command.args(arguments).env("PATH", path).output().unwrap()
}

#[test]
fn exit_codes_are_0_for_help_1_without_kubectl_and_2_for_a_command_line_that_cannot_be_used() {
    let rows = [
        (0, &["--help"][..], "Usage: kubectl svclb [OPTIONS] <COMMAND>..."),
        (0, &["--version"], "kubectl-svclb 0.1.0"),
        (1, &["services"], "cannot start kubectl: is it installed, in a folder of PATH?"),
        (2, &[], "<COMMAND>"),
        (2, &["--node", "a", "--pod", "b", "services"], "cannot be used with"),
    ];
    for (code, arguments, expected) in rows {
        let output = plugin(arguments, "/nonexistent");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let stream = if code == 0 { &output.stdout } else { &output.stderr };
        let text = String::from_utf8_lossy(stream);
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
