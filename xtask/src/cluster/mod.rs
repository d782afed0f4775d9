//! `cargo xtask setup --cluster`: the components of a real cluster for the tests, built once into the
//! user's cache, or taken from where somebody has them ready.

mod go;
mod module;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{setup, shell};
use module::{MODULES, Pinned, Program};

/// Tells tests where the components are.
pub(crate) const VARIABLE: &str = "SVCLB_COMPONENTS";
/// A folder with components that are ready, as controller-runtime's tests take them.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Builds what is missing, and says in which folders all of it is, as PATH does: one for each module
/// as it is pinned, and last the one with what was ready.
///
/// # Errors
/// Something cannot be built or installed: with what to do.
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
            missing = not_ready(missing, assets, &module.version)?;
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

/// The programs that a folder of the cache lacks. Each comes there whole, by a new name.
fn missing<'a>(folder: &Path, programs: impl IntoIterator<Item = &'a Program>) -> Vec<&'a Program> {
    programs.into_iter().filter(|program| !folder.join(program.name).is_file()).collect()
}

/// Builds programs into a folder of the cache, one run of this at a time.
fn build(module: &Pinned, programs: &[&Program], folder: &Path) -> anyhow::Result<()> {
    let _lock = lock(folder)?;
    // Who had the lock before may have built them.
    let missing = missing(folder, programs.iter().copied());
    if missing.is_empty() {
        return Ok(());
    }
    module.build(&go::find(&module.go)?, &missing, folder)
}

/// Makes a folder, and holds it against other runs until the file is closed.
pub(crate) fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        shell::say(&format!("another run builds into {}: waiting for it", folder.display()));
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The user's cache of this project.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = named.filter(|path| path.is_absolute()).or_else(home);
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME says where files can be kept")?.join("svclb"))
}

/// Those of the programs that `assets` lacks in this version. It is asked anew each time: what is there
/// may be replaced.
fn not_ready<'a>(
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
        let mut ask = shell::command(&path);
        ask.arg("--version");
        let output = ask.output().with_context(|| shell::cannot_start(&ask))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.lines().next().unwrap_or_default();
        if !says(said, version) {
            shell::say(&format!(
                "{} says it is {said:?}: {version} is wanted, so it is built",
                path.display()
            ));
            lacking.push(program);
        }
    }
    Ok(lacking)
}

/// Whether a word of the line is this version, with or without its `v`.
fn says(line: &str, version: &str) -> bool {
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
    fn a_ready_program_is_taken_only_in_the_version_that_is_pinned() {
        let rows = [
            ("kube-apiserver", "Kubernetes v1.37.2", "v1.37.2", true),
            ("etcd", "etcd Version: 3.7.3", "v3.7.3", true),
            ("coredns", "CoreDNS-1.15.0", "v1.15.0", true),
            ("older", "Kubernetes v1.37.1", "v1.37.2", false),
            ("longer", "Kubernetes v1.37.21", "v1.37.2", false),
            ("not yet released", "Kubernetes v1.37.2-rc.0", "v1.37.2", false),
            ("somebody else's", "Kubernetes v1.37.2+company.1", "v1.37.2", false),
            ("nothing", "", "v1.37.2", false),
        ];
        for (row, line, version, expected) in rows {
            assert_eq!(says(line, version), expected, "{row}");
        }
    }

    /// A folder that goes with the test.
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
    fn what_is_ready_is_asked_for_its_version_each_time() {
        let folder = Folder::make("ready");
        let ready = folder.0.join("etcd");
        let put = |version: &str| {
            fs::write(&ready, format!("#!/bin/sh\necho etcd Version: {version}\n")).unwrap();
            fs::set_permissions(&ready, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let programs = ["etcd", "coredns"].map(|name| Program { name, package: "" });
        let lacking = || {
            let lacking = not_ready(programs.iter().collect(), &folder.0, "v3.7.3").unwrap();
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
            // If nothing held it back it would look now.
            std::thread::sleep(std::time::Duration::from_millis(100));
            fs::write(inside.join("etcd"), "").unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), 0);
        });
    }
}
