//! What `load`, `pull` and `export` share: the plugin imports a file, then containerd is told of the image.

use std::path::Path;

use di3fs_snapshotter::api::control::{ExportResponse, ImportResponse};
use di3fs_snapshotter::client::{Containerd, Loaded, NewImage};
use di3fs_snapshotter::control::ControlClient;
use dimg::Digest;

use crate::config::Config;
use crate::failure::{Failure, Kind};

/// The plugin and containerd, and what is held in the plugin for us until this is dropped: images that containerd has not been told of.
pub(super) struct Node<'a> {
    pub(super) plugin: ControlClient,
    pub(super) containerd: Containerd,
    snapshotter: &'a str,
    held: Vec<String>,
}

impl<'a> Node<'a> {
    /// Connects to both.
    ///
    /// # Errors
    /// One does not answer.
    pub(super) fn connect(config: &Config, snapshotter: &'a str) -> Result<Self, Failure> {
        let plugin = ControlClient::connect(&config.control)?;
        let containerd = Containerd::connect(&config.address, &config.namespace)?;
        Ok(Self { plugin, containerd, snapshotter, held: Vec::new() })
    }

    /// Has the plugin import the cdimg at `path`, and hold its image.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn import(&mut self, path: &Path) -> Result<ImportResponse, Failure> {
        let made = self.plugin.import(&whole(path)?)?;
        Ok(self.hold(made))
    }

    /// As [`Node::import`], of an image that is only what deltas start from.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn import_base(&mut self, path: &Path) -> Result<ImportResponse, Failure> {
        let made = self.plugin.import_base(&whole(path)?)?;
        Ok(self.hold(made))
    }

    /// Has the plugin make an image that it knows ready to be run, and hold it.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn restore(&mut self, manifest: Digest) -> Result<ImportResponse, Failure> {
        let made = self.plugin.restore(&manifest.to_string())?;
        Ok(self.hold(made))
    }

    /// Has the plugin complete an image that it knows, and hold it; where it lies.
    ///
    /// # Errors
    /// It does not know it, or cannot complete it.
    pub(super) fn export(&mut self, manifest: Digest) -> Result<ExportResponse, Failure> {
        let answer = self.plugin.export(&manifest.to_string())?;
        self.held.push(manifest.to_string());
        Ok(answer)
    }

    fn hold(&mut self, made: ImportResponse) -> ImportResponse {
        self.held.push(made.manifest_digest.clone());
        made
    }

    /// The images that the plugin has: manifest digest, and chain ID of the layers unless there are none.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn images(&self) -> Result<Vec<(Digest, Option<Digest>)>, Failure> {
        let known = self.plugin.images()?.images;
        let manifests: Vec<String> = known.iter().map(|image| image.manifest_digest.clone()).collect();
        let chains = known.iter().map(|image| Ok(digests(&image.chain_ids)?.last().copied()));
        let chains: Vec<Option<Digest>> = chains.collect::<Result<_, Failure>>()?;
        Ok(digests(&manifests)?.into_iter().zip(chains).collect())
    }

    /// Tells containerd of an image that was imported.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn load(&self, name: &str, made: &ImportResponse) -> Result<Loaded, Failure> {
        let image = NewImage {
            name,
            manifest: &made.manifest,
            media_type: &made.media_type,
            config: &made.config,
            layers: &digests(&made.layer_digests)?,
            chain_ids: &digests(&made.chain_ids)?,
        };
        Ok(self.containerd.load(&image, self.snapshotter)?)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        for image in &self.held {
            // Without an answer the hold runs out.
            let _ = self.plugin.release(image);
        }
    }
}

/// The file's name as the plugin takes it.
fn whole(path: &Path) -> Result<String, Failure> {
    let whole = std::path::absolute(path).map_err(Failure::io("read file", path))?;
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(path.display(), "the plugin takes names in UTF-8 only"))
}

/// Digests in an answer of the plugin.
///
/// # Errors
/// One is none.
fn digests(texts: &[String]) -> Result<Vec<Digest>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error| Failure::new(Kind::Failed, "import", "answer of the plugin", error))
    };
    texts.iter().map(parse).collect()
}
