//! Tests in a process of their own, whose limits they use up.

use std::process::Command;

/// Returns true in a process that may open few files and has a user namespace and a mount namespace of its own.
/// In any other, runs this test of the module in such a process. (A process with threads, as this one, can
/// enter no user namespace.)
pub(super) fn is_alone(module: &str, test: &str) -> bool {
    if std::env::var_os("SVCLB_ALONE").is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").unwrap();
    let script = r#"ulimit -n 64 && exec unshare --user --map-root-user --mount "$0" --exact "$1""#;
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program).arg(format!("{module}::{test}"));
    let output = command.env("SVCLB_ALONE", "").output().unwrap();
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && printed[0].contains("1 passed"), "{}", printed.concat());
    false
}
