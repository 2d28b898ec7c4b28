//! `d4c status`: how the plugin is.

use di3fs_snapshotter::control::ControlClient;
use serde_json::json;

use crate::config::Config;
use crate::failure::Failure;
use crate::units::Bytes;

/// Prints it.
///
/// # Errors
/// The plugin does not answer.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let status = ControlClient::connect(&config.control)?.status()?;
    let value = json!({
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
        ]
        .concat()
    })
}
