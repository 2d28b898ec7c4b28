//! `d4c status [FILE…]`: how the plugin is, and how an image would be reached from what it has.

use std::collections::HashSet;
use std::path::PathBuf;

use d4c_image::manifest::Document;
use di3fs_snapshotter::control::ControlClient;
use di3fs_snapshotter::import::chain_ids;
use dimg::Digest;
use serde_json::json;

use super::reach::{Named, Reach, Way};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::Delta;
use crate::units::{Bytes, counted};

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

/// How much longer than copying a byte it takes to inflate a layer and unpack its tar.
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
        "contents_failed": status.contents_failed,
        "store_bytes": status.store_bytes,
        "store_limit": (status.store_limit > 0).then_some(status.store_limit),
        "free_bytes": status.free_bytes,
    });
    let reach = match deltas.is_empty() {
        true => None,
        false => Some(reach(options, &deltas, &client)?),
    };
    if let Some(reach) = &reach {
        value["reach"] = reach.json();
    }
    let limit = match status.store_limit {
        0 => String::new(),
        limit => format!(" of {}", Bytes(limit)),
    };
    config.output.result(&value, || {
        let row = |name: &str, value: String| format!("{name:<10}{value}\n");
        [
            row("version", status.version.clone()),
            row("route", status.route.clone()),
            row("images", status.images.to_string()),
            row("trees", status.trees.to_string()),
            row(
                "made",
                format!("{}, {}", counted(status.contents_made, "content"), Bytes(status.bytes_made)),
            ),
            row("reused", counted(status.contents_reused, "content")),
            row(
                "removed",
                format!("{}, {}", counted(status.contents_removed, "content"), Bytes(status.bytes_removed)),
            ),
            row("failed", counted(status.contents_failed, "open")),
            row(
                "contents",
                format!("{}{limit}, {} free", Bytes(status.store_bytes), Bytes(status.free_bytes)),
            ),
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
        present.push(Named::of(&ids, parsed(&image.manifest_digest)?));
        chains.extend(ids);
    }
    let mut ways: Vec<Way> = Vec::new();
    let mut pulled = HashSet::new();
    for delta in deltas {
        let way = Way::of(delta)?;
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
