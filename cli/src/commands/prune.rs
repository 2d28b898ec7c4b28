//! `d4c prune`: forgets images that containerd does not use.

use di3fs_snapshotter::control::ControlClient;
use serde_json::json;

use crate::config::Config;
use crate::failure::Failure;
use crate::units::Bytes;

/// Has the plugin forget them.
///
/// # Errors
/// The plugin does not answer, or something cannot be removed.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let pruned = ControlClient::connect(&config.control)?.prune()?;
    let value = json!({"images": pruned.images, "objects": pruned.objects, "bytes": pruned.bytes});
    config.output.report(&value, || {
        format!("removed {} images, {} contents, {}\n", pruned.images, pruned.objects, Bytes(pruned.bytes))
    })
}
