//! Writes the image archive: an OCI image layout in a tar (github.com/opencontainers/image-spec 1.1,
//! image-layout.md), with the additional list of `docker load`. containerd, podman, skopeo, kind and docker
//! can load it. It has one image for each architecture, behind an index of their platforms.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
use cargo_metadata::Package;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::layer;

const BLOBS: &str = "blobs/sha256";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The facts that all images of an archive share.
pub(super) struct About {
    /// Name without the tag.
    pub(super) name: &'static str,
    /// Version, which is also the tag.
    pub(super) version: String,
    description: Option<String>,
    licences: Option<String>,
    source: Option<String>,
    /// The commit that it was built from, if the checkout had no other changes.
    revision: Option<String>,
}

impl About {
    /// Takes over what the program's crate says.
    pub(super) fn new(name: &'static str, program: &Package, revision: Option<String>) -> Self {
        Self {
            name,
            version: program.version.to_string(),
            description: program.description.clone(),
            licences: program.license.clone(),
            source: program.repository.clone(),
            revision,
        }
    }

    /// The labels of annotations.md, those that are known.
    fn labels(&self) -> Value {
        let known = [
            ("title", Some("svclb")),
            ("description", self.description.as_deref()),
            ("version", Some(&self.version[..])),
            ("licenses", self.licences.as_deref()),
            ("source", self.source.as_deref()),
            ("revision", self.revision.as_deref()),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
        known
            .map(|(name, value)| (format!("org.opencontainers.image.{name}"), json!(value)))
            .collect()
    }
}

/// The image of one architecture.
pub(super) struct Image {
    /// The only layer, a tar.
    pub(super) layer: Vec<u8>,
    /// Go's name of the architecture.
    pub(super) architecture: &'static str,
}

/// A packed archive.
pub(super) struct Archive {
    pub(super) bytes: Vec<u8>,
    /// The digest of the index, by which a registry knows the image.
    pub(super) digest: String,
}

/// Contents by digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds a content, and returns its descriptor (descriptor.md).
    fn add(&mut self, kind: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor =
            json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()});
        self.0.insert(digest, content);
        descriptor
    }
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packs an archive. The same images give the same bytes.
///
/// # Errors
/// A path does not fit into a tar.
pub(super) fn archive(about: &About, images: &[Image]) -> anyhow::Result<Archive> {
    let mut blobs = Blobs::default();
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    let tag = format!("{}:{}", about.name, about.version);
    for image in images {
        let config = blobs.add(CONFIG, serde_json::to_vec(&image.config(about))?);
        let layer = blobs.add(LAYER, compress(&image.layer)?);
        docker.push(json!({
            "Config": path(&config)?,
            // In this list one name is for one image only.
            "RepoTags": [if images.len() > 1 { format!("{tag}-{}", image.architecture) } else { tag.clone() }],
            "Layers": [path(&layer)?],
        }));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": about.labels(),
        });
        let mut manifest = blobs.add(MANIFEST, serde_json::to_vec(&manifest)?);
        manifest["platform"] = json!({"architecture": image.architecture, "os": "linux"});
        manifests.push(manifest);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": about.labels(),
    });
    let mut index = blobs.add(INDEX, serde_json::to_vec(&index)?);
    let digest = index["digest"].as_str().context("a descriptor has a digest")?.to_owned();
    index["annotations"] = json!({
        "io.containerd.image.name": tag,
        "org.opencontainers.image.ref.name": about.version,
    });
    let outer = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});

    let mut tar = tar::Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        layer::append(&mut tar, folder, EntryType::Directory, 0o755, &[])?;
    }
    let mut file = |path: &str, content: &[u8]| {
        layer::append(&mut tar, path, EntryType::Regular, 0o644, content)
    };
    for (digest, content) in &blobs.0 {
        file(&format!("{BLOBS}/{digest}"), content)?;
    }
    file("index.json", &serde_json::to_vec(&outer)?)?;
    file("manifest.json", &serde_json::to_vec(&docker)?)?;
    file("oci-layout", &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
    Ok(Archive { bytes: tar.into_inner()?, digest })
}

impl Image {
    /// Returns the configuration of a container (config.md). It has no time of creation, so that builds are
    /// reproducible.
    fn config(&self, about: &About) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "User": "0:0",
                "Entrypoint": ["/svclb"],
                "WorkingDir": "/",
                "Labels": about.labels(),
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&self.layer))]},
            "history": [{"created_by": "cargo xtask image"}],
        })
    }
}

/// Compresses data by gzip.
///
/// # Errors
/// None in memory.
pub(crate) fn compress(data: &[u8]) -> anyhow::Result<Vec<u8>> {
    // The header has neither a name nor a time.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(data)?;
    Ok(gzip.finish()?)
}

/// Returns the path in the archive of a descriptor's content.
fn path(descriptor: &Value) -> anyhow::Result<String> {
    let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
    Ok(digest.replacen("sha256:", &format!("{BLOBS}/"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            name: "localhost/x",
            version: "1".to_owned(),
            description: Some("an image".to_owned()),
            licences: None,
            source: None,
            revision: None,
        }
    }

    #[test]
    fn the_same_images_give_the_same_bytes() {
        let make = || {
            let image = |architecture| {
                let files = vec![layer::Entry::file("a", vec![0; 5000])];
                Image { layer: layer::root(files).unwrap(), architecture }
            };
            archive(&about(), &["amd64", "arm64"].map(image)).unwrap()
        };
        let first = make();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = make();
        assert!(first.bytes == second.bytes, "no time is in it");
        assert_eq!(first.digest, second.digest);
    }

    #[test]
    fn labels_that_are_not_known_are_left_out() {
        let expected = json!({
            "org.opencontainers.image.title": "svclb",
            "org.opencontainers.image.description": "an image",
            "org.opencontainers.image.version": "1",
        });
        assert_eq!(about().labels(), expected);
    }
}
