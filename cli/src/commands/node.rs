//! What `load` and `pull` share: the plugin imports a file, then containerd is told of the image.

use std::path::Path;

use di3fs_snapshotter::api::control::ImportResponse;
use di3fs_snapshotter::client::{Containerd, Loaded, NewImage};
use di3fs_snapshotter::control::ControlClient;
use dimg::Digest;

use crate::config::Config;
use crate::failure::{Failure, Kind};

/// The plugin and containerd, and what is held in the plugin for us until this is dropped: images that containerd has not been told of.
pub(super) struct Node<'a> {
    pub(super) plugin: ControlClient,
    containerd: Containerd,
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
        let whole = std::path::absolute(path).map_err(Failure::io("read file", path))?;
        let Some(whole) = whole.to_str() else {
            return Err(Failure::usage(path.display(), "the plugin takes names in UTF-8 only"));
        };
        let made = self.plugin.import(whole)?;
        self.held.push(made.manifest_digest.clone());
        Ok(made)
    }

    /// Tells containerd of an image that was imported.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn load(&self, name: &str, made: &ImportResponse) -> Result<Loaded, Failure> {
        self.load_image(&NewImage {
            name,
            manifest: &made.manifest,
            media_type: &made.media_type,
            config: &made.config,
            layers: &digests(&made.layer_digests)?,
            chain_ids: &digests(&made.chain_ids)?,
        })
    }

    /// Tells containerd of an image that the plugin has.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn load_image(&self, image: &NewImage<'_>) -> Result<Loaded, Failure> {
        Ok(self.containerd.load(image, self.snapshotter)?)
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

/// Digests in an answer of the plugin.
///
/// # Errors
/// One is none.
pub(super) fn digests(texts: &[String]) -> Result<Vec<Digest>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error| Failure::new(Kind::Failed, "import", "answer of the plugin", error))
    };
    texts.iter().map(parse).collect()
}
