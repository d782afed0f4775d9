//! Fetches the kernels for guests: packages of Debian from the mirror that the machine's apt uses. Each is
//! fetched once, by apt with separate folders, so that the machine's own lists and packages do not change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::program::Arch;
use crate::{cluster, shell};

/// A series of kernels for an architecture.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// Its name: the first numbers of its versions or `newest`, and the architecture if it is not amd64.
    pub(crate) name: &'static str,
    /// The architecture.
    pub(crate) arch: Arch,
    /// The suites that have it, in Debian's archive or (`-security`) in its security archive.
    suites: &'static [&'static str],
    /// Prefix of its versions.
    version: &'static str,
}

/// The series on which svclb is tested, the oldest first.
pub(crate) const ALL: [Series; 5] = [
    series("5.10", Arch::Amd64, &["bullseye-security"], "5.10."),
    series("6.1", Arch::Amd64, &["bookworm", "bookworm-security"], "6.1."),
    series("6.12", Arch::Amd64, &["trixie", "trixie-security"], "6.12."),
    series("newest", Arch::Amd64, &["sid"], ""),
    series("6.12-arm64", Arch::Arm64, &["trixie", "trixie-security"], "6.12."),
];

const fn series(
    name: &'static str,
    arch: Arch,
    suites: &'static [&'static str],
    version: &'static str,
) -> Series {
    Series { name, arch, suites, version }
}

/// Returns the series with this name.
///
/// # Errors
/// There is none.
pub(crate) fn named(name: &str) -> Result<&'static Series, String> {
    let names = ALL.map(|series| series.name).join(", ");
    let found = ALL.iter().find(|series| series.name == name);
    found.ok_or_else(|| format!("expected one of {names}"))
}

/// Modules that the tests use. A kernel may have them built in, or lack them. Modules on which these depend
/// are added.
const MODULES: [&str; 3] = ["veth", "l2tp_netlink", "smc"];
/// Name of the file that lists the modules for which a kernel was fetched.
const FETCHED_FOR: &str = "fetched-for";
/// Prefixes of packages: of kernels in one package, and of those (7.0 and later) with separate modules.
const WHOLE: &str = "linux-image-";
const IN_PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// A kernel in the cache.
#[derive(Debug)]
pub(super) struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// The file that QEMU boots.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// True if it was fetched completely, for the current list of modules.
    fn is_whole(&self) -> bool {
        let wanted = fs::read_to_string(self.folder.join(FETCHED_FOR));
        self.image().is_file() && wanted.is_ok_and(|wanted| wanted == MODULES.join(" "))
    }

    /// Returns the version of its package.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        let path = self.folder.join("version");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Returns its modules in the order of their names, which is that of loading.
    pub(super) fn modules(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.folder.join("modules"))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    }
}

/// Returns the kernel of this series in the cache. Fetches it if there is none, or if `update`.
///
/// # Errors
/// It cannot be fetched: the error has advice.
pub(super) fn find(series: &Series, update: bool) -> anyhow::Result<Kernel> {
    let arch = series.arch;
    let cache = cluster::cache()?.join("kernels").join(arch.name());
    let kernel = Kernel { folder: cache.join(series.name) };
    let _lock = cluster::lock(&cache)?;
    if update || !kernel.is_whole() {
        let what = format!("fetching a kernel {} ({})", series.name, arch.name());
        shell::log(&what);
        fetch(series, &cache, &kernel.folder).with_context(|| {
            format!("{what}: it needs apt and a mirror of Debian in its configuration")
        })?;
    }
    Ok(kernel)
}

fn fetch(series: &Series, cache: &Path, to: &Path) -> anyhow::Result<()> {
    let apt = Apt::new(cache.join(format!("{}.apt", series.name)), series.arch, series.suites)?;
    let names = apt.output("apt-cache", &["pkgnames", "linux-"])?;
    let release = newest(&names, series.version, series.arch.name())
        .with_context(|| format!("no kernel {} in {}", series.name, series.suites.join(", ")))?;
    let has = |package: &str| names.lines().any(|name| name == package);
    let parts = IN_PARTS.map(|part| format!("{part}{release}"));
    let packages = match parts.iter().all(|part| has(part)) {
        true => parts.to_vec(),
        false => vec![format!("{WHOLE}{release}")],
    };
    let unpacked = apt.folder.join("unpacked");
    let version = apt.unpack(&packages, &unpacked)?;

    // It gets its name only when it is complete.
    let new = cache.join(format!("{}.new", series.name));
    remove(&new)?;
    fs::create_dir_all(new.join("modules"))?;
    let modules = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")]
        .map(|folder| folder.join(&release));
    let image = [unpacked.join(format!("boot/vmlinuz-{release}")), modules[1].join("vmlinuz")];
    let image = image.iter().find(|path| path.is_file()).context("the package has no vmlinuz")?;
    fs::copy(image, new.join("vmlinuz"))?;
    let modules = modules.iter().find(|path| path.join("kernel").is_dir());
    let modules = modules.context("the package has no modules")?;
    let mut found = Vec::new();
    for name in MODULES {
        collect(&modules.join("kernel"), name, &mut found)?;
    }
    for (place, (name, content)) in found.iter().enumerate() {
        fs::write(new.join(format!("modules/{place:02}-{name}.ko")), content)?;
    }
    fs::write(new.join("version"), version)?;
    fs::write(new.join(FETCHED_FOR), MODULES.join(" "))?;
    remove(to)?;
    fs::rename(new, to)?;
    remove(&apt.folder)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Adds a module after those on which it depends, which must be loaded first.
fn collect(folder: &Path, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    if found.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let Some(content) = module(folder, name)? else { return Ok(()) };
    for needed in dependencies(&content) {
        collect(folder, &needed, found)?;
    }
    found.push((name.to_owned(), content));
    Ok(())
}

/// Returns the names of the modules on which a module depends, from its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let at = module.windows(FIELD.len()).position(|bytes| bytes == FIELD);
    let names = at.and_then(|at| module[at + FIELD.len()..].split(|byte| *byte == 0).next());
    let names = String::from_utf8_lossy(names.unwrap_or_default());
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns the content of a module, if the kernel has one with this name.
fn module(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let mut find = shell::command("find");
    find.arg(folder).args(["-name", &format!("{name}.ko*")]);
    let found = shell::text(&mut find)?;
    let Some(path) = found.lines().next() else { return Ok(None) };
    let mut decompress = match path.rsplit_once('.') {
        Some((_, "xz")) => shell::command("xz"),
        Some((_, "ko")) => return Ok(Some(fs::read(path)?)),
        _ => bail!("{path} has an unsupported compression"),
    };
    decompress.args(["--decompress", "--stdout", path]);
    Ok(Some(shell::output(&mut decompress)?))
}

/// Returns the newest release among names of packages, such as `6.1.0-50-cloud-amd64`.
fn newest(names: &str, version: &str, debian: &str) -> Option<String> {
    let releases = names.lines().filter_map(|name| {
        let release = name.strip_prefix(IN_PARTS[0]).or_else(|| name.strip_prefix(WHOLE))?;
        let is_candidate = release.starts_with(version)
            && release.starts_with(|c: char| c.is_ascii_digit())
            && release.ends_with(&format!("-cloud-{debian}"))
            && release.contains('.')
            // Names such as 6.1-cloud-amd64 belong to packages without content.
            && release.split('-').next()?.matches('.').count() >= 2;
        is_candidate.then_some(release)
    });
    releases.max_by_key(|release| numbers(release)).map(str::to_owned)
}

/// Returns the numbers in a version, for comparisons.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// apt with separate folders.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Fetches the package lists of these suites.
    fn new(folder: PathBuf, arch: Arch, suites: &[&str]) -> anyhow::Result<Self> {
        let mirrors = Mirrors::find()?;
        let path = |name: &str| folder.join(name).display().to_string();
        for name in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let lines: Vec<String> = suites.iter().map(|suite| mirrors.source(suite)).collect();
        fs::write(folder.join("sources.list"), lines.concat())?;
        fs::write(folder.join("status"), "")?;
        let debian = arch.name();
        let options = [
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", path("parts")),
            ("APT::Architecture", debian.to_owned()),
            ("APT::Architectures", debian.to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
            // Other users, such as apt's own, may have no access to the folder.
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        let options = options.map(|(name, value)| format!("{name}={value}"));
        let apt = Self { folder, options: options.to_vec() };
        apt.output("apt-get", &["update"])?;
        Ok(apt)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        ensure!(shell::find(program).is_some(), "this system has no {program}");
        let mut command = shell::command(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.args(arguments);
        Ok(command)
    }

    fn output(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        shell::text(&mut self.command(program, arguments)?)
    }

    /// Downloads and unpacks packages, and returns the version of the first.
    fn unpack(&self, packages: &[String], to: &Path) -> anyhow::Result<String> {
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        let mut download = self.command("apt-get", &[&["download"], &names[..]].concat())?;
        download.current_dir(&self.folder);
        shell::output(&mut download)?;
        let mut version = None;
        for package in packages {
            let file = fs::read_dir(&self.folder)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| name(path).starts_with(&format!("{package}_")))
                .with_context(|| format!("apt downloaded no {package}"))?;
            let mut unpack = shell::command("dpkg-deb");
            unpack.arg("--extract").arg(&file).arg(to);
            shell::output(&mut unpack)?;
            version = version.or_else(|| name(&file).split('_').nth(1).map(str::to_owned));
        }
        version.context("a package's file has no version in its name")
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The URLs of Debian's archives in the configuration of apt, each with the option for its keys.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    archive: (String, String),
    security: (String, String),
}

impl Mirrors {
    fn find() -> anyhow::Result<Self> {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |line: &str| Some(line.strip_prefix("VERSION_CODENAME=")?.to_owned());
        let codename = system.lines().find_map(field).unwrap_or_default();
        let mut targets = shell::command("apt-get");
        targets.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI) $(SIGNED_BY)"]);
        let targets = shell::text(&mut targets)?;
        Self::parse(&targets, codename.trim_matches('"')).with_context(|| {
            format!(
                "apt's configuration has no mirror of Debian's {codename:?} and its security suite: \
                 this works on Debian, with both among apt's sources"
            )
        })
    }

    fn parse(targets: &str, codename: &str) -> Option<Self> {
        let find = |suite: &str| {
            let mut fields =
                targets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let fields = fields.find(|fields| fields.first() == Some(&suite))?;
            // The field may also be a key itself. Then the keys of apt have to do.
            let keys = fields.get(2).filter(|path| path.starts_with('/'));
            let keys = keys.map_or(String::new(), |path| format!("[signed-by={path}] "));
            Some(((*fields.get(1)?).to_owned(), keys))
        };
        Some(Self { archive: find(codename)?, security: find(&format!("{codename}-security"))? })
    }

    /// Returns a line of sources.list(5).
    fn source(&self, suite: &str) -> String {
        let (mirror, keys) = match suite.ends_with("-security") {
            true => &self.security,
            false => &self.archive,
        };
        format!("deb {keys}{mirror} {suite} main\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_for_virtual_machines_is_taken() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-50-cloud-amd64\n\
                     linux-image-6.1.0-51-cloud-amd64-unsigned\nlinux-image-6.1-cloud-amd64\n\
                     linux-image-6.1.0-52-amd64\nlinux-image-5.10.0-46-cloud-amd64\n\
                     linux-image-cloud-amd64\nlinux-binary-7.2.13+deb14-cloud-amd64\n\
                     linux-binary-unsigned-7.2.14+deb14-cloud-amd64\n";
        let rows = [
            ("5.10.", Some("5.10.0-46-cloud-amd64")),
            ("6.1.", Some("6.1.0-50-cloud-amd64")),
            ("", Some("7.2.13+deb14-cloud-amd64")),
            ("6.12.", None),
        ];
        for (version, expected) in rows {
            assert_eq!(newest(names, version, "amd64").as_deref(), expected, "{version:?}");
        }
        assert_eq!(newest(names, "", "arm64"), None);
    }

    #[test]
    fn the_dependencies_of_a_module_are_read() {
        let rows: [(&[u8], &[&str]); 4] = [
            (
                b"\0license=GPL\0depends=ip6_udp_tunnel,udp_tunnel\0name=x\0",
                &["ip6_udp_tunnel", "udp_tunnel"],
            ),
            (b"\0depends=\0name=x\0", &[]),
            (b"\0name=x\0", &[]),
            (b"\0depends=ib_core", &["ib_core"]),
        ];
        for (module, expected) in rows {
            assert_eq!(dependencies(module), expected);
        }
    }

    #[test]
    fn packages_come_from_the_machines_own_mirrors() {
        let targets = "bookworm http://mirror.example/debian/ /usr/share/keyrings/a.gpg\n\
                       bookworm http://mirror.example/debian/ /usr/share/keyrings/a.gpg\n\
                       nodistro https://other.example/x/ \n\
                       bookworm-security http://mirror.example/security/ \n";
        let mirrors = Mirrors::parse(targets, "bookworm").unwrap();
        assert_eq!(
            mirrors.source("sid"),
            "deb [signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian/ sid main\n"
        );
        assert_eq!(
            mirrors.source("bullseye-security"),
            "deb http://mirror.example/security/ bullseye-security main\n"
        );
        assert_eq!(Mirrors::parse(targets, "noble"), None);
    }
}
