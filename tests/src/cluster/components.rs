//! Where the cluster's programs are. `cargo xtask setup --cluster` builds them; nothing is built here.

use std::path::PathBuf;

/// Names the folders with the programs, as PATH does.
const VARIABLE: &str = "SVCLB_COMPONENTS";

/// A program, such as `kube-apiserver`.
///
/// # Panics
/// When it is not there: with what to do.
pub fn component(name: &str) -> PathBuf {
    let folders = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!(
            "{VARIABLE} does not say where {name} is: run the cluster tests by `cargo xtask test`, \
             or set it to what `cargo xtask setup --cluster` prints"
        )
    });
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name));
    found.into_iter().find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("no {name} in {}: run `cargo xtask setup --cluster`", folders.display())
    })
}
