//! Reads an image archive by the specification (github.com/opencontainers/image-spec 1.1), checking
//! every digest and size.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Environment variable with the archive to test.
const VARIABLE: &str = "SVCLB_IMAGE";
/// The name of this machine's architecture in images.
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// The files of an archive, by their path.
pub(crate) struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads the archive under test.
    pub(crate) fn read() -> Self {
        let path = archive();
        let data = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&data[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!(files.insert(name.clone(), content), None, "{name} occurs twice");
        }
        Self { files }
    }

    /// The content of a file.
    pub(crate) fn file(&self, name: &str) -> &[u8] {
        self.files
            .get(name)
            .unwrap_or_else(|| panic!("expected {name} among {:?}", self.files.keys()))
    }

    /// The content that a descriptor refers to.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> &[u8] {
        let digest = descriptor.digest().to_string();
        let content = self.file(&digest.replacen("sha256:", "blobs/sha256/", 1));
        assert_eq!(sha256(content), digest);
        assert_eq!(content.len() as u64, descriptor.size(), "{digest}");
        content
    }

    /// The only entry of the layout's index, and the index of platforms to which it leads.
    pub(crate) fn index(&self) -> (Descriptor, ImageIndex) {
        let outer = ImageIndex::from_reader(self.file("index.json")).unwrap();
        let [descriptor] = &outer.manifests()[..] else {
            panic!("expected one image in {outer:?}")
        };
        assert_eq!(descriptor.media_type(), &MediaType::ImageIndex);
        (descriptor.clone(), ImageIndex::from_reader(self.blob(descriptor)).unwrap())
    }

    /// The images of all platforms, with the architecture's name.
    pub(crate) fn images(&self) -> Vec<(String, ImageManifest)> {
        let (_, index) = self.index();
        let image = |descriptor: &Descriptor| {
            assert_eq!(descriptor.media_type(), &MediaType::ImageManifest);
            let platform = descriptor.platform().clone().unwrap();
            assert_eq!(platform.os().to_string(), "linux");
            let manifest = ImageManifest::from_reader(self.blob(descriptor)).unwrap();
            (platform.architecture().to_string(), manifest)
        };
        index.manifests().iter().map(image).collect()
    }

    /// The configuration of an image's containers.
    pub(crate) fn configuration(&self, manifest: &ImageManifest) -> ImageConfiguration {
        assert_eq!(manifest.config().media_type(), &MediaType::ImageConfig);
        ImageConfiguration::from_reader(self.blob(manifest.config())).unwrap()
    }

    /// Unpacks the image of this machine, as a container runtime does.
    pub(crate) fn unpack(&self) -> TempDir {
        let images = self.images();
        let own = images.iter().find(|(architecture, _)| architecture == ARCHITECTURE);
        let (_, manifest) =
            own.unwrap_or_else(|| panic!("expected {ARCHITECTURE} among {images:?}"));
        self.unpack_image(manifest)
    }

    /// Unpacks the layers of an image.
    pub(crate) fn unpack_image(&self, manifest: &ImageManifest) -> TempDir {
        let configuration = self.configuration(manifest);
        let expected = configuration.rootfs().diff_ids();
        assert_eq!(manifest.layers().len(), expected.len());
        // The prefix lets the harness remove the folder if a test is killed.
        let prefix = format!("svclb-test-{}-image-", std::process::id());
        let root = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        for (layer, expected) in manifest.layers().iter().zip(expected) {
            assert_eq!(layer.media_type(), &MediaType::ImageLayerGzip);
            let mut tar = Vec::new();
            GzDecoder::new(self.blob(layer)).read_to_end(&mut tar).unwrap();
            assert_eq!(&sha256(&tar), expected);
            let mut archive = tar::Archive::new(&tar[..]);
            archive.set_preserve_permissions(true);
            archive.unpack(root.path()).unwrap();
        }
        root
    }
}

/// The digest in the form of descriptors.
pub(crate) fn sha256(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The path of the archive: named by the environment, or built once per test process.
fn archive() -> &'static Path {
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
    command.args(["run", "--quiet", "--package", "xtask", "--", "image"]).current_dir(workspace);
    // Only `image.rs` looks at the others.
    if !env!("CARGO_CRATE_NAME").starts_with("image") {
        command.args(["--arch", ARCHITECTURE]);
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| {
        panic!("cannot start cargo to build the image ({error}): name a built one by {VARIABLE}")
    });
    assert!(output.status.success(), "the image does not build, see above ({})", output.status);
    String::from_utf8(output.stdout).unwrap().trim().into()
}
