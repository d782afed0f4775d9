//! The image archive that `cargo xtask image` writes, as far as container engines rely on it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

#[path = "pod/image.rs"]
mod image;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chroot};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use image::Archive;
use jsonschema::Registry;
use serde_json::{Value, json};
use svclb_tests::spawn;

#[test]
fn the_archive_is_an_oci_layout_with_one_image_for_each_platform() {
    let archive = Archive::read();
    let layout: Value = serde_json::from_slice(archive.file("oci-layout")).unwrap();
    assert_eq!(layout, json!({"imageLayoutVersion": "1.0.0"}));
    let (descriptor, index) = archive.index();
    let annotations = descriptor.annotations().clone().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], version);
    assert_eq!(annotations["io.containerd.image.name"], format!("localhost/svclb:{version}"));
    let images = archive.images();
    let architectures: Vec<&str> = images.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    for (architecture, manifest) in &images {
        let configuration = archive.configuration(manifest);
        assert_eq!(&configuration.architecture().to_string(), architecture);
        assert_eq!(configuration.os().to_string(), "linux");
        let config = configuration.config().clone().unwrap();
        assert_eq!(config.entrypoint().clone().unwrap(), ["/svclb"]);
        let labels = config.labels().clone().unwrap();
        let label = |name: &str| labels[&format!("org.opencontainers.image.{name}")].clone();
        assert_eq!(label("title"), "svclb");
        assert_eq!(label("version"), version);
        assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
        assert!(!label("description").is_empty());
        assert_eq!(manifest.annotations().as_ref(), Some(&labels), "{architecture}");
        assert_eq!(index.annotations().as_ref(), Some(&labels), "{architecture}");
    }
}

#[test]
fn the_list_for_docker_names_the_same_content() {
    let archive = Archive::read();
    let path = |digest: &dyn ToString| digest.to_string().replacen("sha256:", "blobs/sha256/", 1);
    let expected = archive.images().into_iter().map(|(architecture, manifest)| {
        let layers: Vec<_> = manifest.layers().iter().map(|layer| path(layer.digest())).collect();
        let tag = format!("localhost/svclb:{}-{architecture}", env!("CARGO_PKG_VERSION"));
        json!({"Config": path(manifest.config().digest()), "RepoTags": [tag], "Layers": layers})
    });
    let docker: Vec<Value> = serde_json::from_slice(archive.file("manifest.json")).unwrap();
    assert_eq!(docker, expected.collect::<Vec<Value>>());
}

/// The crates in each program, as scanners read them from it: name and version.
fn crates(program: &Path) -> BTreeSet<(String, String)> {
    let list = auditable_info::audit_info_from_file(program, Default::default()).unwrap();
    let roots: Vec<&str> =
        list.packages.iter().filter(|it| it.root).map(|it| &it.name[..]).collect();
    assert_eq!(roots, ["svclb-agent"]);
    list.packages.into_iter().map(|it| (it.name, it.version.to_string())).collect()
}

#[test]
fn each_program_lists_its_crates_in_itself_and_in_an_sbom() {
    let archive = Archive::read();
    let lock = include_str!("../../Cargo.lock");
    // The schemas that this one refers to are for signatures and for licences named one by one.
    let others =
        ["jsf-0.82", "spdx"].map(|name| format!("http://cyclonedx.org/schema/{name}.schema.json"));
    let registry = others.into_iter().try_fold(Registry::new(), |all, name| {
        all.add(name, json!({"definitions": {"signature": false}}))
    });
    let registry = registry.unwrap().prepare().unwrap();
    // As published (github.com/CycloneDX/specification).
    let schema = serde_json::from_str(include_str!("image/bom-1.5.schema.json")).unwrap();
    let schema = jsonschema::options().with_registry(&registry).build(&schema).unwrap();
    assert!(!schema.is_valid(&json!({"bomFormat": "CycloneDX", "specVersion": 1.5})));
    for (architecture, manifest) in archive.images() {
        let root = archive.unpack_image(&manifest);
        let found = crates(&root.path().join("svclb"));
        for (name, version) in &found {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&entry), "{architecture}: {name} {version} is not in Cargo.lock");
        }
        let has = |wanted: &str| found.iter().any(|(name, _)| name == wanted);
        for wanted in ["aya", "kube", "tokio", "svclb-core", "svclb-ebpf", "aya-ebpf"] {
            assert!(has(wanted), "{architecture}: {wanted}");
        }
        // Of tests, build scripts, macros and other systems.
        for unwanted in ["svclb-tests", "jsonschema", "aya-build", "serde_derive", "windows-sys"] {
            assert!(!has(unwanted), "{architecture}: {unwanted}");
        }

        let sbom = fs::read(root.path().join("svclb.cdx.json")).unwrap();
        let sbom: Value = serde_json::from_slice(&sbom).unwrap();
        let errors: Vec<String> = schema.iter_errors(&sbom).map(|it| it.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{architecture}");
        assert_eq!(sbom["metadata"]["component"]["name"], "svclb");
        let mut listed: BTreeSet<(String, String)> =
            [("svclb-agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into();
        for component in sbom["components"].as_array().unwrap() {
            let text = |field: &str| component[field].as_str().unwrap().to_owned();
            let name = text("name");
            assert!(component["licenses"][0]["expression"].is_string(), "{name}");
            // Whatever comes from the registry has its checksum and address there.
            let is_ours = name.starts_with("svclb-");
            assert_eq!(component["hashes"].is_null(), is_ours, "{name}");
            assert_eq!(component["purl"].is_null(), is_ours, "{name}");
            listed.insert((name, text("version")));
        }
        assert_eq!(listed, found, "{architecture}");
    }
}

#[test]
fn the_program_runs_with_only_the_files_of_its_image() {
    let root = Archive::read().unpack();
    let path = root.path().to_owned();
    for (name, mode) in [("svclb", 0o755), ("licenses/LICENSE-MIT", 0o644), ("tmp", 0o1777)] {
        let found = path.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{name}");
    }
    let inside = |arguments: &[&str]| {
        let path = path.clone();
        let mut command = Command::new("/svclb");
        command.args(arguments).env_clear();
        // SAFETY: two system calls between fork and exec; the path is already made.
        unsafe {
            command.pre_exec(move || {
                chroot(&path)?;
                std::env::set_current_dir("/")
            });
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn(&mut command).unwrap().wait_with_output().unwrap()
    };
    let version = inside(&["--version"]);
    assert!(version.status.success(), "{version:?}");
    let expected = format!("svclb {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
    let services = inside(&["services"]);
    let stderr = String::from_utf8(services.stderr).unwrap();
    assert!(!services.status.success() && stderr.contains("no svclb runs"), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
}

#[test]
fn the_program_does_not_contain_paths_of_its_build() {
    let root = Archive::read().unpack();
    let program = std::fs::read(root.path().join("svclb")).unwrap();
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo = std::env::var("CARGO_HOME").unwrap_or(format!("{home}/.cargo"));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // The folders of the build, and the names that replace them in the program.
    let replaced = [(cargo.as_str(), "/cargo/registry/"), (workspace.to_str().unwrap(), "/svclb/")];
    for (folder, name) in replaced {
        let has = |text: &str| program.windows(text.len()).any(|it| it == text.as_bytes());
        let is_own_name = name.starts_with(folder);
        assert!(
            is_own_name || !has(&format!("{folder}/")),
            "the program must not contain {folder}"
        );
        assert!(has(name), "the program must contain {name}");
    }
}
