//! Finds a Go compiler for the cluster's components. If the machine has no recent one, an older Go, which is
//! installed if necessary, fetches a recent one: Go publishes its releases as a module too.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::shell;

/// The distribution's package. Any version can fetch modules.
pub(super) const PACKAGE: &str = "golang-go";
/// Customary path of a Go that was unpacked from an archive; PATH may lack its folder.
const CUSTOM: &str = "/usr/local/go/bin/go";
/// Advice for machines on which Go can be neither fetched nor installed.
const ADVICE: &str = "install Go (any release from 1.19 on, such as Debian's package golang-go) and \
    let it reach its module proxy, or unpack a recent release of Go at /usr/local/go";

/// A release of Go. The last number is missing for a prerelease.
type Release = (u32, u32, Option<u32>);

/// Returns a Go that can build modules for this version, such as `1.26.0`.
///
/// # Errors
/// There is none, and none can be fetched: the error has advice.
pub(super) fn find(wanted: &str) -> anyhow::Result<PathBuf> {
    let least = release(wanted).with_context(|| format!("{wanted:?} is no version of Go"))?;
    let found = installed();
    if let Some(go) = found.iter().find(|go| version(go).is_some_and(|found| found >= least)) {
        return Ok(go.clone());
    }
    let any = match found.into_iter().next() {
        Some(go) => go,
        None => {
            crate::setup::install(&[PACKAGE]).context(ADVICE)?;
            installed().into_iter().next().context(ADVICE)?
        }
    };
    fetch(&any, wanted).context(ADVICE)
}

fn installed() -> Vec<PathBuf> {
    let custom = PathBuf::from(CUSTOM);
    shell::find("go").into_iter().chain(custom.is_file().then_some(custom)).collect()
}

/// Returns the release of this Go.
fn version(go: &Path) -> Option<Release> {
    let output = local(go).args(["env", "GOVERSION"]).output().ok()?;
    release(String::from_utf8_lossy(&output.stdout).trim().strip_prefix("go")?)
}

/// Parses a version.
fn release(version: &str) -> Option<Release> {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
    let mut numbers = version.splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let (minor, rest) = minor.split_at(digits(minor));
    let patch = match numbers.next() {
        // A suffix of the builder, as in `1.26.8-company`, is ignored.
        Some(patch) => Some(patch[..digits(patch)].parse().ok()?),
        None if rest.is_empty() => Some(0),
        // A prerelease, such as `1.27rc1`.
        None => None,
    };
    Some((major, minor.parse().ok()?, patch))
}

/// Returns a command that runs this Go, which must not switch to another release by itself.
pub(super) fn local(go: &Path) -> Command {
    let mut command = shell::command(go);
    command.env("GOTOOLCHAIN", "local").env("GOWORK", "off").env("CGO_ENABLED", "0");
    // The user's variable may belong to another Go.
    command.env_remove("GOROOT");
    command
}

/// Fetches a Go by an older one, which compares it with Go's checksum database.
fn fetch(go: &Path, wanted: &str) -> anyhow::Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Go's name for the architecture {other} is not known"),
    };
    shell::log(&format!("fetching Go {wanted}"));
    let module = format!("golang.org/toolchain@v0.0.1-go{wanted}.linux-{arch}");
    let mut download = local(go);
    download.args(["mod", "download", "-json", &module]);
    let output = download.output().with_context(|| shell::cannot_start(&download))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` failed: {text}{errors}", shell::command_line(&download));
    }
    let module: serde_json::Value = serde_json::from_str(&text).context("Go printed no JSON")?;
    let folder = module["Dir"].as_str().context("Go printed no folder of the module")?;
    let folder = PathBuf::from(folder);
    // Files of modules are not executable.
    make_executable(&folder.join("bin"))?;
    for tools in std::fs::read_dir(folder.join("pkg/tool"))? {
        make_executable(&tools?.path())?;
    }
    Ok(folder.join("bin/go"))
}

fn make_executable(folder: &Path) -> anyhow::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_a_version() {
        let rows = [
            ("1.26.0", Some((1, 26, Some(0)))),
            ("1.19.8", Some((1, 19, Some(8)))),
            ("1.26.8-company", Some((1, 26, Some(8)))),
            ("1.26.8 X:experiment", Some((1, 26, Some(8)))),
            ("1.27rc1", Some((1, 27, None))),
            ("1.27-devel_abc", Some((1, 27, None))),
            ("1.26", Some((1, 26, Some(0)))),
            ("1.26.x", None),
            ("devel", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(release(text), expected, "{text}");
        }
    }

    #[test]
    fn a_go_is_recent_enough_to_the_last_number() {
        let ascending = ["1.25.9", "1.26rc2", "1.26.0", "1.26.2", "1.26.10", "1.27rc1", "2.0.0"];
        assert!(ascending.is_sorted_by_key(|version| release(version).unwrap()));
        for (found, wanted) in [("1.26.1", "1.26.2"), ("1.26rc2", "1.26.0")] {
            assert!(release(found).unwrap() < release(wanted).unwrap(), "{found}");
        }
    }
}
