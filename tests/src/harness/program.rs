//! The program `svclb`: named by the environment, or built once per test process; and a function that
//! starts programs.

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
        None => build(),
    })
}

/// Builds the program. Several test processes may do so at once: cargo locks the target folder, and the
/// later ones find everything built.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "svclb-agent", "--bin", "svclb"]);
    command.arg("--message-format=json-render-diagnostics").current_dir(workspace);
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| {
        panic!("cannot start cargo to build svclb ({error}): name a built one by {VARIABLE}")
    });
    assert!(output.status.success(), "svclb does not build, see above ({})", output.status);
    output
        .stdout
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter(|message| message["target"]["name"] == "svclb")
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
