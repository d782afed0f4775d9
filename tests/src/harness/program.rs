//! The programs `svclb` and `kubectl-svclb`: named by the environment, or built once per test process; and a
//! function that starts programs.

use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::wait::{LIMIT, STEP};

/// Names the program to test.
const VARIABLE: &str = "SVCLB_BIN";

/// The program under test.
pub(crate) fn svclb() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match std::env::var_os(VARIABLE) {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{VARIABLE} names {}, which is not a file", path.display());
            path
        }
        None => build("svclb-agent", "svclb"),
    })
}

/// The plugin for kubectl: beside the program that the environment names, where `cargo xtask test` builds it.
///
/// # Panics
/// If it is not there.
pub fn kubectl_plugin() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let name = "kubectl-svclb";
        if std::env::var_os(VARIABLE).is_none() {
            return build(name, name);
        }
        let path = svclb().with_file_name(name);
        assert!(path.is_file(), "{} does not exist: build the workspace's tests", path.display());
        path
    })
}

/// Builds a program. Several test processes may do so at once: cargo locks the target folder, and the
/// later ones find everything built.
fn build(package: &str, name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", package, "--bin", name]);
    command.arg("--message-format=json-render-diagnostics").current_dir(workspace);
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| {
        panic!("cannot start cargo to build {name} ({error}): name a built svclb by {VARIABLE}")
    });
    assert!(output.status.success(), "{name} does not build, see above ({})", output.status);
    output
        .stdout
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program that it built")
}

/// Starts a program, also one that was written just before. While a child forked by another thread has
/// not reached its exec, it may hold the file open for writing, and the kernel returns ETXTBSY.
///
/// # Errors
/// The kernel's.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let start = Instant::now();
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && start.elapsed() < LIMIT =>
            {
                thread::sleep(STEP);
            }
            started => return started,
        }
    }
}
