//! `d4c prefetch REF`: makes all contents of a loaded image that nobody has opened yet.

use std::time::Instant;

use di3fs_snapshotter::client::Containerd;
use di3fs_snapshotter::control::ControlClient;
use dimg::Digest;
use serde_json::json;

use super::images;
use crate::config::Config;
use crate::failure::Failure;
use crate::units::{Bytes, counted};

/// Options of `prefetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image: its name in containerd, or the digest of its manifest
    #[arg(value_name = "REF")]
    image: String,
}

/// Has the plugin make them, and waits until it has.
///
/// # Errors
/// The image is not known, or something of it cannot be made.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let started = Instant::now();
    let digest = match options.image.parse::<Digest>() {
        Ok(digest) => digest,
        Err(_) => {
            let containerd = Containerd::connect(&config.address, &config.namespace)?;
            images::manifest(&containerd, &options.image)?
        }
    };
    let made = ControlClient::connect(&config.control)?.prefetch(&digest.to_string())?;
    let value = json!({
        "image": options.image,
        "manifest": digest.to_string(),
        "contents": made.contents_made,
        "bytes": made.bytes_made,
        "ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    config.output.report(&value, || {
        let contents = counted(made.contents_made, "content");
        format!("{}: made {contents}, {}\n", options.image, Bytes(made.bytes_made))
    })
}
