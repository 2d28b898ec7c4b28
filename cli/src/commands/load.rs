//! `d4c load FILE…`: images for containerd, without their layers' blobs.
//!
//! The plugin imports each file, which makes its contents; then containerd is told of the image, under its own manifest.

use std::path::PathBuf;

use di3fs_snapshotter::client::{Containerd, NewImage};
use di3fs_snapshotter::control::ControlClient;
use dimg::Digest;
use serde_json::json;

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::STANDARD;
use crate::image::Delta;
use crate::progress::{Progress, Unit};
use crate::units::Bytes;

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The files, each after the one that it was made against
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Name that the last image gets; by default the one in the file, else its digest
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    /// The snapshotter's name in containerd's configuration
    #[arg(long, value_name = "NAME", default_value = "di3fs")]
    snapshotter: String,
}

/// Loads the files.
///
/// # Errors
/// A file is damaged or its base is not there; the plugin or containerd does not answer, or refuses.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    // Faults of files are found here, where they have the names that the user gave.
    let mut names = Vec::with_capacity(options.files.len());
    for path in &options.files {
        if path.as_os_str() == STANDARD {
            return Err(Failure::usage("-", "the plugin reads files by their names"));
        }
        let delta = Delta::open(path, &config.tmpdir)?;
        if delta.file.cdimg().is_none() {
            let why = "a dimg has no manifest and config; d4c pack adds them";
            return Err(Failure::usage(path.display(), why));
        }
        names.push(delta.file.dimg().target().name.clone());
    }
    let plugin = ControlClient::connect(&config.control)?;
    let mut held = Held(Vec::new(), &plugin);
    let containerd = Containerd::connect(&config.address, &config.namespace)?;
    let progress = Progress::new(config.progress);
    let last = options.files.len() - 1;
    let mut results = Vec::with_capacity(options.files.len());
    let mut text = String::new();
    for (number, path) in options.files.iter().enumerate() {
        progress.stage(format!("import {}", path.display()), Unit::Bytes, 0);
        let whole = std::path::absolute(path).map_err(Failure::io("read file", path))?;
        let Some(whole) = whole.to_str() else {
            return Err(Failure::usage(path.display(), "the plugin takes names in UTF-8 only"));
        };
        let made = plugin.import(whole)?;
        held.0.push(made.manifest_digest.clone());
        let layers = digests(&made.layer_digests)?;
        let chain_ids = digests(&made.chain_ids)?;
        let name = match &options.name {
            Some(name) if number == last => name.clone(),
            _ if !names[number].is_empty() => names[number].clone(),
            _ => format!("d4c.local/image@{}", made.manifest_digest),
        };
        let image = NewImage {
            name: &name,
            manifest: &made.manifest,
            media_type: &made.media_type,
            config: &made.config,
            layers: &layers,
            chain_ids: &chain_ids,
        };
        let loaded = containerd.load(&image, &options.snapshotter)?;
        let (contents, bytes) = (made.contents_made, Bytes(made.bytes_made));
        text.push_str(&format!("{}: {contents} contents made, {bytes}\n", loaded.name));
        results.push(json!({
            "file": path.display().to_string(),
            "name": loaded.name,
            "manifest": loaded.manifest.to_string(),
            "contents_made": made.contents_made,
            "bytes_made": made.bytes_made,
            "layers_made": made.layers_made,
        }));
    }
    drop(progress);
    config.output.report(&json!({"images": results}), || text)
}

/// Images that the plugin keeps for us until we have told containerd of them, or failed to.
struct Held<'a>(Vec<String>, &'a ControlClient);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for image in &self.0 {
            // Without an answer the hold runs out.
            let _ = self.1.release(image);
        }
    }
}

fn digests(texts: &[String]) -> Result<Vec<Digest>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error| Failure::new(Kind::Failed, "import", "answer of the plugin", error))
    };
    texts.iter().map(parse).collect()
}
