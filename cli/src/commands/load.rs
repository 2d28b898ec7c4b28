//! `d4c load FILE…`: images for containerd, without their layers' blobs.
//!
//! The plugin imports each file, which makes its contents; then containerd is told of the image, under its own manifest. The image that a
//! delta starts from may be one that only containerd has: the plugin then takes it over first. Files of a folder or a tar file are loaded as
//! far as they lead somewhere from here ([`pick`]).

use std::io::Write;
use std::path::{Path, PathBuf};

use d4c_image::delta::chain_id;
use di3fs_snapshotter::api::control::ImportResponse;
use di3fs_snapshotter::client::Loaded;
use dimg::Digest;
use dimg::content::Bytes;
use serde_json::{Value, json};

use super::images::names;
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
    way: Way,
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
        Ok(Self { way: Way::of(&delta)?, delta, part })
    }

    fn open(path: &Path, config: &Config) -> Result<Self, Failure> {
        if path.as_os_str() == STANDARD {
            return Err(Failure::usage("-", "the plugin reads files by their names"));
        }
        Self::new(Delta::open(path, &config.tmpdir)?, None)
    }

    fn manifest(&self) -> Digest {
        self.delta.file.dimg().target().manifest
    }

    /// The name that its image gets, which `wanted` is if there is one.
    fn name(&self, wanted: Option<&String>) -> String {
        let own = &self.delta.file.dimg().target().name;
        match wanted {
            Some(name) => name.clone(),
            None if !own.is_empty() => own.clone(),
            None => format!("d4c.local/image@{}", self.manifest()),
        }
    }

    /// Has the plugin import it.
    fn import(&self, node: &mut Node<'_>, config: &Config) -> Result<ImportResponse, Failure> {
        let Some(part) = &self.part else { return node.import(&self.delta.path) };
        let mut named = base::Named::new(config)?;
        named.file.write_all(part).map_err(Failure::io("write temporary file", named.pending.path()))?;
        node.import(named.pending.path())
    }
}

/// The files in a tar file, or what is wrong with them.
fn open_tar(path: &Path, config: &Config) -> Result<Vec<Result<Given, Failure>>, Failure> {
    let bytes = Bytes::new(InFile::open(path, &config.tmpdir, &|_| Ok(u64::MAX))?.map);
    let open = |(name, part): (PathBuf, Bytes)| Given::new(Delta::of_bytes(part.clone(), &name)?, Some(part));
    Ok(pick::members(path, &bytes)?.into_iter().map(open).collect())
}

/// What the command was given.
#[derive(Default)]
struct Gathered {
    given: Vec<Given>,
    /// What is wrong with files of folders and tar files.
    damaged: Vec<Failure>,
    /// Whether there is a folder or tar file: only what leads on is loaded then.
    choose: bool,
}

/// Opens all files.
///
/// # Errors
/// One that was named is damaged, or none of a folder or tar file is whole.
fn gather(files: &[PathBuf], config: &Config) -> Result<Gathered, Failure> {
    let mut gathered = Gathered::default();
    let mut empty = None;
    for path in files {
        let (opened, what) = if path.is_dir() {
            (pick::files(path)?.iter().map(|file| Given::open(file, config)).collect(), "folder")
        } else if pick::is_tar(path) {
            (open_tar(path, config)?, "tar file")
        } else {
            gathered.given.push(Given::open(path, config)?);
            continue;
        };
        gathered.choose = true;
        empty.get_or_insert((path, what));
        for opened in opened {
            match opened {
                Err(failure) if failure.kind == Kind::Corrupt => gathered.damaged.push(failure),
                opened => gathered.given.push(opened?),
            }
        }
    }
    match empty.filter(|_| gathered.given.is_empty()) {
        None => Ok(gathered),
        Some((path, what)) => Err(gathered.damaged.pop().unwrap_or_else(|| {
            let why = format!("no *.cdimg in this {what}");
            Failure::new(Kind::NotFound, "load files", path.display(), why)
        })),
    }
}

/// Loads the files.
///
/// # Errors
/// A file is damaged or its base is not there; the plugin or containerd does not answer, or refuses. Of a folder or tar file, nothing leads
/// anywhere; where one in it is damaged, what the others lead to is loaded first.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let Gathered { given, mut damaged, choose } = gather(&options.files, config)?;
    let mut node = Node::connect(config, &options.snapshotter)?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&ImageOptions::default(), config, &progress)?;
    let (mut results, mut text, mut value) = (Vec::new(), String::new(), json!({}));
    let mut files: Vec<&Given> = given.iter().collect();
    if choose {
        let picked = match picked(&given, &node, &opener) {
            Err(failure) => return Err(damaged.pop().unwrap_or(failure)),
            picked => picked?,
        };
        let (mut present, mut out_of_reach) = (Vec::new(), Vec::new());
        for (number, &file) in picked.there.iter().enumerate() {
            let (file, is_last) = (&given[file], picked.files.is_empty() && number + 1 == picked.there.len());
            match name_again(file, options.name.as_ref().filter(|_| is_last), &mut node)? {
                Some(named) => {
                    text.push_str(&format!("{}: is on the node, and has this name now\n", named.name));
                    results.push(said(file, &named, &ImportResponse::default(), None));
                }
                None => {
                    text.push_str(&format!("{}: is on the node\n", file.manifest()));
                    present.push(file.manifest().to_string());
                }
            }
        }
        for file in picked.barred.iter().map(|&file| &given[file]) {
            let (manifest, path) = (file.manifest(), file.delta.path.display());
            text.push_str(&format!("{manifest}: no files lead there from what the node has, not {path}\n"));
            out_of_reach.push(manifest.to_string());
        }
        value = json!({"present": present, "out_of_reach": out_of_reach});
        files = picked.files.iter().map(|&number| &given[number]).collect();
    }
    for (number, file) in files.iter().enumerate() {
        let name = options.name.as_ref().filter(|_| number + 1 == files.len());
        results.push(load(file, name, &mut node, &opener, config, &mut text)?);
    }
    drop(progress);
    value["images"] = results.into();
    let last = damaged.pop();
    damaged.iter().for_each(|failure| text.push_str(&format!("{failure}\n")));
    config.output.report(&value, || text)?;
    last.map_or(Ok(()), Err)
}

/// Has containerd know the image of a file, which is on the node, where it does not: it may have removed it, or have it in another namespace or
/// by another name than it is to get.
fn name_again(file: &Given, name: Option<&String>, node: &mut Node<'_>) -> Result<Option<Loaded>, Failure> {
    let manifest = file.manifest();
    let names = names(&node.containerd)?.remove(&manifest.to_string()).unwrap_or_default();
    let is_named = name.map_or(!names.is_empty(), |name| names.contains(name));
    if is_named || !node.images()?.iter().any(|(kept, _)| *kept == manifest) {
        return Ok(None);
    }
    let made = node.restore(manifest)?;
    Ok(Some(node.load(&file.name(name), &made)?))
}

/// What to load of these files.
///
/// # Errors
/// None leads anywhere; the plugin or containerd does not answer.
fn picked(given: &[Given], node: &Node<'_>, opener: &Opener<'_>) -> Result<pick::Picked, Failure> {
    let there = node.images()?.into_iter();
    let mut present: Vec<Named> =
        there.map(|(manifest, chain)| Named::of(&chain.into_iter().collect::<Vec<_>>(), manifest)).collect();
    for image in base::stored(node, opener)? {
        let chain = (!image.diff_ids.is_empty()).then(|| chain_id(&image.diff_ids));
        present.push(Named::of(&chain.into_iter().collect::<Vec<_>>(), image.manifest));
    }
    let ways: Vec<Way> = given.iter().map(|file| file.way.clone()).collect();
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
    let name = file.name(name);
    let loaded = node.load(&name, &made)?;
    let (contents, bytes) = (units::counted(made.contents_made, "content"), units::Bytes(made.bytes_made));
    text.push_str(&format!("{}: {contents} made, {bytes}\n", loaded.name));
    Ok(said(file, &loaded, &made, unpacked))
}

/// What `--json` says of an image that was loaded.
fn said(file: &Given, loaded: &Loaded, made: &ImportResponse, unpacked: Option<String>) -> Value {
    json!({
        "file": file.delta.path.display().to_string(),
        "name": loaded.name,
        "manifest": loaded.manifest.to_string(),
        "contents_made": made.contents_made,
        "bytes_made": made.bytes_made,
        "layers_made": made.layers_made,
        "unpacked": unpacked,
    })
}
