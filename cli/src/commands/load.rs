//! `d4c load FILE…`: images for containerd, without their layers' blobs.
//!
//! The plugin imports each file, which makes its contents; then containerd is told of the image, under its own manifest. The image that a
//! delta starts from may be one that only containerd has: the plugin then takes it over first.

use std::path::PathBuf;

use serde_json::json;

use super::base;
use super::node::Node;
use crate::config::Config;
use crate::failure::Failure;
use crate::files::STANDARD;
use crate::image::{Delta, ImageOptions, Opener};
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
        let dimg = delta.file.dimg();
        names.push((dimg.target().name.clone(), dimg.parent().cloned()));
    }
    let mut node = Node::connect(config, &options.snapshotter)?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&ImageOptions::default(), config, &progress)?;
    let last = options.files.len() - 1;
    let mut results = Vec::with_capacity(options.files.len());
    let mut text = String::new();
    for (number, path) in options.files.iter().enumerate() {
        let (name, parent) = &names[number];
        let unpacked = match parent {
            Some(parent) => base::require(&mut node, parent, &opener, config)?,
            None => None,
        };
        progress.stage(format!("import {}", path.display()), Unit::Bytes, 0);
        let made = node.import(path)?;
        let name = match &options.name {
            Some(name) if number == last => name.clone(),
            _ if !name.is_empty() => name.clone(),
            _ => format!("d4c.local/image@{}", made.manifest_digest),
        };
        let loaded = node.load(&name, &made)?;
        let (contents, bytes) = (made.contents_made, Bytes(made.bytes_made));
        text.push_str(&format!("{}: {contents} contents made, {bytes}\n", loaded.name));
        results.push(json!({
            "file": path.display().to_string(),
            "name": loaded.name,
            "manifest": loaded.manifest.to_string(),
            "contents_made": made.contents_made,
            "bytes_made": made.bytes_made,
            "layers_made": made.layers_made,
            "unpacked": unpacked,
        }));
    }
    drop(progress);
    config.output.report(&json!({"images": results}), || text)
}
