//! Compares generated files of the repository with what the code generates.

use std::fs;
use std::path::Path;

/// Asserts that a file, whose path begins at the root of the repository, has this text; `cargo xtask check
/// --bless` writes it instead.
pub(super) fn assert_golden(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("SVCLB_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(found, expected, "`cargo xtask check --bless` writes {path}");
}
