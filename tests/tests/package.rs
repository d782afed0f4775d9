//! The release that `cargo xtask dist` writes: the archives, and the Debian package as it is installed, used and removed on a
//! machine with systemd and without Kubernetes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

#[path = "package/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use machine::Machine;
use sha2::{Digest as _, Sha256};
use svclb_tests::{Tcp, World, eventually};

/// Names the folder to test.
const VARIABLE: &str = "SVCLB_DIST";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The name of this machine's architecture in Debian.
const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
/// The Service of the package's example.
const DIALLED: &str = "10.96.0.10:80";
/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF as a set (linux/capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// The folder of the release: named by the environment, or built once per test process.
fn release() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match std::env::var_os(VARIABLE) {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--package", "xtask", "--", "dist"]).current_dir(workspace);
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| {
        panic!("cannot start cargo to build the release ({error}): name a built one by {VARIABLE}")
    });
    assert!(output.status.success(), "the release does not build, see above ({})", output.status);
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[test]
fn a_release_has_an_archive_a_package_and_an_sbom_for_each_architecture_with_checksums() {
    let mut expected: BTreeSet<String> = ["amd64", "arm64"]
        .iter()
        .flat_map(|arch| {
            let name = format!("svclb-{VERSION}-linux-{arch}");
            let package = format!("svclb_{VERSION}_{arch}.deb");
            [format!("{name}.tar.gz"), format!("{name}.cdx.json"), package]
        })
        .collect();
    let sums = fs::read_to_string(release().join("SHA256SUMS")).unwrap();
    let named: BTreeSet<String> = sums
        .lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ").unwrap();
            let digest = Sha256::digest(fs::read(release().join(name)).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, sum, "{name}");
            name.to_owned()
        })
        .collect();
    assert_eq!(named, expected);
    expected.insert("SHA256SUMS".to_owned());
    let files = fs::read_dir(release()).unwrap();
    let files: BTreeSet<String> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, expected);
}

#[test]
fn an_archive_has_the_program_its_licences_and_its_documents_in_one_folder() {
    for arch in ["amd64", "arm64"] {
        let name = format!("svclb-{VERSION}-linux-{arch}");
        let mut tar = Vec::new();
        let compressed = fs::read(release().join(format!("{name}.tar.gz"))).unwrap();
        GzDecoder::new(&compressed[..]).read_to_end(&mut tar).unwrap();
        let mut modes = Vec::new();
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let inner = path.strip_prefix(&name).unwrap_or_else(|| panic!("{path}")).to_owned();
            modes.push((inner, entry.header().mode().unwrap()));
        }
        for (path, mode) in [
            ("/svclb", 0o755),
            ("/LICENSE-APACHE", 0o644),
            ("/LICENSE-MIT", 0o644),
            ("/README.md", 0o644),
            ("/svclb.cdx.json", 0o644),
            ("/share/man/man1/svclb.1", 0o644),
            ("/share/man/man1/svclb-agent.1", 0o644),
            ("/share/bash-completion/completions/svclb", 0o644),
            ("/share/zsh/vendor-completions/_svclb", 0o644),
            ("/share/fish/vendor_completions.d/svclb.fish", 0o644),
        ] {
            assert!(modes.contains(&(path.to_owned(), mode)), "{arch}: {path} in {modes:?}");
        }
    }
}

/// A machine with the package, which is not installed yet.
fn boot(world: &World) -> Machine<'_> {
    Machine::boot(world, &release().join(format!("svclb_{VERSION}_{ARCHITECTURE}.deb")))
}

fn install(machine: &Machine<'_>) {
    // Without the triggers of this machine's packages, which would rebuild their caches.
    machine.ok("dpkg --no-triggers --force-unsafe-io --install /tmp/svclb.deb");
}

/// Copies the example where the unit's agent reads, and waits until it serves.
fn start(machine: &Machine<'_>) {
    machine.ok("cp /usr/share/doc/svclb/examples/hello.yaml /etc/svclb/");
    machine.ok("systemctl start svclb");
    wait_until_ready(machine);
}

fn wait_until_ready(machine: &Machine<'_>) {
    eventually("the unit's agent is ready", || {
        let output = machine.run("svclb status --ready");
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
}

#[track_caller]
fn assert_left_alone(world: &World) {
    let error = world.request(Tcp, DIALLED).err().map(|error| error.kind());
    // The world's route to Services prohibits it.
    assert_eq!(error, Some(ErrorKind::PermissionDenied));
}

#[test]
fn an_installed_package_waits_for_services_serves_them_and_is_removed_without_trace() {
    let world = World::builder("package").without_agent().start();
    let _backends =
        ["10.244.0.1:8080", "10.244.0.2:8080"].map(|address| world.backend("a", Tcp, address));
    let machine = boot(&world);

    install(&machine);
    assert_eq!(machine.ok("dpkg --verify svclb"), "");
    assert_eq!(machine.ok("systemctl is-enabled svclb"), "enabled");
    assert_eq!(machine.ok("systemctl show --property ActiveState --value svclb"), "inactive");
    machine.ok("! test -e /sys/fs/bpf/svclb");
    assert_left_alone(&world);

    start(&machine);
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    machine.ok("svclb check");
    machine.ok("systemctl stop svclb");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a", "translation outlives the agent");

    machine.ok("systemctl start svclb");
    wait_until_ready(&machine);
    let process = || machine.ok("systemctl show --property MainPID --value svclb");
    let before = process();
    install(&machine);
    wait_until_ready(&machine);
    assert_ne!(process(), before, "an upgrade exchanges the agent");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");

    machine.ok("dpkg --no-triggers --remove svclb");
    assert_left_alone(&world);
    machine.ok("! test -e /sys/fs/bpf/svclb/v1");
    machine.ok("! test -e /usr/bin/svclb");
    // The administrator's file is not the package's.
    machine.ok("test -e /etc/svclb/hello.yaml");
    machine.ok("dpkg --no-triggers --purge svclb");
    machine.ok("! dpkg --status svclb");
    machine.ok("! systemctl cat svclb");
}

#[test]
fn the_units_agent_has_no_rights_beyond_its_needs() {
    let world = World::builder("unit").without_agent().start();
    let machine = boot(&world);
    install(&machine);
    let unit = "/usr/lib/systemd/system/svclb.service";
    machine.ok(&format!("systemd-analyze verify --man=no {unit}"));
    // In tenths: systemd calls less than two "OK" and more than five "EXPOSED".
    machine.ok(&format!("systemd-analyze security --offline=true --threshold=25 {unit}"));
    start(&machine);

    let status = machine.ok("cat /proc/$(systemctl show --property MainPID --value svclb)/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} in {status}")).to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let found = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(found & !CAPABILITIES, 0, "{set}");
    }
    assert_eq!(u64::from_str_radix(&field("CapEff"), 16).unwrap(), CAPABILITIES);
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
}
