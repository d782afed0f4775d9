//! `cargo xtask setup --cluster` provides the components of a real cluster for the tests. It builds them once
//! into the user's cache, or uses installed ones of the pinned versions.

mod go;
mod module;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{setup, shell};
use module::{MODULES, Pinned, Program};

/// Variable with the folders of the components.
pub(crate) const VARIABLE: &str = "SVCLB_COMPONENTS";
/// Variable with a folder of installed components, which the tests of controller-runtime use too.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Builds the components that are missing, and returns the folders of all of them in the format of PATH: one
/// for each pinned module, then the one with installed components.
///
/// # Errors
/// Something cannot be built or installed: the error has advice.
pub(crate) fn ensure() -> anyhow::Result<OsString> {
    setup::ensure(setup::Need::Cluster)?;
    let cache = cache()?.join("components");
    let assets = std::env::var_os(ASSETS).and_then(|folder| fs::canonicalize(folder).ok());
    let mut folders = Vec::new();
    let mut uses_assets = false;
    for module in &MODULES {
        let module = module.pinned()?;
        let folder = cache.join(module.key());
        let mut missing = missing(&folder, module.programs());
        if let Some(assets) = &assets {
            let before = missing.len();
            missing = not_installed(missing, assets, &module.version)?;
            uses_assets |= missing.len() < before;
        }
        if !missing.is_empty() {
            build(&module, &missing, &folder)?;
        }
        folders.push(folder);
    }
    folders.extend(assets.filter(|_| uses_assets));
    std::env::join_paths(&folders).context(
        "the name of a folder with components has a colon (of the cache, or KUBEBUILDER_ASSETS)",
    )
}

/// Returns the programs that a folder of the cache lacks. It has no incomplete ones.
fn missing<'a>(folder: &Path, programs: impl IntoIterator<Item = &'a Program>) -> Vec<&'a Program> {
    programs.into_iter().filter(|program| !folder.join(program.name).is_file()).collect()
}

/// Builds programs into a folder of the cache, which is locked meanwhile.
fn build(module: &Pinned, programs: &[&Program], folder: &Path) -> anyhow::Result<()> {
    let _lock = lock(folder)?;
    // Another process may have built them before it released the lock.
    let missing = missing(folder, programs.iter().copied());
    if missing.is_empty() {
        return Ok(());
    }
    module.build(&go::find(&module.go)?, &missing, folder)
}

/// Makes a folder, and locks it against other processes until the returned file is closed.
pub(crate) fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        shell::log(&format!("another process builds into {}: waiting for it", folder.display()));
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The user's cache of this project.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = named.filter(|path| path.is_absolute()).or_else(home);
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("svclb"))
}

/// Returns the programs that `assets` lacks in this version. Versions are checked each time, as the programs
/// may be replaced at any time.
fn not_installed<'a>(
    programs: Vec<&'a Program>,
    assets: &Path,
    version: &str,
) -> anyhow::Result<Vec<&'a Program>> {
    let mut lacking = Vec::new();
    for program in programs {
        let path = assets.join(program.name);
        if !path.is_file() {
            lacking.push(program);
            continue;
        }
        let mut command = shell::command(&path);
        command.arg("--version");
        let output = command.output().with_context(|| shell::cannot_start(&command))?;
        let output = String::from_utf8_lossy(&output.stdout);
        let line = output.lines().next().unwrap_or_default();
        if !has_version(line, version) {
            shell::log(&format!(
                "{} is {line:?} instead of {version}: building that",
                path.display()
            ));
            lacking.push(program);
        }
    }
    Ok(lacking)
}

/// True if a word of the line is this version, with or without its `v`.
fn has_version(line: &str, version: &str) -> bool {
    let number = |word: &str| {
        let word = word.strip_prefix("CoreDNS-").unwrap_or(word);
        word.strip_prefix('v').unwrap_or(word).to_owned()
    };
    line.split_whitespace().any(|word| number(word) == number(version))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_installed_program_is_used_only_in_the_pinned_version() {
        let rows = [
            ("kube-apiserver", "Kubernetes v1.37.2", "v1.37.2", true),
            ("etcd", "etcd Version: 3.7.3", "v3.7.3", true),
            ("coredns", "CoreDNS-1.15.0", "v1.15.0", true),
            ("older", "Kubernetes v1.37.1", "v1.37.2", false),
            ("longer", "Kubernetes v1.37.21", "v1.37.2", false),
            ("not yet released", "Kubernetes v1.37.2-rc.0", "v1.37.2", false),
            ("modified", "Kubernetes v1.37.2+company.1", "v1.37.2", false),
            ("nothing", "", "v1.37.2", false),
        ];
        for (row, line, version, expected) in rows {
            assert_eq!(has_version(line, version), expected, "{row}");
        }
    }

    /// A folder that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn make(name: &str) -> Self {
            let name = format!("svclb-xtask-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_versions_of_installed_programs_are_checked_each_time() {
        let folder = Folder::make("ready");
        let ready = folder.0.join("etcd");
        let put = |version: &str| {
            fs::write(&ready, format!("#!/bin/sh\necho etcd Version: {version}\n")).unwrap();
            fs::set_permissions(&ready, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let programs = ["etcd", "coredns"].map(|name| Program { name, package: "" });
        let lacking = || {
            let lacking = not_installed(programs.iter().collect(), &folder.0, "v3.7.3").unwrap();
            lacking.iter().map(|program| program.name).collect::<Vec<_>>()
        };
        put("3.7.3");
        assert_eq!(lacking(), ["coredns"]);
        put("3.7.4");
        assert_eq!(lacking(), ["etcd", "coredns"]);
    }

    #[test]
    fn a_second_run_waits_for_the_first_one_and_finds_what_it_built() {
        let folder = Folder::make("lock");
        let inside = folder.0.join("new");
        let program = Program { name: "etcd", package: "" };
        let first = lock(&inside).unwrap();
        assert_eq!(missing(&inside, [&program]).len(), 1);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let _lock = lock(&inside).unwrap();
                missing(&inside, [&program]).len()
            });
            // Without the lock, the second one would look before the file is written.
            std::thread::sleep(std::time::Duration::from_millis(100));
            fs::write(inside.join("etcd"), "").unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), 0);
        });
    }
}
