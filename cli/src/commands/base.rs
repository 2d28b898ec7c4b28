//! Images as what deltas start from: made into base files, which the plugin imports.
//!
//! An image that containerd pulled the ordinary way has its layers' blobs in the content store. They are read through
//! containerd's API, verified and unpacked as from any other source; containerd's own blobs and snapshots are left as they are. What a delta
//! needs of its base beside contents, the layer indexes, is only in the layers' tars: unpacked snapshots without blobs do not serve.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use d4c_image::delta::{Present, chain_id};
use d4c_image::source::{OpenImage, Source};
use di3fs_snapshotter::api::control::ImportResponse;
use di3fs_snapshotter::client::ContentBlobs;
use dimg::Digest;
use dimg::format::Parent;

use super::build;
use super::node::Node;
use crate::beside::{self, new_file};
use crate::config::Config;
use crate::failure::Failure;
use crate::image::Opener;
use crate::interrupt::Pending;
use crate::progress::Unit;

/// What is written for the plugin is beside this name in the directory of temporary files.
const NAMED: &str = "pull.cdimg";

/// Removes what killed processes left of that.
pub(super) fn sweep(tmpdir: &Path) {
    beside::sweep(&tmpdir.join(NAMED));
}

/// A file that the plugin can open by its name, for as long as this lives.
pub(super) struct Named {
    pub(super) file: File,
    pub(super) pending: Pending,
}

impl Named {
    /// An empty file in the directory of temporary files.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        let target = config.tmpdir.join(NAMED);
        let (pending, file) =
            new_file(&target, 0o600).map_err(Failure::io("make temporary file", &target))?;
        Ok(Self { file, pending })
    }
}

/// Writes a file that makes `open` from nothing, its contents hardly compressed.
///
/// # Errors
/// A layer is damaged or cannot be fetched.
pub(super) fn write(
    open: &OpenImage,
    name: &str,
    opener: &Opener<'_>,
    config: &Config,
) -> Result<Named, Failure> {
    let image = opener.read(open)?;
    let mut named = Named::new(config)?;
    let path = named.pending.path().to_owned();
    let how = (opener.threads, config.tmpdir.clone());
    let mut told = build::Told(opener.progress);
    d4c_image::base::write(open, &image.side(), name.to_owned(), how, &mut told, &mut named.file)
        .map_err(Failure::delta(&path))?;
    Ok(named)
}

/// An image that containerd has, all its layers' blobs included.
pub(super) struct Stored {
    /// The name that containerd has for it.
    pub(super) name: String,
    pub(super) manifest: Digest,
    pub(super) diff_ids: Vec<Digest>,
    /// Bytes of the layers' blobs.
    bytes: u64,
}

impl Stored {
    /// The image as a start of deltas.
    pub(super) fn present(&self) -> Present {
        let chain_id = (!self.diff_ids.is_empty()).then(|| chain_id(&self.diff_ids));
        Present { manifest: self.manifest, chain_id, missing_bytes: 0, packed_bytes: self.bytes.max(1) }
    }

    /// Has the plugin take over the image's contents, and hold them.
    ///
    /// # Errors
    /// A blob is gone or damaged; the plugin refuses it.
    pub(super) fn import(
        &self,
        node: &mut Node<'_>,
        opener: &Opener<'_>,
        config: &Config,
    ) -> Result<ImportResponse, Failure> {
        let source = Source::Containerd(self.name.clone());
        let named = write(&source.open(&opener.source_options(&source)?)?, &self.name, opener, config)?;
        opener.progress.stage(format!("take over {}", self.name), Unit::Bytes, 0);
        node.import_base(named.pending.path())
    }
}

/// The images that containerd has in this namespace, for the wanted platform, with all their layers' blobs.
///
/// # Errors
/// containerd does not answer. Images that cannot be read are left out.
pub(super) fn stored(node: &Node<'_>, opener: &Opener<'_>) -> Result<Vec<Stored>, Failure> {
    opener.progress.stage("look at images in containerd", Unit::Bytes, 0);
    let blobs = node.containerd.blobs()?;
    let mut options = opener.options.clone();
    options.containerd = Some(Arc::new(ContentBlobs(node.containerd.clone())));
    let mut found: Vec<Stored> = Vec::new();
    for name in node.containerd.image_names()? {
        let opened = match Source::Containerd(name.clone()).open(&options) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(image = name, %error, "not a base");
                continue;
            }
        };
        let layers = opened.layers();
        let manifest = opened.manifest_digest();
        let known = found.iter().any(|image| image.manifest == manifest);
        if !known && layers.iter().all(|layer| blobs.contains(&layer.digest)) {
            found.push(Stored {
                name,
                manifest,
                diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
                bytes: layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
            });
        }
    }
    Ok(found)
}

/// Has the plugin take over the image `parent` from containerd where it does not have it; its name there. What neither has is left for the
/// plugin to tell.
///
/// # Errors
/// The plugin or containerd does not answer, or the image there is damaged.
pub(super) fn require(
    node: &mut Node<'_>,
    parent: &Parent,
    opener: &Opener<'_>,
    config: &Config,
) -> Result<Option<String>, Failure> {
    let chain = (!parent.layers.is_empty()).then(|| chain_id(&parent.layers));
    let is_parent = |manifest, other| manifest == parent.manifest || (other == chain && chain.is_some());
    if node.images()?.into_iter().any(|(manifest, chain)| is_parent(manifest, chain)) {
        return Ok(None);
    }
    let mut stored = stored(node, opener)?;
    stored.retain(|image| is_parent(image.manifest, image.present().chain_id));
    let Some(image) = stored.first() else { return Ok(None) };
    image.import(node, opener, config)?;
    Ok(Some(image.name.clone()))
}
