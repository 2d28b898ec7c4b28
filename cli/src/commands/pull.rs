//! `d4c pull REF`: an image onto this node, by the cheapest deltas from what it has, else by its layers.
//!
//! Deltas are looked for in the image's own repository, over the images that they start from. What makes them unusable, a damaged one
//! included, is told and leads to the layers: those are fetched as usual, made into a base file and imported as such, so that the
//! next update finds the contents on the node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use d4c_image::delta::{self, Choice, Place, Present, Published, Served, TrustedKey, Wanted};
use d4c_image::registry::{Partial, Partials};
use d4c_image::source::{Reference, RemoteImage, Source};
use di3fs_snapshotter::api::control::ImportResponse;
use di3fs_snapshotter::config::trusted_keys;
use dimg::Digest;
use dimg::path::Weights;
use serde_json::{Value, json};

use super::base::{self, Stored};
use super::downloads::Folder;
use super::node::Node;
use super::publish::SCHEME;
use crate::config::{Config, remembered_registries};
use crate::failure::{Failure, Kind};
use crate::image::{ImageOptions, Opener};
use crate::progress::{Progress, Unit};
use crate::units::{Bytes, parse_server};

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
    /// A d4c serve to ask where the registry has no delta that leads there at once
    #[arg(long, value_name = "URL", env = "D4C_SERVE", value_parser = parse_server)]
    serve: Option<String>,
    /// Seconds until it begins to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    serve_timeout: u64,
    /// Public key that deltas must be signed with, as of cosign (default: trusted_keys of /etc/di3fs/config.toml, else none)
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
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
    let keys = match options.key.is_empty() {
        true => trusted_keys(None).map_err(|error| Failure::usage("trusted_keys", error))?,
        false => options.key.clone(),
    };
    let keys = keys.iter().map(|path| TrustedKey::read(path)).collect::<Result<Vec<_>, _>>()?;
    let progress = Progress::new(config.progress);
    let mut opener = Opener::new(&options.image, config, &progress)?;
    opener.options.registry.memory = remembered_registries();
    let node = Node::connect(config, &options.snapshotter)?;
    let folder = Folder::open(&config.tmpdir)?;
    base::sweep(&config.tmpdir);
    opener.options.partials = Some(Arc::clone(&folder.partials));
    progress.stage(format!("find {text}"), Unit::Bytes, 0);
    let resolve = || RemoteImage::resolve(&reference, &opener.options);
    // What is here is looked at while the registry is waited for.
    let (image, here) = std::thread::scope(|scope| {
        let thread = d4c_sys::spawn_scoped(scope, resolve);
        let here = here(&node, &opener);
        (thread.and_then(|thread| thread.join().ok()).unwrap_or_else(resolve), here)
    });
    let image = image?;
    let name = options.name.clone().unwrap_or_else(|| reference.whole());
    let served = options.serve.clone().map(|server| Server {
        server,
        reference: reference.clone(),
        patience: Duration::from_secs(options.serve_timeout),
        told: None,
    });
    let (stored, present) = (Vec::new(), Vec::new());
    let partials = &*folder.partials;
    let mut pull =
        Pull { image, name, node, stored, present, served, keys, opener: &opener, partials, config };
    let done = pull.run(here)?;
    let (value, text) = pull.report(&done);
    drop(pull);
    drop(progress);
    config.output.report(&value, || text)
}

/// What deltas can start from, and what of that containerd pulled itself.
type Here = (Vec<Present>, Vec<Stored>);

/// What is on the node.
///
/// # Errors
/// The plugin does not answer.
fn here(node: &Node<'_>, opener: &Opener<'_>) -> Result<Here, Failure> {
    let mut present: Vec<Present> = Vec::new();
    for (manifest, chain_id) in node.images()? {
        present.push(Present { manifest, chain_id, missing_bytes: 0, packed_bytes: 0 });
    }
    let stored = base::stored(node, opener).unwrap_or_else(|failure| {
        tracing::warn!(%failure, "images that containerd pulled are not looked at");
        Vec::new()
    });
    present.extend(stored.iter().map(Stored::present));
    Ok((present, stored))
}

/// A pull on its way.
struct Pull<'a> {
    image: RemoteImage,
    name: String,
    node: Node<'a>,
    /// What containerd pulled itself.
    stored: Vec<Stored>,
    /// What deltas can start from, that included.
    present: Vec<Present>,
    served: Option<Server>,
    /// Those that deltas must be signed with; none where they need not be.
    keys: Vec<TrustedKey>,
    opener: &'a Opener<'a>,
    /// Where downloads go.
    partials: &'a Partials,
    config: &'a Config,
}

/// Who is asked for deltas beside the registry.
struct Server {
    server: String,
    reference: Reference,
    patience: Duration,
    /// Why it was of no use, where it was asked.
    told: Option<String>,
}

/// How the image came.
struct Done {
    how: How,
    /// Why no deltas were used.
    reason: Option<String>,
    /// The image that the plugin took over from containerd on the way, and the bytes of contents made for it.
    unpacked: Option<(Digest, u64)>,
    contents_made: u64,
    bytes_made: u64,
}

enum How {
    Present,
    Deltas(Vec<Published>),
    /// By a delta that was made on demand.
    Served(Served),
    Layers,
}

impl Pull<'_> {
    fn run(&mut self, here: Result<Here, Failure>) -> Result<Done, Failure> {
        let choice = here.and_then(|here| self.choose(here));
        if !choice.as_ref().is_ok_and(Choice::is_at_once)
            && let Some(done) = self.by_server()?
        {
            return Ok(done);
        }
        let reason = match choice {
            Ok(Choice::Present) => match self.node.restore(self.image.digest()) {
                Ok(made) => return self.done(How::Present, None, None, &made),
                Err(failure) => failure.to_string(),
            },
            Ok(Choice::Deltas { unpack, deltas }) => match self.by_deltas(unpack, &deltas) {
                Ok((unpacked, made)) => {
                    let how = if deltas.is_empty() { How::Present } else { How::Deltas(deltas) };
                    return self.done(how, None, unpacked, &made);
                }
                // The layers would not fit either.
                Err(failure) if failure.kind == Kind::NoSpace => return Err(failure),
                Err(failure) => failure.to_string(),
            },
            Ok(Choice::Pull(why)) => why.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::info!(image = self.name, reason, "pulling the layers");
        let made = self.by_layers()?;
        self.done(How::Layers, Some(reason), None, &made)
    }

    fn done(
        &self,
        how: How,
        reason: Option<String>,
        unpacked: Option<(Digest, u64)>,
        made: &ImportResponse,
    ) -> Result<Done, Failure> {
        self.node.load(&self.name, made)?;
        Ok(Done { how, reason, unpacked, contents_made: made.contents_made, bytes_made: made.bytes_made })
    }

    /// How to get the image from what is on the node.
    fn choose(&mut self, here: Here) -> Result<Choice, Failure> {
        (self.present, self.stored) = here;
        self.opener.progress.stage("look for deltas", Unit::Bytes, 0);
        let repository = self.image.repository();
        let list = |target| delta::list(repository, target);
        let pull_bytes = self.image.pull_bytes();
        Ok(delta::plan(self.image.digest(), pull_bytes, &self.present, &Weights::default(), |_| None, list)?)
    }

    /// Asks the server for a delta, where there is one to ask. Whatever keeps it from helping is remembered, and the pull goes on without.
    fn by_server(&mut self) -> Result<Option<Done>, Failure> {
        if self.served.is_none() || self.present.is_empty() {
            return Ok(None);
        }
        if let (Some(served), false) = (&mut self.served, self.keys.is_empty()) {
            served.told = Some("what it makes is not signed, and only signed deltas are taken".to_owned());
            return Ok(None);
        }
        match self.ask_server() {
            Ok(done) => Ok(Some(done)),
            Err(failure) if failure.kind == Kind::NoSpace => Err(failure),
            Err(failure) => {
                tracing::info!(%failure, "the server is of no use");
                if let Some(served) = &mut self.served {
                    served.told = Some(failure.to_string());
                }
                Ok(None)
            }
        }
    }

    fn ask_server(&mut self) -> Result<Done, Failure> {
        let Some(served) = &self.served else {
            return Err(Failure::new(Kind::Failed, "pull", &self.name, "no server"));
        };
        self.opener.progress.stage(format!("ask {}", served.server), Unit::Bytes, 0);
        let wanted = Wanted {
            server: &served.server,
            reference: &served.reference,
            want: self.image.digest(),
            have: &self.present,
            max_bytes: self.image.pull_bytes(),
            patience: served.patience,
            limit: None,
        };
        let on_bytes = self.opener.progress.on_bytes();
        let (got, partial) =
            delta::ask(&wanted, &self.opener.options.registry, self.partials, Some(&on_bytes))?;
        let source = got.source;
        let at_hand = self.present.iter().any(|image| image.manifest == source && image.packed_bytes == 0);
        let unpacked = match self.stored.iter().find(|image| image.manifest == source) {
            Some(stored) if !at_hand => {
                let made = stored.import(&mut self.node, self.opener, self.config)?;
                Some((source, made.bytes_made))
            }
            _ => None,
        };
        self.opener.progress.stage("make contents", Unit::Bytes, 0);
        let made = self.import(partial)?;
        self.done(How::Served(got), None, unpacked, &made)
    }

    /// Has the plugin take over the image `unpack`, then fetches and imports deltas, each after the one that it starts from; what the last one
    /// made, and what was made for the image taken over.
    fn by_deltas(
        &mut self,
        unpack: Option<Digest>,
        deltas: &[Published],
    ) -> Result<(Option<(Digest, u64)>, ImportResponse), Failure> {
        let mut unpacked = None;
        if let Some(manifest) = unpack
            && let Some(image) = self.stored.iter().find(|image| image.manifest == manifest)
        {
            let made = image.import(&mut self.node, self.opener, self.config)?;
            unpacked = Some((manifest, made.bytes_made));
        }
        match unpack {
            Some(manifest) if deltas.is_empty() => Ok((unpacked, self.node.restore(manifest)?)),
            _ => Ok((unpacked, self.fetch(deltas)?)),
        }
    }

    /// Fetches and imports deltas, each after the one that it starts from; what the last one made.
    fn fetch(&mut self, deltas: &[Published]) -> Result<ImportResponse, Failure> {
        let mut last: Option<ImportResponse> = None;
        for (number, published) in deltas.iter().enumerate() {
            let stage = format!("fetch delta {} of {}", number + 1, deltas.len());
            self.opener.progress.stage(stage, Unit::Bytes, published.bytes);
            let repository = self.image.repository();
            let on_bytes = self.opener.progress.on_bytes();
            let place = Place::Folder(self.partials);
            let partial = delta::fetch(repository, published, &self.keys, place, Some(on_bytes))?;
            self.opener.progress.stage("make contents", Unit::Bytes, 0);
            let mut made = self.import(partial)?;
            if let Some(before) = last {
                made.contents_made += before.contents_made;
                made.bytes_made += before.bytes_made;
            }
            last = Some(made);
        }
        last.ok_or_else(|| Failure::new(Kind::Failed, "pull", &self.name, "no deltas"))
    }

    /// Imports a delta that was downloaded, which has no more use then.
    fn import(&mut self, partial: Partial) -> Result<ImportResponse, Failure> {
        let nameless = || Failure::new(Kind::Failed, "pull", &self.name, "the delta has no name");
        let made = self.node.import(partial.path().ok_or_else(nameless)?);
        // Also where it was of no use: the same bytes would be again. But the plugin may have ended meanwhile.
        if made.as_ref().err().is_none_or(|failure| failure.kind != Kind::Failed) {
            partial.remove();
        }
        made
    }

    /// Fetches the layers and imports them as a base file.
    fn by_layers(&mut self) -> Result<ImportResponse, Failure> {
        let open = self.image.open(&self.opener.options)?;
        let named = base::write(&open, &self.name, self.opener, self.config)?;
        self.opener.progress.stage("make contents", Unit::Bytes, 0);
        let made = self.node.import(named.pending.path())?;
        self.partials.remove_held();
        Ok(made)
    }

    fn report(&self, done: &Done) -> (Value, String) {
        let served_bytes = if let How::Served(got) = done.how { got.received_bytes } else { 0 };
        let (pull_bytes, fetched_bytes) =
            (self.image.pull_bytes(), self.image.repository().received_bytes() + served_bytes);
        let (how, deltas) = match &done.how {
            How::Present => ("present", &[][..]),
            How::Deltas(deltas) => ("deltas", deltas.as_slice()),
            How::Served(..) => ("served", &[][..]),
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
        let unpacked = done.unpacked.map(|(manifest, bytes)| {
            let stored = self.stored.iter().find(|image| image.manifest == manifest);
            let name = stored.map(|image| image.name.clone());
            json!({"name": name, "manifest": manifest.to_string(), "bytes_made": bytes})
        });
        let value = json!({
            "name": self.name,
            "manifest": self.image.digest().to_string(),
            "how": how,
            "reason": done.reason,
            "unpacked": &unpacked,
            "served": match done.how {
                How::Served(got) => json!({"source": got.source.to_string(), "bytes": got.bytes}),
                _ => Value::Null,
            },
            "server_reason": self.served.as_ref().and_then(|served| served.told.clone()),
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
            How::Served(Served { source, .. }) => {
                format!("a delta from {source} made on demand, {fetched} fetched; the layers are {pull}")
            }
            How::Layers => {
                let reason = done.reason.as_deref().unwrap_or("no deltas");
                let server = self.served.as_ref().and_then(|served| served.told.as_deref());
                let server = server.map_or_else(String::new, |told| format!("; {told}"));
                format!("the layers, {fetched} fetched: {reason}{server}")
            }
        };
        let base = unpacked.map_or_else(String::new, |base| {
            let name = base["name"].as_str().unwrap_or_default();
            format!("; the layers of {name} were unpacked from containerd once")
        });
        (value, format!("{}: {how}{base}\n", self.name))
    }
}
