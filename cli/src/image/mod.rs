//! Images in full: layers as indexes, and a source for every content; whatever they come from.
//!
//! [`Opener::open`] takes a source's words. Layers of an image are mapped tars, parsed; contents are slices of them.
//! [`chain`] goes from there to other images by deltas, [`LazyImage`] without making their contents. Nothing is believed: layers have their diff IDs, contents their
//! digests.

pub(crate) mod chain;
mod layout;
mod lazy;
mod made;
mod verify;

use std::collections::HashSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d4c_image::error::SourceError;
use d4c_image::layers::{ReadLayer, ReadLayers};
use d4c_image::platform::Platform;
use d4c_image::registry::RegistryOptions;
use d4c_image::source::{OpenImage, Options, RemoteImage, Source};
use d4c_sys::Map;
use di3fs_snapshotter::client::{Containerd, ContentBlobs};
use dimg::Digest;
use dimg::build::{Side, SideLayer};
use dimg::content::{Bytes, ContentSource};
use dimg::format::{DeltaFile, announced_bytes};
use dimg::index::LayerIndex;
use dimg::memory::Memory;

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::{InFile, shown};
use crate::memory::MemoryArgs;
use crate::progress::{Progress, Unit};
use crate::units::parse_threads;
pub(crate) use layout::{Place, write_kept, write_layout};
pub(crate) use lazy::LazyImage;

/// Options of every command that opens images.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ImageOptions {
    /// Platform to take from a multi-platform image, as os/arch[/variant] (default: this machine's); publish takes several, with commas,
    /// and all of them by default
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Worker threads; the result does not depend on it (default: all cores)
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
}

impl ImageOptions {
    /// The platforms that were asked for.
    ///
    /// # Errors
    /// One is malformed.
    pub(crate) fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        Ok(self.platform.iter().map(|text| text.parse()).collect::<Result<_, SourceError>>()?)
    }
}

/// Options of every command that speaks to registries.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Speak plain HTTP to registries on other machines, too, and accept any certificate
    #[arg(long)]
    insecure: bool,
    /// File with credentials of registries (default: those of podman and docker)
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Directory with hosts.toml and certificates by registry (default: containerd's and docker's certs.d)
    #[arg(long, value_name = "DIR")]
    hosts_dir: Vec<PathBuf>,
}

impl RegistryArgs {
    /// How registries are reached.
    pub(crate) fn options(&self) -> RegistryOptions {
        let mut options = RegistryOptions {
            insecure: self.insecure,
            auth_file: self.auth_file.clone(),
            ..RegistryOptions::default()
        };
        if !self.hosts_dir.is_empty() {
            options.hosts_dirs.clone_from(&self.hosts_dir);
        }
        options
    }
}

/// Manifest and config of an image, byte for byte.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

/// An image whose layers are known and whose contents can be had.
pub(crate) struct Image {
    /// As the user named it.
    pub(crate) name: String,
    pub(crate) manifest_digest: Digest,
    pub(crate) config_digest: Digest,
    /// None for what a dimg without manifest and config makes.
    pub(crate) documents: Option<Documents>,
    /// The lowest first.
    pub(crate) layers: Vec<SideLayer>,
    /// Where contents are; the first that has one gives it.
    pub(crate) contents: Vec<Arc<dyn ContentSource>>,
    /// Diff IDs of layers whose tars were seen to have them.
    pub(crate) verified: HashSet<Digest>,
}

impl Image {
    fn of(open: &OpenImage, read: impl Iterator<Item = Arc<ReadLayer>>) -> Self {
        let read: Vec<_> = read.collect();
        Self {
            name: open.name().to_owned(),
            manifest_digest: open.manifest_digest(),
            config_digest: open.config_digest(),
            documents: Some(Documents {
                manifest: open.manifest_bytes().to_vec(),
                config: open.config_bytes().to_vec(),
            }),
            layers: read.iter().map(|read| read.layer.clone()).collect(),
            verified: read.iter().map(|read| read.layer.diff_id).collect(),
            contents: read.into_iter().map(|read| read as Arc<dyn ContentSource>).collect(),
        }
    }

    /// The image as the builder of deltas takes it.
    pub(crate) fn side(&self) -> Side<'_> {
        Side {
            manifest: self.manifest_digest,
            config: self.config_digest,
            layers: &self.layers,
            contents: &self.contents,
        }
    }

    /// The layers' indexes.
    pub(crate) fn indexes(&self) -> Vec<Arc<LayerIndex>> {
        self.layers.iter().map(|layer| Arc::clone(&layer.index)).collect()
    }

    /// The diff IDs.
    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// Manifest and config.
    ///
    /// # Errors
    /// The image was made by a dimg, which has none.
    pub(crate) fn documents(&self) -> Result<&Documents, Failure> {
        self.documents.as_ref().ok_or_else(|| {
            let why = "a dimg has no manifest and config; d4c pack adds them";
            Failure::new(Kind::Usage, "image documents", &self.name, why)
        })
    }
}

/// What there is to be done about images without their layers' blobs.
const NO_LAYERS: &str =
    "an image that came by a delta has no blobs of layers there; d4c export writes it from its contents";

/// Opens images.
#[derive(Debug)]
pub(crate) struct Opener<'a> {
    pub(crate) tmpdir: &'a Path,
    pub(crate) threads: NonZeroUsize,
    /// For making contents.
    pub(crate) memory: Arc<Memory>,
    pub(crate) options: Options,
    config: &'a Config,
    pub(crate) progress: &'a Progress,
    /// What images have in common is read once.
    layers: ReadLayers,
}

impl<'a> Opener<'a> {
    /// An opener by the command's options.
    ///
    /// # Errors
    /// The platform is malformed, or there are several.
    pub(crate) fn new(
        options: &ImageOptions,
        config: &'a Config,
        progress: &'a Progress,
    ) -> Result<Self, Failure> {
        let mut platforms = options.platforms()?;
        let platform = platforms.pop();
        if !platforms.is_empty() {
            return Err(Failure::usage(options.platform.join(","), "one platform is needed here"));
        }
        Ok(Self::with_platform(options, platform, config, progress))
    }

    /// An opener by the command's options but for the platform.
    pub(crate) fn with_platform(
        options: &ImageOptions,
        platform: Option<Platform>,
        config: &'a Config,
        progress: &'a Progress,
    ) -> Self {
        options.memory.apply();
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = options.threads.unwrap_or(cores);
        Self {
            tmpdir: &config.tmpdir,
            threads,
            memory: options.memory.shared(),
            options: Options {
                platform,
                temp_dir: Some(config.tmpdir.clone()),
                registry: options.registry.options(),
                ..Options::default()
            },
            config,
            progress,
            layers: ReadLayers::default(),
        }
    }

    /// Opens the image that `text` names: any source, a delta file without a parent included.
    ///
    /// # Errors
    /// There is no such image, or it is damaged.
    pub(crate) fn open(&self, text: &str) -> Result<Image, Failure> {
        match Source::parse(text)? {
            Source::Delta(path) => {
                let delta = Delta::open(&path, self.tmpdir)?;
                chain::apply(None, std::slice::from_ref(&delta), self)
            }
            source => {
                let read = self.read(&self.open_source(&source)?);
                read.map_err(|failure| without_layers(failure, &source))
            }
        }
    }

    /// Opens two images; their layers are read together.
    ///
    /// # Errors
    /// As for [`Opener::open`].
    pub(crate) fn open_both(&self, old: &str, new: &str) -> Result<(Image, Image), Failure> {
        match (Source::parse(old)?, Source::parse(new)?) {
            (Source::Delta(_), _) | (_, Source::Delta(_)) => Ok((self.open(old)?, self.open(new)?)),
            (old, new) => {
                let read = self.read_both(&self.open_source(&old)?, &self.open_source(&new)?);
                read.map_err(|failure| without_layers(without_layers(failure, &old), &new))
            }
        }
    }

    /// How to open `source`: with a connection to containerd where it needs one.
    ///
    /// # Errors
    /// containerd does not answer.
    pub(crate) fn source_options(&self, source: &Source) -> Result<Options, Failure> {
        let mut options = self.options.clone();
        if let Source::Containerd(_) = source {
            let client = Containerd::connect(&self.config.address, &self.config.namespace)?;
            options.containerd = Some(Arc::new(ContentBlobs(client)));
        }
        Ok(options)
    }

    fn open_source(&self, source: &Source) -> Result<OpenImage, Failure> {
        let options = self.source_options(source)?;
        self.progress.stage(format!("open {source}"), Unit::Layers, 0);
        Ok(source.open(&options)?)
    }

    /// The digest of the manifest of the image that `text` names, without its layers where they are not needed for it.
    ///
    /// # Errors
    /// As for [`Opener::open`].
    pub(crate) fn manifest_digest(&self, text: &str) -> Result<Digest, Failure> {
        match Source::parse(text)? {
            Source::Delta(path) => Ok(Delta::open(&path, self.tmpdir)?.file.dimg().target().manifest),
            Source::Registry(reference) => Ok(RemoteImage::resolve(&reference, &self.options)?.digest()),
            source => Ok(source.open(&self.source_options(&source)?)?.manifest_digest()),
        }
    }

    /// Reads the layers of an image; those that it has in common with one that was read and is still held are that one's.
    ///
    /// # Errors
    /// One is damaged or cannot be fetched.
    pub(crate) fn read(&self, open: &OpenImage) -> Result<Image, Failure> {
        let read = self.read_layers(&[open], open.name())?;
        Ok(Image::of(open, read.into_iter().flatten()))
    }

    /// As [`Opener::read`], of two together.
    ///
    /// # Errors
    /// As for [`Opener::read`].
    pub(crate) fn read_both(&self, old: &OpenImage, new: &OpenImage) -> Result<(Image, Image), Failure> {
        let mut read = self.read_layers(&[old, new], "both images")?.into_iter();
        let mut next = |open| Image::of(open, read.next().into_iter().flatten());
        Ok((next(old), next(new)))
    }

    fn read_layers(&self, images: &[&OpenImage], name: &str) -> Result<Vec<Vec<Arc<ReadLayer>>>, Failure> {
        let layers: HashSet<_> =
            images.iter().flat_map(|image| image.layers()).map(|is| is.diff_id).collect();
        self.progress.stage(format!("read {name}"), Unit::Layers, layers.len() as u64);
        Ok(self.layers.read(images, self.threads, self.tmpdir, &|| self.progress.add(1))?)
    }
}

/// Tells of an image that is in containerd, manifest and config: what was not found is a layer's blob then.
fn without_layers(failure: Failure, source: &Source) -> Failure {
    match source {
        Source::Containerd(_) if failure.kind == Kind::NotFound => failure.and(NO_LAYERS),
        _ => failure,
    }
}

/// Whether what is not there is a source of images, where a file was wanted.
fn is_source(path: &Path, failure: &Failure) -> bool {
    let source = path.to_str().map(Source::parse);
    failure.kind == Kind::NotFound
        && source.is_some_and(|source| !matches!(source, Ok(Source::Delta(_)) | Err(_)))
}

/// A delta file, mapped and open.
pub(crate) struct Delta {
    /// As it is told to people.
    pub(crate) path: PathBuf,
    pub(crate) file: DeltaFile,
    /// Its bytes in all.
    pub(crate) bytes: u64,
}

impl Delta {
    /// Opens the file at `path`; `-` is standard input.
    ///
    /// # Errors
    /// It is not there, or no cdimg or dimg.
    pub(crate) fn open(path: &Path, tmpdir: &Path) -> Result<Self, Failure> {
        let shown = shown(path);
        let announced = |head: &[u8]| announced_bytes(head).map_err(Failure::delta(shown));
        let file =
            InFile::open(path, tmpdir, &announced).map_err(|failure| match is_source(path, &failure) {
                true => Failure::usage(path.display(), "a dimg or cdimg file is wanted here, not an image"),
                false => failure,
            })?;
        Self::new(file.map, shown)
    }

    /// As [`Delta::open`], of a file that is open and will be at `path`.
    ///
    /// # Errors
    /// As for [`Delta::open`].
    pub(crate) fn of(file: &File, path: &Path) -> Result<Self, Failure> {
        Self::new(Map::file(file).map_err(Failure::io("read file", path))?, path)
    }

    fn new(map: Map, path: &Path) -> Result<Self, Failure> {
        Self::of_bytes(Bytes::new(map), path)
    }

    /// As [`Delta::open`], of what is in memory and called `path`.
    ///
    /// # Errors
    /// It is no cdimg or dimg.
    pub(crate) fn of_bytes(file: Bytes, path: &Path) -> Result<Self, Failure> {
        let bytes = file.len() as u64;
        let file = DeltaFile::open(file).map_err(Failure::delta(path))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }
}
