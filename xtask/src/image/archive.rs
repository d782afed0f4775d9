//! Writes the image archive: an OCI image layout in a tar (github.com/opencontainers/image-spec 1.1,
//! image-layout.md), with the additional index of `docker load`. containerd, podman, skopeo, kind and docker
//! can load it.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
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

/// The content of an image.
pub(super) struct Image {
    /// The only layer, a tar.
    pub(super) layer: Vec<u8>,
    /// Go's name of the architecture.
    pub(super) architecture: &'static str,
    /// Name without the tag.
    pub(super) name: &'static str,
    /// Version, which is also the tag.
    pub(super) version: &'static str,
    /// The commit that it was built from, if the checkout had no other changes.
    pub(super) revision: Option<String>,
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

impl Image {
    /// Writes the archive. The same image gives the same bytes.
    ///
    /// # Errors
    /// A path does not fit into a tar.
    pub(super) fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let mut blobs = Blobs::default();
        let config = blobs.add(CONFIG, serde_json::to_vec(&self.config())?);
        let layer = blobs.add(LAYER, compress(&self.layer)?);
        let docker = json!([{
            "Config": path(&config)?,
            "RepoTags": [format!("{}:{}", self.name, self.version)],
            "Layers": [path(&layer)?],
        }]);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": self.labels(),
        });
        let mut manifest = blobs.add(MANIFEST, serde_json::to_vec(&manifest)?);
        manifest["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        manifest["annotations"] = json!({
            "io.containerd.image.name": format!("{}:{}", self.name, self.version),
            "org.opencontainers.image.ref.name": self.version,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});

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
        file("index.json", &serde_json::to_vec(&index)?)?;
        file("manifest.json", &serde_json::to_vec(&docker)?)?;
        file("oci-layout", &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
        Ok(tar.into_inner()?)
    }

    /// Returns the configuration of a container (config.md). It has no time of creation, so that builds are
    /// reproducible.
    fn config(&self) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "User": "0:0",
                "Entrypoint": ["/svclb"],
                "WorkingDir": "/",
                "Labels": self.labels(),
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&self.layer))]},
            "history": [{"created_by": "cargo xtask image"}],
        })
    }

    fn labels(&self) -> Value {
        let mut labels = json!({
            "org.opencontainers.image.title": "svclb",
            "org.opencontainers.image.version": self.version,
            "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        });
        if let Some(revision) = &self.revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        labels
    }
}

fn compress(layer: &[u8]) -> anyhow::Result<Vec<u8>> {
    // The header has neither a name nor a time.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(layer)?;
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

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        let make = || {
            let layer = layer::tar(vec![layer::Entry::file("a", vec![0; 5000])]).unwrap();
            let image = Image {
                layer,
                architecture: "amd64",
                name: "localhost/x",
                version: "1",
                revision: None,
            };
            image.archive().unwrap()
        };
        let first = make();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(first == make(), "no time is in it");
    }
}
