//! `d4c status [FILE…]`: how the plugin is, and how an image would be reached from what it has.

mod reach;

use std::collections::HashSet;
use std::path::PathBuf;

use d4c_image::manifest::Document;
use di3fs_snapshotter::control::ControlClient;
use di3fs_snapshotter::import::chain_ids;
use dimg::Digest;
use dimg::format::StageCodec;
use serde_json::json;

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::Delta;
use crate::units::Bytes;
use reach::{Named, Reach, Way};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Deltas and base files that could be loaded: says how an image would be reached from what the node has
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The image to reach, by the digest of its manifest (default: the one that the last file makes)
    #[arg(long, value_name = "DIGEST", requires = "files")]
    target: Option<Digest>,
}

/// How much longer than copying a byte it takes to move addresses, and to deflate.
const RELOCATED_FACTOR: u64 = 2;
const PACKED_FACTOR: u64 = 25;
/// The same for inflating a layer and unpacking its tar.
const PULLED_FACTOR: u32 = 4;

/// Prints it.
///
/// # Errors
/// The plugin does not answer, a file is damaged, or no file makes the target.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let deltas = options.files.iter().map(|path| Delta::open(path, &config.tmpdir));
    let deltas = deltas.collect::<Result<Vec<_>, _>>()?;
    let client = ControlClient::connect(&config.control)?;
    let status = client.status()?;
    let mut value = json!({
        "version": status.version,
        "route": status.route,
        "images": status.images,
        "trees": status.trees,
        "contents_made": status.contents_made,
        "bytes_made": status.bytes_made,
        "contents_reused": status.contents_reused,
        "contents_removed": status.contents_removed,
        "bytes_removed": status.bytes_removed,
    });
    let reach = match deltas.is_empty() {
        true => None,
        false => Some(reach(options, &deltas, &client)?),
    };
    if let Some(reach) = &reach {
        value["reach"] = reach.json();
    }
    config.output.result(&value, || {
        let row = |name: &str, value: String| format!("{name:<10}{value}\n");
        [
            row("version", status.version.clone()),
            row("route", status.route.clone()),
            row("images", status.images.to_string()),
            row("trees", status.trees.to_string()),
            row("made", format!("{} contents, {}", status.contents_made, Bytes(status.bytes_made))),
            row("reused", format!("{} contents", status.contents_reused)),
            row("removed", format!("{} contents, {}", status.contents_removed, Bytes(status.bytes_removed))),
            reach.as_ref().map(Reach::text).unwrap_or_default(),
        ]
        .concat()
    })
}

/// How the target would be reached.
fn reach(options: &Options, deltas: &[Delta], client: &ControlClient) -> Result<Reach, Failure> {
    let (mut present, mut chains) = (Vec::new(), HashSet::new());
    for image in client.images()?.images {
        let parsed = |text: &str| {
            text.parse::<Digest>().map_err(|error| Failure::new(Kind::Failed, "list images", text, error))
        };
        let ids = image.chain_ids.iter().map(|id| parsed(id)).collect::<Result<Vec<_>, _>>()?;
        present.push(named(&ids, parsed(&image.manifest_digest)?));
        chains.extend(ids);
    }
    let mut ways: Vec<Way> = Vec::new();
    let mut pulled = HashSet::new();
    for delta in deltas {
        let way = way(delta)?;
        let pull = pull(delta, way.target, &chains).filter(|pull| pulled.insert(pull.target.chain));
        ways.push(way);
        ways.extend(pull);
    }
    let mut made = ways.iter().rev().filter(|way| way.file.is_some()).map(|way| way.target);
    let target = match options.target {
        None => made.next(),
        Some(wanted) => made.chain(present.iter().copied()).find(|image| image.manifest == wanted),
    };
    let target = target.ok_or_else(|| {
        let on = options.target.map(|digest| digest.to_string()).unwrap_or_default();
        Failure::new(Kind::NotFound, "reach image", on, "no file makes it")
    })?;
    Ok(Reach::find(target, &present, ways))
}

/// An image by the chain IDs of its layers. One without layers is known by zeros: it has no chain ID.
fn named(chain_ids: &[Digest], manifest: Digest) -> Named {
    Named { chain: chain_ids.last().copied().unwrap_or(Digest([0; 32])), manifest }
}

/// What loading the file would do.
fn way(delta: &Delta) -> Result<Way, Failure> {
    let dimg = delta.file.dimg();
    let (mut made_bytes, mut work) = (0u64, 0u64);
    for (content, recipe) in dimg.contents().map_err(Failure::delta(&delta.path))? {
        let factor = recipe.stages.iter().map(|stage| match stage.codec {
            StageCodec::Elf => RELOCATED_FACTOR,
            StageCodec::Pack => PACKED_FACTOR,
            _ => 1,
        });
        made_bytes = made_bytes.saturating_add(content.size);
        work = work.saturating_add(content.size.saturating_mul(factor.max().unwrap_or(1)));
    }
    let target: Vec<Digest> = dimg.target().diff_ids().collect();
    Ok(Way {
        file: Some(delta.path.display().to_string()),
        source: dimg.parent().map(|parent| named(&chain_ids(&parent.layers), parent.manifest)),
        target: named(&chain_ids(&target), dimg.target().manifest),
        fetch_bytes: delta.bytes,
        made_bytes,
        apply_factor: u32::try_from(work.div_ceil(made_bytes.max(1))).unwrap_or(u32::MAX).max(1),
    })
}

/// Pulling the target's layers that the node does not have, where the file has the manifest that tells their sizes.
fn pull(delta: &Delta, target: Named, chains: &HashSet<Digest>) -> Option<Way> {
    let Ok(Document::Image(manifest)) = Document::parse(delta.file.cdimg()?.manifest(), "manifest") else {
        return None;
    };
    let layers = &delta.file.dimg().target().layers;
    let ids = chain_ids(&layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>());
    let (mut fetch_bytes, mut made_bytes) = (0u64, 0u64);
    for ((blob, layer), id) in manifest.layers.iter().zip(layers).zip(ids) {
        if !chains.contains(&id) {
            fetch_bytes = fetch_bytes.saturating_add(blob.size);
            made_bytes = made_bytes.saturating_add(layer.tar_bytes);
        }
    }
    Some(Way { file: None, source: None, target, fetch_bytes, made_bytes, apply_factor: PULLED_FACTOR })
}
