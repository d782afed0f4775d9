//! The image archive that `cargo xtask image` writes, as far as container engines rely on it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

#[path = "pod/image.rs"]
mod image;

use std::os::unix::fs::{PermissionsExt as _, chroot};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use image::Archive;
use serde_json::{Value, json};
use svclb_tests::spawn;

#[test]
fn the_archive_is_an_oci_layout_with_one_image_for_this_machine() {
    let archive = Archive::read();
    let layout: Value = serde_json::from_slice(archive.file("oci-layout")).unwrap();
    assert_eq!(layout, json!({"imageLayoutVersion": "1.0.0"}));
    let (descriptor, _) = archive.manifest();
    let platform = descriptor.platform().clone().unwrap();
    let configuration = archive.configuration();
    assert_eq!(platform.architecture(), configuration.architecture());
    assert_eq!((platform.os(), configuration.os()), (configuration.os(), platform.os()));
    let annotations = descriptor.annotations().clone().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], version);
    assert_eq!(annotations["io.containerd.image.name"], format!("localhost/svclb:{version}"));
    let config = configuration.config().clone().unwrap();
    assert_eq!(config.entrypoint().clone().unwrap(), ["/svclb"]);
    let labels = config.labels().clone().unwrap();
    assert_eq!(labels["org.opencontainers.image.version"], version);
    assert_eq!(labels["org.opencontainers.image.licenses"], env!("CARGO_PKG_LICENSE"));
}

#[test]
fn the_index_for_docker_names_the_same_content() {
    let archive = Archive::read();
    let (_, manifest) = archive.manifest();
    let path = |digest: &dyn ToString| digest.to_string().replacen("sha256:", "blobs/sha256/", 1);
    let layers: Vec<_> = manifest.layers().iter().map(|layer| path(layer.digest())).collect();
    let docker: Value = serde_json::from_slice(archive.file("manifest.json")).unwrap();
    let expected = json!([{
        "Config": path(manifest.config().digest()),
        "RepoTags": [format!("localhost/svclb:{}", env!("CARGO_PKG_VERSION"))],
        "Layers": layers,
    }]);
    assert_eq!(docker, expected);
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
