//! `d4c load FILE…`: images for containerd, without their layers' blobs.
//!
//! The plugin imports each file, which makes its contents; then containerd is told of the image, under its own manifest. The image that a
//! delta starts from may be one that only containerd has: the plugin then takes it over first. Files of a folder or a tar file are loaded as
//! far as they lead somewhere from here ([`pick`]).

use std::io::Write;
use std::path::{Path, PathBuf};

use d4c_image::delta::chain_id;
use di3fs_snapshotter::api::control::ImportResponse;
use dimg::Digest;
use dimg::content::Bytes;
use serde_json::{Value, json};

use super::node::Node;
use super::reach::{Named, Way};
use super::{base, pick};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::{InFile, STANDARD};
use crate::image::{Delta, ImageOptions, Opener};
use crate::progress::{Progress, Unit};
use crate::units;

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The files, each after the one that it was made against. With a folder or a tar file of them among these, those of all that lead from
    /// what the node has to the last images, the cheapest way
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Name that the last image gets; by default the one in the file, else its digest
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    /// The snapshotter's name in containerd's configuration
    #[arg(long, value_name = "NAME", default_value = "di3fs")]
    snapshotter: String,
}

/// A file that can be loaded.
struct Given {
    delta: Delta,
    /// Its bytes where it is a part of a file: the plugin reads whole ones.
    part: Option<Bytes>,
}

impl Given {
    /// Faults of files are found here, where they have the names that the user gave.
    fn new(delta: Delta, part: Option<Bytes>) -> Result<Self, Failure> {
        if delta.file.cdimg().is_none() {
            let why = "a dimg has no manifest and config; d4c pack adds them";
            return Err(Failure::usage(delta.path.display(), why));
        }
        Ok(Self { delta, part })
    }

    fn open(path: &Path, config: &Config) -> Result<Self, Failure> {
        if path.as_os_str() == STANDARD {
            return Err(Failure::usage("-", "the plugin reads files by their names"));
        }
        Self::new(Delta::open(path, &config.tmpdir)?, None)
    }

    /// Has the plugin import it.
    fn import(&self, node: &mut Node<'_>, config: &Config) -> Result<ImportResponse, Failure> {
        let Some(part) = &self.part else { return node.import(&self.delta.path) };
        let mut named = base::Named::new(config)?;
        named.file.write_all(part).map_err(Failure::io("write temporary file", named.pending.path()))?;
        node.import(named.pending.path())
    }
}

/// The files in a tar file.
fn open_tar(path: &Path, config: &Config) -> Result<Vec<Given>, Failure> {
    let bytes = Bytes::new(InFile::open(path, &config.tmpdir, &|_| Ok(u64::MAX))?.map);
    let open = |(name, part): (PathBuf, Bytes)| Given::new(Delta::of_bytes(part.clone(), &name)?, Some(part));
    pick::members(path, &bytes)?.into_iter().map(open).collect()
}

/// Loads the files.
///
/// # Errors
/// A file is damaged or its base is not there; the plugin or containerd does not answer, or refuses. Of a folder or tar file, nothing leads anywhere.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let (mut given, mut choose, mut empty) = (Vec::new(), false, None);
    for path in &options.files {
        let what = if path.is_dir() {
            for file in pick::files(path)? {
                given.push(Given::open(&file, config)?);
            }
            "folder"
        } else if pick::is_tar(path) {
            given.extend(open_tar(path, config)?);
            "tar file"
        } else {
            given.push(Given::open(path, config)?);
            continue;
        };
        choose = true;
        empty.get_or_insert((path, what));
    }
    if given.is_empty()
        && let Some((path, what)) = empty
    {
        let why = format!("no *.cdimg in this {what}");
        return Err(Failure::new(Kind::NotFound, "load files", path.display(), why));
    }
    let mut node = Node::connect(config, &options.snapshotter)?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&ImageOptions::default(), config, &progress)?;
    let (mut results, mut text, mut value) = (Vec::new(), String::new(), json!({}));
    let mut files: Vec<&Given> = given.iter().collect();
    if choose {
        let picked = picked(&given, &node, &opener)?;
        let manifests = |list: &[Digest]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for manifest in &picked.there {
            text.push_str(&format!("{manifest}: is on the node\n"));
        }
        for manifest in &picked.barred {
            text.push_str(&format!("{manifest}: no files lead there from what the node has\n"));
        }
        value = json!({"present": manifests(&picked.there), "out_of_reach": manifests(&picked.barred)});
        files = picked.files.iter().map(|&number| &given[number]).collect();
    }
    for (number, file) in files.iter().enumerate() {
        let name = options.name.as_ref().filter(|_| number + 1 == files.len());
        results.push(load(file, name, &mut node, &opener, config, &mut text)?);
    }
    drop(progress);
    value["images"] = results.into();
    config.output.report(&value, || text)
}

/// What to load of these files.
///
/// # Errors
/// One is damaged, or none leads anywhere; the plugin or containerd does not answer.
fn picked(given: &[Given], node: &Node<'_>, opener: &Opener<'_>) -> Result<pick::Picked, Failure> {
    let there = node.images()?.into_iter();
    let mut present: Vec<Named> =
        there.map(|(manifest, chain)| Named::of(&chain.into_iter().collect::<Vec<_>>(), manifest)).collect();
    for image in base::stored(node, opener)? {
        let chain = (!image.diff_ids.is_empty()).then(|| chain_id(&image.diff_ids));
        present.push(Named::of(&chain.into_iter().collect::<Vec<_>>(), image.manifest));
    }
    let ways = given.iter().map(|file| Way::of(&file.delta)).collect::<Result<Vec<_>, _>>()?;
    let picked = pick::pick(&ways, &present);
    if !(picked.files.is_empty() && picked.there.is_empty()) {
        return Ok(picked);
    }
    let (on, why) = match pick::missing(&ways, &present) {
        Some((way, base)) => {
            (way.called(), format!("nothing leads to its base, {base}, from what the node has"))
        }
        None => ("all", "they lead in a circle, to no last image".to_owned()),
    };
    Err(Failure::new(Kind::NotFound, "load files", on, why))
}

/// Loads one file; what it says of it.
fn load(
    file: &Given,
    name: Option<&String>,
    node: &mut Node<'_>,
    opener: &Opener<'_>,
    config: &Config,
    text: &mut String,
) -> Result<Value, Failure> {
    let delta = &file.delta;
    let dimg = delta.file.dimg();
    let unpacked = match dimg.parent() {
        Some(parent) => base::require(node, parent, opener, config)?,
        None => None,
    };
    opener.progress.stage(format!("import {}", delta.path.display()), Unit::Bytes, 0);
    let made = file.import(node, config)?;
    let name = match name {
        Some(name) => name.clone(),
        None if !dimg.target().name.is_empty() => dimg.target().name.clone(),
        None => format!("d4c.local/image@{}", made.manifest_digest),
    };
    let loaded = node.load(&name, &made)?;
    let (contents, bytes) = (units::counted(made.contents_made, "content"), units::Bytes(made.bytes_made));
    text.push_str(&format!("{}: {contents} made, {bytes}\n", loaded.name));
    Ok(json!({
        "file": delta.path.display().to_string(),
        "name": loaded.name,
        "manifest": loaded.manifest.to_string(),
        "contents_made": made.contents_made,
        "bytes_made": made.bytes_made,
        "layers_made": made.layers_made,
        "unpacked": unpacked,
    }))
}
