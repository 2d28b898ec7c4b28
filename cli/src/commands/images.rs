//! `d4c images`: the images that the plugin has.

use std::fmt::Write;

use di3fs_snapshotter::control::ControlClient;
use serde_json::json;

use crate::config::Config;
use crate::failure::Failure;
use crate::units::Bytes;

/// Prints the list.
///
/// # Errors
/// The plugin does not answer.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let images = ControlClient::connect(&config.control)?.images()?.images;
    let list: Vec<_> = images
        .iter()
        .map(|image| {
            json!({
                "manifest": image.manifest_digest,
                "chain_ids": image.chain_ids,
                "bytes": image.bytes,
                "used": image.used,
            })
        })
        .collect();
    config.output.result(&json!({"images": list}), || {
        let mut text = format!("{:<71}  {:>6}  {:>10}  USED\n", "MANIFEST", "LAYERS", "SIZE");
        for image in &images {
            let (layers, bytes) = (image.chain_ids.len(), Bytes(image.bytes));
            let used = if image.used { "yes" } else { "no" };
            let _ = writeln!(text, "{:<71}  {layers:>6}  {bytes:>10}  {used}", image.manifest_digest);
        }
        text
    })
}
