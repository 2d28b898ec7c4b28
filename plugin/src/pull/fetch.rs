//! One image: from what the node has to its layers, by deltas of the registry.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use d4c_image::base;
use d4c_image::delta::{
    self, Choice, MAX_HAVE, Place, Present, Published, SourceImage, TrustedKey, Wanted, Why,
};
use d4c_image::error::SourceError;
use d4c_image::layers::{LayerError, ReadLayers};
use d4c_image::registry::{Partials, RegistryOptions};
use d4c_image::source::{Layer, OpenImage, Options, Reference, RemoteImage, Source};
use dimg::Digest;
use dimg::build::Side;
use dimg::format::DimgError;
use dimg::path::Weights;
use tempfile::NamedTempFile;

use super::Asked;
use super::content::ContentDir;
use crate::config::PullSettings;
use crate::error::{Error, Result};
use crate::import::{ImportError, Importer, What};

/// How long a server that makes deltas on demand may take in all, once it has begun to answer: what it makes serves a pull that is tried again.
const SERVED_WITHIN: Duration = Duration::from_secs(600);

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0}")]
    Why(Why),
    #[error("{0}")]
    None(&'static str),
    /// By the registry alone; and why who makes deltas on demand was of no use.
    #[error("{registry}; {server}")]
    Served { registry: Box<Failed>, server: Box<Failed> },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("write base file: {0}")]
    Base(#[from] DimgError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Plugin(#[from] Error),
}

impl Failed {
    /// Whether nothing went wrong: there is no delta to use.
    pub(super) fn is_ordinary(&self) -> bool {
        match self {
            Self::Why(_) | Self::None(_) | Self::Source(SourceError::NotFound { .. }) => true,
            Self::Served { registry, server } => registry.is_ordinary() && server.is_ordinary(),
            _ => false,
        }
    }

    /// Whether a file was there that could not be imported, so that something may be left of it.
    pub(super) fn is_of_import(&self) -> bool {
        match self {
            Self::Import(_) => true,
            Self::Served { registry, server } => registry.is_of_import() || server.is_of_import(),
            _ => false,
        }
    }
}

/// What an image came by.
#[derive(Debug)]
pub(super) struct Got {
    /// Chain ID of its topmost layer.
    pub(super) top: Option<Digest>,
    pub(super) deltas: usize,
    /// Bytes received from the registry, and from who makes deltas on demand.
    pub(super) fetched_bytes: u64,
    /// Bytes of the layers that containerd would have pulled.
    pub(super) pull_bytes: u64,
}

/// An image on its way.
pub(super) struct Fetch<'a> {
    importer: &'a Importer,
    asked: &'a Asked,
    dir: &'a Path,
    partials: &'a Partials,
    settings: &'a PullSettings,
    content: ContentDir,
    options: Options,
    threads: NonZeroUsize,
    /// Until when the pull waits.
    until: Instant,
    /// Images held in the importer.
    held: &'a mut Vec<Digest>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        importer: &'a Importer,
        settings: &'a PullSettings,
        partials: &'a Partials,
        asked: &'a Asked,
        held: &'a mut Vec<Digest>,
    ) -> Self {
        let content = ContentDir::new(&settings.content);
        let dir = partials.dir();
        // Not below `dir`, of which only downloads outlive this process.
        let memory = dir.parent().map(|root| root.join("registries.json"));
        let options = Options {
            temp_dir: Some(dir.to_owned()),
            registry: RegistryOptions { memory, ..settings.registry() },
            containerd: Some(Arc::new(content.clone())),
            ..Options::default()
        };
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let until = Instant::now() + settings.deadline;
        Self { importer, asked, dir, partials, settings, content, options, threads, until, held }
    }

    /// Makes the image. Where it is not wanted any more when all is fetched, only as a base, which a later pull makes layers of.
    ///
    /// # Errors
    /// No delta leads there, or something failed on the way.
    pub(super) fn run(&mut self, is_wanted: &dyn Fn() -> bool) -> Result<Got, Failed> {
        let target = self.asked.manifest;
        let here = self.importer.chains()?;
        if here.iter().any(|(manifest, _)| *manifest == target) {
            let top = self.restore()?;
            return Ok(Got { top, deltas: 0, fetched_bytes: 0, pull_bytes: 0 });
        }
        let reference = self.reference()?;
        // containerd has fetched it before it asks for layers.
        let image = match self.content.manifest(&target) {
            Some(bytes) => RemoteImage::with_manifest(&reference, bytes, &self.options)?,
            None => RemoteImage::resolve(&reference, &self.options)?,
        };
        let pull_bytes = self.pull_bytes(&image);
        if pull_bytes == 0 {
            return Err(Failed::None("containerd has the layers"));
        }
        let present: Vec<Present> = here
            .into_iter()
            .map(|(manifest, chain_ids)| Present {
                manifest,
                chain_id: chain_ids.last().copied(),
                missing_bytes: 0,
                packed_bytes: 0,
            })
            .collect();
        let repository = image.repository();
        let list = |target| delta::list(repository, target);
        let look = |source: &SourceImage| self.look(source);
        let choice = delta::plan(target, pull_bytes, &present, &Weights::default(), look, list);
        let at_once = choice.as_ref().is_ok_and(Choice::is_at_once);
        let served = if at_once { None } else { self.by_server(&image, present, pull_bytes, is_wanted) };
        let without = match served {
            Some(Ok(got)) => return Ok(got),
            Some(Err(why)) => Some(why),
            None => None,
        };
        match (self.by_choice(&image, choice, is_wanted), without) {
            (Ok((top, deltas)), without) => {
                if let Some(reason) = without {
                    tracing::info!(manifest = %target, %reason, "deltas of the registry instead of one on demand");
                }
                Ok(Got { top, deltas, fetched_bytes: repository.received_bytes(), pull_bytes })
            }
            (Err(registry), Some(server)) => {
                Err(Failed::Served { registry: Box::new(registry), server: Box::new(server) })
            }
            (Err(why), None) => Err(why),
        }
    }

    /// By what the registry has: the chain ID of the topmost layer, and how many deltas it took.
    fn by_choice(
        &mut self,
        image: &RemoteImage,
        choice: Result<Choice, SourceError>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(Option<Digest>, usize), Failed> {
        let (unpack, deltas) = match choice? {
            Choice::Deltas { unpack, deltas } => (unpack, deltas),
            Choice::Present => (None, Vec::new()),
            Choice::Pull(why) => return Err(Failed::Why(why)),
        };
        if let Some(manifest) = unpack {
            self.take_over(manifest)?;
        }
        Ok((self.by_deltas(image, &deltas, is_wanted)?, deltas.len()))
    }

    /// By a delta that is made on demand, where there is someone to ask for one.
    fn by_server(
        &mut self,
        image: &RemoteImage,
        here: Vec<Present>,
        pull_bytes: u64,
        is_wanted: &dyn Fn() -> bool,
    ) -> Option<Result<Got, Failed>> {
        let server = self.settings.serve.as_deref()?;
        if !self.settings.trusted_keys.is_empty() {
            return Some(Err(Failed::None("what is made on demand is not signed")));
        }
        let mut have = here;
        have.extend(self.pulled(image, &have));
        if have.is_empty() {
            return Some(Err(Failed::None("there is no image here that a delta could start from")));
        }
        Some(self.ask(server, image, &have, pull_bytes, is_wanted))
    }

    fn ask(
        &mut self,
        server: &str,
        image: &RemoteImage,
        have: &[Present],
        pull_bytes: u64,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Got, Failed> {
        let wanted = Wanted {
            server,
            reference: &self.reference()?,
            want: self.asked.manifest,
            have,
            max_bytes: pull_bytes,
            // What is left then is for the registry's own deltas, and for telling why before the pull goes on.
            patience: self.until.saturating_duration_since(Instant::now()).mul_f32(0.75),
            limit: Some(SERVED_WITHIN),
        };
        let (served, partial) = delta::ask(&wanted, &self.options.registry, self.partials, None)?;
        let is_source = |image: &&Present| image.manifest == served.source;
        if have.iter().filter(is_source).all(|image| image.packed_bytes > 0) {
            self.take_over(served.source)?;
        }
        let path = partial.path().ok_or(Failed::None("the delta has no name"))?;
        let made = self.last(path, is_wanted);
        // Also where it was of no use: the same bytes would be again.
        partial.remove();
        let top = made?;
        let fetched_bytes = image.repository().received_bytes().saturating_add(served.received_bytes);
        Ok(Got { top, deltas: 1, fetched_bytes, pull_bytes })
    }

    /// The images that containerd pulled itself, those first that have most bytes of layers in common with `image`, then the newest.
    fn pulled(&self, image: &RemoteImage, here: &[Present]) -> Vec<Present> {
        let layers: HashSet<Digest> = image.manifest().layers.iter().map(|layer| layer.digest).collect();
        let mut found = Vec::new();
        for manifest in self.content.manifests() {
            if found.len() >= MAX_HAVE {
                break;
            }
            let is_known =
                manifest == self.asked.manifest || here.iter().any(|image| image.manifest == manifest);
            if !is_known && let Some((open, present)) = self.whole(manifest) {
                let shared = open.layers().iter().filter(|layer| layers.contains(&layer.digest));
                found.push((shared.fold(0u64, |sum, layer| sum.saturating_add(layer.size)), present));
            }
        }
        found.sort_by_key(|&(shared, _)| Reverse(shared));
        found.into_iter().map(|(_, present)| present).collect()
    }

    /// The image by its digest: its tag may have moved since containerd looked.
    fn reference(&self) -> Result<Reference, Failed> {
        let Source::Registry(named) = Source::parse(&format!("docker://{}", self.asked.image))? else {
            return Err(Failed::None("not a name of an image in a registry"));
        };
        Ok(named.clone_with_digest(self.asked.manifest.to_string()))
    }

    /// Bytes that containerd would fetch: of the layer asked for and those above it, what its content store lacks.
    fn pull_bytes(&self, image: &RemoteImage) -> u64 {
        let layers = &image.manifest().layers;
        let at = |wanted| layers.iter().position(|layer| layer.digest == wanted);
        let first = self.asked.layer.and_then(at).unwrap_or(0);
        let missing = layers.iter().skip(first).filter(|layer| self.content.size(&layer.digest).is_none());
        missing.fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    /// The source of a delta, where containerd pulled it itself.
    fn look(&self, source: &SourceImage) -> Option<Present> {
        let (_, present) = self.whole(source.manifest)?;
        Some(Present { chain_id: Some(source.chain_id), ..present })
    }

    /// An image that containerd pulled itself, all its layers' blobs included.
    fn whole(&self, manifest: Digest) -> Option<(OpenImage, Present)> {
        let open = self.open(manifest).ok()?;
        let is_there = |layer: &Layer| self.content.size(&layer.digest) == Some(layer.size);
        if !open.layers().iter().all(is_there) {
            return None;
        }
        let bytes = open.layers().iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        Some((open, Present { manifest, chain_id: None, missing_bytes: 0, packed_bytes: bytes.max(1) }))
    }

    fn open(&self, manifest: Digest) -> Result<OpenImage, SourceError> {
        Source::Containerd(manifest.to_string()).open(&self.options)
    }

    /// Makes a base of an image in containerd's content store.
    fn take_over(&mut self, manifest: Digest) -> Result<(), Failed> {
        let open = self.open(manifest)?;
        let contents = ReadLayers::default().read(&[&open], self.threads, self.dir, &|| ())?.concat();
        let layers: Vec<_> = contents.iter().map(|read| read.layer.clone()).collect();
        let side = Side { manifest, config: open.config_digest(), layers: &layers, contents: &contents };
        let file = self.file()?;
        let mut handle = file.as_file().try_clone().map_err(Error::io("open file", file.path()))?;
        let how = (self.threads, self.dir.to_owned());
        base::write(&open, &side, String::new(), how, &mut (), &mut handle)?;
        self.import(file.path(), What::Base, false)?;
        tracing::info!(%manifest, "took over an image that containerd pulled");
        Ok(())
    }

    /// Fetches and imports deltas, each after the one that it starts from; the chain ID of the last layer.
    fn by_deltas(
        &mut self,
        image: &RemoteImage,
        deltas: &[Published],
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Digest>, Failed> {
        let keys = self.settings.trusted_keys.iter().map(|path| TrustedKey::read(path));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let mut top = None;
        for (number, published) in deltas.iter().enumerate() {
            let place = Place::Folder(self.partials);
            let partial = delta::fetch(image.repository(), published, &keys, place, None)?;
            let path = partial.path().ok_or(Failed::None("the delta has no name"))?;
            let done = if number + 1 < deltas.len() {
                self.import(path, What::Base, false).map(drop)
            } else {
                self.last(path, is_wanted).map(|made| top = made)
            };
            // Also where it was of no use: the same bytes would be again.
            partial.remove();
            done?;
        }
        // A base that is to be unpacked may be the image itself.
        if deltas.is_empty() && is_wanted() { self.restore() } else { Ok(top) }
    }

    /// Imports the delta that makes the image: with its layers as long as it is wanted, else as a base.
    fn last(&mut self, path: &Path, is_wanted: &dyn Fn() -> bool) -> Result<Option<Digest>, Failed> {
        let whole = is_wanted();
        let top = self.import(path, if whole { What::Image } else { What::Base }, !whole)?;
        // Asked for again while it was made as a base.
        if whole || !is_wanted() { Ok(top) } else { self.restore() }
    }

    fn file(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(self.dir).map_err(Error::io("make temporary file", self.dir))
    }

    /// Imports a file, and holds its image.
    fn import(&mut self, path: &Path, what: What, keep: bool) -> Result<Option<Digest>, Failed> {
        let done = self.importer.import_unattended(path, what, keep)?;
        self.held.push(done.image.digest);
        Ok(done.chain_ids.last().copied())
    }

    fn restore(&mut self) -> Result<Option<Digest>, Failed> {
        let done = self.importer.restore(self.asked.manifest)?;
        self.held.push(done.image.digest);
        Ok(done.chain_ids.last().copied())
    }
}
