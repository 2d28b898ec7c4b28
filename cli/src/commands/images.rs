//! `d4c images`: the images that the plugin has.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use d4c_image::error::SourceError;
use d4c_image::source::{Options, Source};
use di3fs_snapshotter::client::{ClientError, Containerd, ContentBlobs};
use di3fs_snapshotter::control::ControlClient;
use dimg::Digest;
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
    // Without containerd they are there, too.
    let mut named = Containerd::connect(&config.address, &config.namespace)
        .and_then(|containerd| names(&containerd))
        .unwrap_or_default();
    let images: Vec<_> = images
        .into_iter()
        .map(|image| (named.remove(&image.manifest_digest).unwrap_or_default(), image))
        .collect();
    let list: Vec<_> = images
        .iter()
        .map(|(names, image)| {
            json!({
                "manifest": image.manifest_digest,
                "names": names,
                "chain_ids": image.chain_ids,
                "bytes": image.bytes,
                "used": image.used,
            })
        })
        .collect();
    config.output.result(&json!({"images": list}), || {
        let mut text = format!("{:<71}  {:>6}  {:>10}  {:<4}  NAMES\n", "MANIFEST", "LAYERS", "SIZE", "USED");
        for (names, image) in &images {
            let (layers, bytes) = (image.chain_ids.len(), Bytes(image.bytes));
            let used = if image.used { "yes" } else { "no" };
            let names = if names.is_empty() { "-".to_owned() } else { names.join(", ") };
            let _ =
                writeln!(text, "{:<71}  {layers:>6}  {bytes:>10}  {used:<4}  {names}", image.manifest_digest);
        }
        text
    })
}

/// The names that images have in containerd, by their manifests. One that cannot be read there has none.
///
/// # Errors
/// containerd does not answer.
pub(super) fn names(containerd: &Containerd) -> Result<HashMap<String, Vec<String>>, ClientError> {
    let mut names: HashMap<_, Vec<_>> = HashMap::new();
    for name in containerd.image_names()? {
        if let Ok(manifest) = manifest(containerd, &name) {
            names.entry(manifest.to_string()).or_default().push(name);
        }
    }
    Ok(names)
}

/// The manifest of the image that containerd has by this name: of an index, that for this machine.
///
/// # Errors
/// There is none, or containerd does not answer.
pub(super) fn manifest(containerd: &Containerd, name: &str) -> Result<Digest, SourceError> {
    let options =
        Options { containerd: Some(Arc::new(ContentBlobs(containerd.clone()))), ..Options::default() };
    Ok(Source::Containerd(name.to_owned()).open(&options)?.manifest_digest())
}
