//! `d4c export REF DEST`: an image of this node as an OCI layout.
//!
//! Where containerd has the blobs of all layers, they are copied, and the image is as it was pulled. An image that came by deltas has no
//! blobs: its layers are written again from what the plugin keeps, uncompressed, for a compressed blob does not come back bit for bit.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use d4c_image::error::SourceError;
use d4c_image::manifest;
use d4c_image::source::{OpenImage, Source};
use d4c_image::tar;
use di3fs::store::ObjectFiles;
use di3fs_snapshotter::client::ContentBlobs;
use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::ContentSource;
use dimg::index::decode_layers;
use serde_json::json;

use super::node::Node;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::{Documents, Image, ImageOptions, Opener, Place, write_kept, write_layout};
use crate::progress::Progress;

/// Options of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image, by its name in containerd or the digest of its manifest
    #[arg(value_name = "REF")]
    reference: String,
    /// Where it goes: oci:DIR[:TAG] or oci-archive:FILE[:TAG]
    #[arg(value_name = "DEST")]
    dest: String,
    #[command(flatten)]
    image: ImageOptions,
}

/// Writes the layout.
///
/// # Errors
/// There is no such image, its contents are neither with containerd nor with the plugin, or the destination cannot be written; nothing is
/// left there then.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let place = Place::parse(&options.dest)?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.image, config, &progress)?;
    let mut node = Node::connect(config, "")?;
    let wanted = options.reference.parse::<Digest>().ok();
    let there = match wanted {
        Some(_) => None,
        None => Some(find(&options.reference, &node, &opener)?),
    };
    let kept = match &there {
        Some(image) => {
            let blobs = node.containerd.blobs()?;
            image.layers().iter().all(|layer| blobs.contains(&layer.digest))
        }
        None => false,
    };
    let (name, manifest, config_digest, diff_ids, written) = match (&there, kept) {
        (Some(image), true) => {
            let store = ContentBlobs(node.containerd.clone());
            let written = write_kept(image, &store, &place, &opener)?;
            let diff_ids: Vec<Digest> = image.layers().iter().map(|layer| layer.diff_id).collect();
            (image.name().to_owned(), image.manifest_digest(), image.config_digest(), diff_ids, written)
        }
        _ => {
            let digest = match (&there, wanted) {
                (Some(image), _) => image.manifest_digest(),
                (None, Some(digest)) => digest,
                (None, None) => return Err(Failure::usage(&options.reference, "names no image")),
            };
            let image = made(digest, &options.reference, &mut node)?;
            let written = write_layout(&image, &place, &opener)?;
            (image.name.clone(), digest, image.config_digest, image.diff_ids(), written)
        }
    };
    drop(node);
    drop(progress);
    let dest = place.path.display();
    let value = json!({
        "name": name,
        "dest": dest.to_string(),
        "manifest": manifest.to_string(),
        "written_manifest": written.to_string(),
        "config": config_digest.to_string(),
        "diff_ids": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "layers": if written == manifest { "original" } else { "uncompressed" },
    });
    config.output.report(&value, || {
        if written == manifest {
            return format!("{dest}: manifest {manifest}, as it was pulled\n");
        }
        format!(
            "{dest}: manifest {written}: the compressed layers of {manifest} are not here, so they are uncompressed; \
             config and diff IDs are the same\n"
        )
    })
}

/// The image that containerd has by this name, or by the whole form of it.
fn find(reference: &str, node: &Node<'_>, opener: &Opener<'_>) -> Result<OpenImage, Failure> {
    let mut options = opener.options.clone();
    options.containerd = Some(Arc::new(ContentBlobs(node.containerd.clone())));
    match Source::Containerd(reference.to_owned()).open(&options) {
        Err(SourceError::NotFound { what, on, why }) => {
            let whole =
                Source::parse(&format!("docker://{reference}")).ok().and_then(|source| source.image_name());
            match whole.filter(|whole| whole != reference) {
                Some(whole) => Ok(Source::Containerd(whole).open(&options)?),
                None => Err(SourceError::NotFound { what, on, why }.into()),
            }
        }
        opened => Ok(opened?),
    }
}

/// The image `digest` as the plugin keeps it.
fn made(digest: Digest, name: &str, node: &mut Node<'_>) -> Result<Image, Failure> {
    let answer = node.export(digest)?;
    let corrupt = |why: &str| Failure::new(Kind::Corrupt, "export image", name, why);
    let manifest::Document::Image(parsed) = manifest::Document::parse(&answer.manifest, name)? else {
        return Err(corrupt("its manifest is an index"));
    };
    let config_digest = Digest::of(&answer.config);
    if Digest::of(&answer.manifest) != digest || parsed.config.digest != config_digest {
        return Err(corrupt("the plugin has other documents for it"));
    }
    let diff_ids = manifest::Config::parse(&answer.config, name)?.diff_ids;
    let path = Path::new(&answer.layers_path);
    let bytes = fs::read(path).map_err(Failure::io("read layers", path))?;
    let indexes = decode_layers(&bytes)
        .map_err(|error| Failure::new(Kind::Corrupt, "read layers", path.display(), error))?;
    if indexes.len() != diff_ids.len() {
        return Err(corrupt("the plugin has another number of layers for it"));
    }
    let mut layers = Vec::with_capacity(indexes.len());
    for (index, diff_id) in indexes.into_iter().zip(diff_ids) {
        let tar_bytes = tar::tar_bytes(&index).map_err(Failure::tar_write(diff_id))?;
        layers.push(SideLayer { diff_id, tar_bytes, index });
    }
    let objects = ObjectFiles::at(answer.objects_path.into());
    Ok(Image {
        name: name.to_owned(),
        manifest_digest: digest,
        config_digest,
        documents: Some(Documents { manifest: answer.manifest, config: answer.config }),
        layers,
        contents: vec![Arc::new(objects) as Arc<dyn ContentSource>],
        verified: std::collections::HashSet::new(),
    })
}
