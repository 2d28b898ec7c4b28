//! `d4c prune [--keep SIZE]`: forgets images that containerd does not use, and gives back contents that can be made again.

use di3fs_snapshotter::control::ControlClient;
use serde_json::json;

use super::{base, downloads};
use crate::config::Config;
use crate::failure::Failure;
use crate::units::{Bytes, counted, parse_size};

/// Options of `prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Then remove contents that can be made again and that no container can see, the oldest first, until all have at most this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep: Option<u64>,
}

/// Has the plugin forget them.
///
/// # Errors
/// The plugin does not answer, or something cannot be removed.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    downloads::sweep(&config.tmpdir);
    base::sweep(&config.tmpdir);
    let pruned = ControlClient::connect(&config.control)?.prune(options.keep)?;
    let mut value = json!({"images": pruned.images, "objects": pruned.objects, "bytes": pruned.bytes});
    if options.keep.is_some() {
        value["left_bytes"] = json!(pruned.left_bytes);
    }
    config.output.report(&value, || {
        let (images, contents) = (counted(pruned.images, "image"), counted(pruned.objects, "content"));
        let bytes = Bytes(pruned.bytes);
        let left = options.keep.map(|_| format!(", {} are left", Bytes(pruned.left_bytes)));
        format!("removed {images}, {contents}, {bytes}{}\n", left.unwrap_or_default())
    })
}
