//! `d4c pull REF`: an image onto this node, by the cheapest deltas from what it has, else by its layers.
//!
//! Deltas are looked for in the image's own repository, over the images that they start from. What makes them unusable, a damaged one
//! included, is told and leads to the layers: those are fetched as usual, made into a base file and imported as such, so that the
//! next update finds the contents on the node.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use d4c_image::delta::{self, Choice, Present, Published, chain_id};
use d4c_image::error::SourceError;
use d4c_image::source::{RemoteImage, Source};
use di3fs_snapshotter::api::control::ImportResponse;
use di3fs_snapshotter::client::NewImage;
use dimg::Digest;
use dimg::path::Weights;
use serde_json::{Value, json};

use super::build::{self, LevelChoice};
use super::node::{Node, digests};
use super::publish::SCHEME;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::aside;
use crate::image::{Delta, ImageOptions, Opener};
use crate::interrupt::Pending;
use crate::progress::{Progress, Unit};
use crate::units::Bytes;

/// Options of `pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image, by tag or digest
    #[arg(value_name = "REF")]
    reference: String,
    /// Name that the image gets in containerd (default: REF in full)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The snapshotter's name in containerd's configuration
    #[arg(long, value_name = "NAME", default_value = "di3fs")]
    snapshotter: String,
    #[command(flatten)]
    image: ImageOptions,
}

/// Pulls the image.
///
/// # Errors
/// There is no such image; the registry, the plugin or containerd does not answer, or refuses.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let text = &options.reference;
    let whole = if text.starts_with(SCHEME) { text.clone() } else { format!("{SCHEME}{text}") };
    let Source::Registry(reference) = Source::parse(&whole)? else {
        return Err(Failure::usage(text, "not a reference to an image"));
    };
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.image, config, &progress)?;
    let node = Node::connect(config, &options.snapshotter)?;
    progress.stage(format!("find {text}"), Unit::Bytes, 0);
    let image = RemoteImage::resolve(&reference, &opener.options)?;
    let name = options.name.clone().unwrap_or_else(|| reference.whole());
    let mut pull = Pull { image, name, node, opener: &opener, config };
    let done = pull.run()?;
    let (value, text) = pull.report(&done);
    drop(pull);
    drop(progress);
    config.output.report(&value, || text)
}

/// A pull on its way.
struct Pull<'a> {
    image: RemoteImage,
    name: String,
    node: Node<'a>,
    opener: &'a Opener<'a>,
    config: &'a Config,
}

/// How the image came.
struct Done {
    how: How,
    /// Why no deltas were used.
    reason: Option<String>,
    contents_made: u64,
    bytes_made: u64,
}

enum How {
    Present,
    Deltas(Vec<Published>),
    Layers,
}

/// A file that the plugin can open by its name, for as long as this lives.
struct Named {
    file: File,
    pending: Pending,
}

impl Pull<'_> {
    fn run(&mut self) -> Result<Done, Failure> {
        let reason = match self.choose() {
            Ok(Choice::Present) => match self.adopt() {
                Ok(()) => {
                    return Ok(Done { how: How::Present, reason: None, contents_made: 0, bytes_made: 0 });
                }
                Err(failure) => failure.to_string(),
            },
            Ok(Choice::Deltas(deltas)) => match self.by_deltas(&deltas) {
                Ok(made) => return self.done(How::Deltas(deltas), None, &made),
                // The layers would not fit either.
                Err(failure) if failure.kind == Kind::NoSpace => return Err(failure),
                Err(failure) => failure.to_string(),
            },
            Ok(Choice::Pull(why)) => why.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::info!(image = self.name, reason, "pulling the layers");
        let made = self.by_layers()?;
        self.done(How::Layers, Some(reason), &made)
    }

    fn done(&self, how: How, reason: Option<String>, made: &ImportResponse) -> Result<Done, Failure> {
        self.node.load(&self.name, made)?;
        Ok(Done { how, reason, contents_made: made.contents_made, bytes_made: made.bytes_made })
    }

    /// How to get the image from what is on the node.
    fn choose(&self) -> Result<Choice, Failure> {
        self.opener.progress.stage("look for deltas", Unit::Bytes, 0);
        let mut present = Vec::new();
        for image in self.node.plugin.images()?.images {
            present.push(Present {
                manifest: digests(std::slice::from_ref(&image.manifest_digest))?
                    .first()
                    .copied()
                    .unwrap_or(Digest([0; 32])),
                chain_id: digests(&image.chain_ids)?.last().copied(),
                missing_bytes: 0,
            });
        }
        let repository = self.image.repository();
        let list = |target| delta::list(repository, target);
        let pull_bytes = self.image.pull_bytes();
        Ok(delta::plan(self.image.digest(), pull_bytes, &present, &Weights::default(), list)?)
    }

    /// Tells containerd of an image that the plugin has already.
    fn adopt(&self) -> Result<(), Failure> {
        let (config_bytes, config) = self.image.config(&self.opener.options)?;
        let manifest = self.image.manifest();
        let layers: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
        let chain_ids: Vec<Digest> =
            (1..=config.diff_ids.len()).map(|count| chain_id(&config.diff_ids[..count])).collect();
        self.node.load_image(&NewImage {
            name: &self.name,
            manifest: self.image.manifest_bytes(),
            media_type: &manifest.media_type,
            config: &config_bytes,
            layers: &layers,
            chain_ids: &chain_ids,
        })?;
        Ok(())
    }

    /// Fetches and imports deltas, each after the one that it starts from; what the last one made.
    fn by_deltas(&mut self, deltas: &[Published]) -> Result<ImportResponse, Failure> {
        let mut last: Option<ImportResponse> = None;
        for (number, published) in deltas.iter().enumerate() {
            let stage = format!("fetch delta {} of {}", number + 1, deltas.len());
            self.opener.progress.stage(stage, Unit::Bytes, published.bytes);
            let named = self.named()?;
            let handle = named.file.try_clone().map_err(Failure::io("open file", named.pending.path()))?;
            let repository = self.image.repository();
            delta::fetch(repository, published, handle, Some(self.opener.progress.on_bytes()))?;
            check(&named, published)?;
            self.opener.progress.stage("make contents", Unit::Bytes, 0);
            let mut made = self.node.import(named.pending.path())?;
            if let Some(before) = last {
                made.contents_made += before.contents_made;
                made.bytes_made += before.bytes_made;
            }
            last = Some(made);
        }
        last.ok_or_else(|| Failure::new(Kind::Failed, "pull", &self.name, "no deltas"))
    }

    /// Fetches the layers and imports them as a base file.
    fn by_layers(&mut self) -> Result<ImportResponse, Failure> {
        let open = self.image.open(&self.opener.options)?;
        let image = self.opener.read(&open)?;
        let mut named = self.named()?;
        let path = named.pending.path().to_owned();
        let make = build::Make {
            level: LevelChoice::Fast.level(),
            codec: dimg::build::Codec::Store,
            memory_bytes: 1 << 30,
            name: self.name.clone(),
            dir: self.config.tmpdir.clone(),
        };
        build::make(None, &image, make, (&mut named.file, &path), self.opener)?;
        drop(image);
        self.opener.progress.stage("make contents", Unit::Bytes, 0);
        self.node.import(&path)
    }

    /// An empty file in the directory of temporary files.
    fn named(&self) -> Result<Named, Failure> {
        let path: PathBuf = aside(&self.config.tmpdir.join("pull.cdimg"));
        let pending = Pending::new(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(pending.path())
            .map_err(Failure::io("make temporary file", pending.path()))?;
        Ok(Named { file, pending })
    }

    fn report(&self, done: &Done) -> (Value, String) {
        let (pull_bytes, fetched_bytes) = (self.image.pull_bytes(), self.image.repository().received_bytes());
        let (how, deltas) = match &done.how {
            How::Present => ("present", &[][..]),
            How::Deltas(deltas) => ("deltas", deltas.as_slice()),
            How::Layers => ("layers", &[][..]),
        };
        let list: Vec<Value> = deltas
            .iter()
            .map(|delta| {
                json!({
                    "manifest": delta.manifest.to_string(),
                    "source": delta.source.map(|source| source.manifest.to_string()),
                    "target": delta.target.to_string(),
                    "bytes": delta.bytes,
                })
            })
            .collect();
        let value = json!({
            "name": self.name,
            "manifest": self.image.digest().to_string(),
            "how": how,
            "reason": done.reason,
            "deltas": list,
            "fetched_bytes": fetched_bytes,
            "pull_bytes": pull_bytes,
            "contents_made": done.contents_made,
            "bytes_made": done.bytes_made,
        });
        let (fetched, pull) = (Bytes(fetched_bytes), Bytes(pull_bytes));
        let how = match &done.how {
            How::Present => "there already".to_owned(),
            How::Deltas(deltas) => {
                let plural = if deltas.len() == 1 { "delta" } else { "deltas" };
                format!("{} {plural}, {fetched} fetched; the layers are {pull}", deltas.len())
            }
            How::Layers => {
                let reason = done.reason.as_deref().unwrap_or("no deltas");
                format!("the layers, {fetched} fetched: {reason}")
            }
        };
        (value, format!("{}: {how}\n", self.name))
    }
}

/// That a file from the registry makes what its listing says, from what it says.
fn check(named: &Named, published: &Published) -> Result<(), Failure> {
    let path = named.pending.path();
    let delta = Delta::of(&named.file, path)?;
    let dimg = delta.file.dimg();
    let wrong = |why: &str| {
        let on = format!("delta {}", published.manifest);
        Failure::from(SourceError::Corrupt { what: "fetch delta", on, offset: None, why: why.to_owned() })
    };
    if delta.file.cdimg().is_none() {
        return Err(wrong("is no cdimg"));
    }
    if dimg.target().manifest != published.target {
        return Err(wrong("makes another image than it is listed for"));
    }
    if dimg.parent().map(|parent| parent.manifest) != published.source.map(|source| source.manifest) {
        return Err(wrong("starts from another image than it is listed with"));
    }
    Ok(())
}
