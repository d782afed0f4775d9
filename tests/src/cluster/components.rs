//! The paths of the cluster's programs. `cargo xtask setup --cluster` builds them; nothing is built
//! here.

use std::path::PathBuf;

/// Environment variable with the folders of the programs, in the form of PATH.
const VARIABLE: &str = "SVCLB_COMPONENTS";

/// The path of a program, such as `kube-apiserver`.
///
/// # Panics
/// If it does not exist, with what to do about it.
pub fn component(name: &str) -> PathBuf {
    let folders = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!(
            "{VARIABLE} is not set, so {name} cannot be found: run the cluster tests by `cargo xtask test`, \
             or set it to what `cargo xtask setup --cluster` prints"
        )
    });
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name));
    found.into_iter().find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("no {name} in {}: run `cargo xtask setup --cluster`", folders.display())
    })
}
