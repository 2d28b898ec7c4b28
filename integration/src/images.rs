//! The series of real images that `hack/images.sh` makes, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::program::{Output, repository};
use crate::sandbox::Sandbox;

/// The tags of every series, the oldest first.
pub const TAGS: [&str; 3] = ["v1", "v2", "v3"];

/// Where things that take long to make are kept.
pub fn cache() -> PathBuf {
    std::env::var_os("D4C_CACHE").map_or_else(|| PathBuf::from("/var/cache/d4c"), PathBuf::from)
}

/// A series of images: an OCI layout with the tags [`TAGS`].
pub struct Series {
    layout: PathBuf,
}

impl Series {
    /// The series of that name.
    ///
    /// # Errors
    /// Fails when it has not been made.
    pub fn named(name: &str) -> Result<Self> {
        let layout = cache().join("images").join(name);
        ensure!(
            layout.join("index.json").exists(),
            "no {}: make it with hack/images.sh {name}",
            layout.display()
        );
        Ok(Self { layout })
    }

    /// The series in that OCI layout.
    pub fn at(layout: &Path) -> Self {
        Self { layout: layout.to_owned() }
    }

    /// Its OCI layout.
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    /// The image as `d4c` and skopeo name it.
    pub fn source(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.layout.display())
    }

    /// The image.
    ///
    /// # Errors
    /// Fails when the layout has no such tag or is damaged.
    pub fn image(&self, tag: &str) -> Result<Image> {
        let index: Value = serde_json::from_slice(&fs::read(self.layout.join("index.json"))?)?;
        let manifests = index["manifests"].as_array().context("index.json has no manifests")?;
        let is_it = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let entry = manifests
            .iter()
            .find(is_it)
            .with_context(|| format!("no tag {tag} in {}", self.layout.display()))?;
        let digest = entry["digest"].as_str().context("a manifest without digest")?.to_owned();
        let manifest: Value = serde_json::from_slice(&self.blob(&digest)?)?;
        let config_digest =
            manifest["config"]["digest"].as_str().context("a manifest without config")?.to_owned();
        let config = serde_json::from_slice(&self.blob(&config_digest)?)?;
        Ok(Image { digest, manifest, config_digest, config })
    }

    /// A blob of the layout.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.layout.join("blobs").join(digest.replace(':', "/"));
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Unpacks the image with umoci, which knows nothing of us: the tree to compare with. Needs root.
    ///
    /// # Errors
    /// Fails when umoci does.
    pub fn unpack(&self, tag: &str, sandbox: &Sandbox) -> Result<PathBuf> {
        let bundle = sandbox.path(&format!("unpacked-{tag}"));
        let image = format!("{}:{tag}", self.layout.display());
        Output::of(sandbox.command("umoci").args(["unpack", "--image", &image]).arg(&bundle))?.success()?;
        Ok(bundle.join("rootfs"))
    }

    /// Writes the image as a docker archive, as `docker save` does, or any other of skopeo's destinations.
    ///
    /// # Errors
    /// Fails when skopeo does.
    pub fn copy(&self, tag: &str, destination: &str) -> Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", &self.source(tag), destination]);
        Output::of(&mut skopeo)?.success()?;
        Ok(())
    }
}

/// What the manifest and the config of an image say.
pub struct Image {
    /// The digest of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The digest of the config.
    pub config_digest: String,
    /// The config.
    pub config: Value,
}

impl Image {
    /// The digests of the uncompressed layers, the lowest first.
    pub fn diff_ids(&self) -> Vec<String> {
        let ids = self.config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
        ids.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The digests and sizes of the layers as a registry has them.
    pub fn layers(&self) -> Vec<(String, u64)> {
        let layers = self.manifest["layers"].as_array().into_iter().flatten();
        layers
            .filter_map(|layer| Some((layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?)))
            .collect()
    }

    /// The bytes that a client with `old` has to pull for this image: its layers, config and manifest, without the layers that `old` has.
    pub fn pull_bytes(&self, old: Option<&Self>) -> u64 {
        let have = old.map(Self::layers).unwrap_or_default();
        let layers: u64 =
            self.layers().iter().filter(|layer| !have.contains(layer)).map(|layer| layer.1).sum();
        layers + self.manifest["config"]["size"].as_u64().unwrap_or(0)
    }
}

/// The path of a script in `hack/`.
pub fn script(name: &str) -> PathBuf {
    repository().join("hack").join(name)
}
