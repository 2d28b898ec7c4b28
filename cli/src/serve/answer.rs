//! What a client may have, and how it is got: a file, a delta of the registry, several merged, or one made of the two images.
//!
//! The registry is asked with the client's login and no other, for the image that it wants and the one that it says it has: who cannot fetch
//! both there gets nothing. Only then does it matter what has been made for others.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use d4c_image::delta::{self, Choice, NewDelta, Place, Present, Published};
use d4c_image::error::{Class, SourceError};
use d4c_image::manifest::{Document, Manifest};
use d4c_image::registry::{Access, Behalf, RegistryOptions, Repository};
use d4c_image::source::{RemoteImage, Source};
use d4c_sys::Map;
use dimg::Digest;
use dimg::format::{Dimg, Stat, write_cdimg};
use dimg::merge::{MergeOptions, merge};
use dimg::path::Weights;

use super::ServeOptions;
use super::jobs::Job;
use super::metrics::{How, Metrics};
use super::store::Store;
use crate::commands::build::{self, Told};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::OutFile;
use crate::image::{Delta, ImageOptions, Opener};
use crate::progress::Progress;

/// Images that the client has and that are compared with the one that it wants.
const MAX_COMPARED: usize = 8;

/// A client's question.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// `HOST/NAME`; empty where only the directory is asked.
    pub(super) repository: String,
    pub(super) want: Digest,
    pub(super) have: Vec<Digest>,
    /// Its login for the registry, as a header.
    pub(super) login: Option<String>,
}

impl Default for Asked {
    fn default() -> Self {
        let want = Digest([0; 32]);
        Self { repository: String::new(), want, have: Vec::new(), login: None }
    }
}

/// A delta that is there.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    pub(super) how: How,
}

/// Why there is no answer. What it says goes to the client.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// The question is none.
    Bad(String),
    /// The registry wants a login.
    Login(String),
    /// Not one of our repositories.
    Elsewhere(String),
    /// There is no such image, or no delta to it.
    None(String),
    /// Too much is being made.
    Busy,
    /// It should have worked.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(why)
            | Self::Login(why)
            | Self::Elsewhere(why)
            | Self::None(why)
            | Self::Failed(why) => f.write_str(why),
            Self::Busy => f.write_str("too many deltas are being made"),
        }
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        match error.class() {
            Class::NotFound => Self::None(error.to_string()),
            Class::Usage => Self::Bad(error.to_string()),
            _ if error.is_denial() => Self::Login(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// How a delta will be got.
pub(super) struct Way {
    job: Job,
    means: Means,
    registry: RegistryOptions,
    repository: Option<Arc<Repository>>,
}

enum Means {
    File(PathBuf),
    /// Of these, one after the other.
    Deltas(Vec<(Published, Option<PathBuf>)>),
    Images,
}

impl Way {
    pub(super) fn job(&self) -> Job {
        self.job
    }
}

/// Gives answers.
#[derive(Debug)]
pub(super) struct Answers {
    options: ServeOptions,
    store: Store,
    config: Config,
    metrics: Arc<Metrics>,
}

impl Answers {
    pub(super) fn new(options: ServeOptions, store: Store, config: Config, metrics: Arc<Metrics>) -> Self {
        Self { options, store, config, metrics }
    }

    /// How the client may be answered.
    pub(super) fn find(&self, asked: &Asked) -> Result<Way, Refusal> {
        if self.options.registries.is_empty() {
            return self.way(asked, "", None, u64::MAX);
        }
        let within = |registry: &String| {
            let rest = asked.repository.strip_prefix(registry.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        if !self.options.registries.iter().any(within) {
            return Err(Refusal::Elsewhere(format!("{:?}: not served here", asked.repository)));
        }
        let registry = RegistryOptions {
            behalf: Some(Behalf::of_header(asked.login.as_deref())?),
            ..self.options.registry.clone()
        };
        let name = format!("docker://{}", asked.repository);
        let Source::Registry(reference) = Source::parse(&name)? else {
            return Err(Refusal::Bad(format!("{:?}: not a repository", asked.repository)));
        };
        let repository = Repository::open(&reference, Access::Pull, &registry, name)?;
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let wanted = manifest(&repository, asked.want)?;
        let pull_bytes = bytes(&wanted);
        let repository = Arc::new(repository);
        let mut way = match self.way(asked, &name, Some(&repository), pull_bytes) {
            Err(Refusal::None(_)) => self.images(asked, &name, &repository, &wanted)?,
            way => way?,
        };
        if !repository.has_manifest(way.job.pair.1)? {
            return Err(Refusal::None(format!("{}: the registry does not have it", way.job.pair.1)));
        }
        (way.registry, way.repository) = (registry, Some(repository));
        Ok(way)
    }

    /// By deltas that there are.
    fn way(
        &self,
        asked: &Asked,
        name: &str,
        repository: Option<&Arc<Repository>>,
        limit: u64,
    ) -> Result<Way, Refusal> {
        let files = self.store.list(Digest::of(name.as_bytes()));
        let paths: HashMap<Digest, &PathBuf> =
            files.iter().map(|(file, path)| (file.manifest, path)).collect();
        let present: Vec<Present> = asked
            .have
            .iter()
            .map(|&manifest| Present { manifest, chain_id: None, missing_bytes: 0, packed_bytes: 0 })
            .collect();
        let choice = delta::plan(
            asked.want,
            limit,
            &present,
            &Weights::default(),
            |_| None,
            |target| {
                let of_target = files.iter().map(|(file, _)| file).filter(|file| file.target == target);
                let mut all: Vec<Published> = of_target.cloned().collect();
                if let Some(repository) = repository {
                    all.extend(delta::list(repository, target)?);
                }
                // A base file is no delta.
                all.retain(|delta| delta.source.is_some());
                Ok(all)
            },
        )?;
        let Choice::Deltas { deltas, .. } = choice else {
            return Err(Refusal::None(format!("no deltas lead to {}", asked.want)));
        };
        let source = deltas.first().and_then(|delta| delta.source);
        let source = source.ok_or_else(|| Refusal::None("no deltas lead there".into()))?;
        let mut parts = deltas.into_iter().map(|delta| {
            let path = paths.get(&delta.manifest).map(|&path| path.clone());
            (delta, path)
        });
        let means = match (parts.next(), parts.next()) {
            (Some((_, Some(path))), None) => Means::File(path),
            (first, second) => Means::Deltas(first.into_iter().chain(second).chain(parts).collect()),
        };
        let job = Job::new(name, (asked.want, source.manifest));
        Ok(Way { job, means, registry: self.options.registry.clone(), repository: None })
    }

    /// By making it, from the image that has most in common with the one that is wanted.
    fn images(
        &self,
        asked: &Asked,
        name: &str,
        repository: &Repository,
        wanted: &Manifest,
    ) -> Result<Way, Refusal> {
        let layers: HashSet<Digest> = wanted.layers.iter().map(|layer| layer.digest).collect();
        let mut best: Option<(u64, Digest)> = None;
        let mut compared = 0;
        for &have in &asked.have {
            if compared == MAX_COMPARED {
                break;
            }
            let Ok(found) = manifest(repository, have) else { continue };
            compared += 1;
            if bytes(&found) > self.options.max_image_bytes {
                continue;
            }
            let shared = found.layers.iter().filter(|layer| layers.contains(&layer.digest));
            let shared = shared.fold(1, |sum: u64, layer| sum.saturating_add(layer.size));
            if best.is_none_or(|(most, _)| shared > most) {
                best = Some((shared, have));
            }
        }
        let none = |why: &str| Refusal::None(format!("{}: {why}", asked.want));
        let (_, have) =
            best.ok_or_else(|| none("the repository has no image that deltas could start from"))?;
        if bytes(wanted) > self.options.max_image_bytes {
            return Err(none("too large to make deltas of here"));
        }
        let registry = self.options.registry.clone();
        let job = Job::new(name, (asked.want, have));
        Ok(Way { job, means: Means::Images, registry, repository: None })
    }

    /// Gets it. Takes its time.
    pub(super) fn get(&self, way: Way) -> Result<Got, Refusal> {
        let started = Instant::now();
        let pair = way.job.pair;
        let path = self.store.path(way.job);
        let how = match &way.means {
            Means::File(path) => {
                let got = self.read(path, How::Found)?;
                self.metrics.job(How::Found, started.elapsed());
                return Ok(got);
            }
            _ if path.exists() => How::Found,
            Means::Deltas(deltas) if deltas.len() == 1 => How::Fetched,
            Means::Deltas(_) => How::Merged,
            Means::Images => How::Made,
        };
        if how != How::Found {
            self.write(&way, &path).map_err(|failure| {
                tracing::warn!(want = %pair.0, have = %pair.1, %failure, "no delta");
                Refusal::Failed(failure.to_string())
            })?;
            Metrics::add(&self.metrics.evicted, self.store.evict(&path));
            if matches!(how, How::Merged | How::Made) && self.options.dir.is_none() {
                self.publish(&way, &path);
            }
        }
        let got = self.read(&path, how)?;
        self.metrics.job(how, started.elapsed());
        tracing::info!(want = %pair.0, have = %pair.1, how = how.name(), "delta");
        Ok(got)
    }

    fn read(&self, path: &Path, how: How) -> Result<Got, Refusal> {
        let read = self.store.read(path);
        let (map, digest) = read.map_err(|error| Refusal::Failed(format!("read delta: {error}")))?;
        Ok(Got { bytes: Bytes::from_owner(map), digest, how })
    }

    fn write(&self, way: &Way, path: &Path) -> Result<(), Failure> {
        let progress = Progress::new(self.config.progress);
        let mut out = OutFile::create(path, &self.config.tmpdir)?;
        match &way.means {
            Means::File(_) => {}
            Means::Deltas(parts) => match (parts.as_slice(), way.repository.as_deref()) {
                ([(delta, None)], Some(repository)) => {
                    let file = out.file().try_clone().map_err(Failure::io("open file", path))?;
                    delta::fetch(repository, delta, &[], Place::File(file), None)?;
                }
                _ => {
                    let deltas = parts.iter().map(|part| self.fetch(way, part));
                    let deltas: Vec<Delta> = deltas.collect::<Result<_, _>>()?;
                    self.merge(&deltas, out.file(), path, &progress)?;
                }
            },
            Means::Images => {
                let mut opener = Opener::new(&ImageOptions::default(), &self.config, &progress)?;
                opener.threads = self.options.threads;
                opener.options.registry = way.registry.clone();
                let repository = way.repository.as_deref().map(Repository::name).unwrap_or_default();
                let open = |digest: Digest| -> Result<_, Failure> {
                    let name = format!("{repository}@{digest}");
                    let Source::Registry(reference) = Source::parse(&name)? else {
                        return Err(Failure::usage(name, "not a reference to an image"));
                    };
                    let image = RemoteImage::resolve(&reference, &opener.options)?;
                    Ok(image.open(&opener.options)?)
                };
                let (old, new) = opener.read_both(&open(way.job.pair.1)?, &open(way.job.pair.0)?)?;
                let make = build::Make {
                    level: self.options.level,
                    codec: dimg::build::Codec::Auto,
                    memory_bytes: self.options.memory_bytes,
                    name: String::new(),
                    dir: self.config.tmpdir.clone(),
                };
                build::make(Some(&old), &new, make, (out.file(), path), &opener)?;
            }
        }
        let made = Delta::of(out.file(), path)?;
        let dimg = made.file.dimg();
        let source = dimg.parent().map(|parent| parent.manifest);
        if (dimg.target().manifest, source) != (way.job.pair.0, Some(way.job.pair.1)) {
            let why = "the delta leads elsewhere";
            return Err(Failure::new(Kind::Corrupt, "get delta", way.job.pair.0, why));
        }
        out.finish().map(drop)
    }

    fn fetch(&self, way: &Way, (delta, path): &(Published, Option<PathBuf>)) -> Result<Delta, Failure> {
        if let Some(path) = path {
            return Delta::open(path, &self.config.tmpdir);
        }
        let gone =
            || Failure::new(Kind::NotFound, "get delta", delta.manifest, "the registry does not have it");
        let repository = way.repository.as_deref().ok_or_else(gone)?;
        let tmpdir = &self.config.tmpdir;
        let file = tempfile::tempfile_in(tmpdir).map_err(Failure::io("make temporary file", tmpdir))?;
        let partial = delta::fetch(repository, delta, &[], Place::File(file), None)?;
        Delta::of(partial.file(), Path::new("delta"))
    }

    fn merge(
        &self,
        deltas: &[Delta],
        file: &mut File,
        path: &Path,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let options = MergeOptions {
            level: self.options.level,
            threads: self.options.threads,
            memory_bytes: self.options.memory_bytes,
            dir: self.config.tmpdir.clone(),
        };
        let files: Vec<&Dimg> = deltas.iter().map(|delta| delta.file.dimg()).collect();
        let last = deltas.last().and_then(|delta| delta.file.cdimg());
        let last = last.ok_or_else(|| Failure::new(Kind::Corrupt, "merge deltas", "delta", "is no cdimg"))?;
        let failed = |why: String| Failure::new(Kind::Failed, "merge deltas", "deltas", why);
        let mut made =
            merge(&files, &options, &mut Told(progress)).map_err(|error| failed(error.to_string()))?;
        let mut writer = BufWriter::with_capacity(256 << 10, file);
        write_cdimg(last.manifest(), last.config(), &mut made, self.options.level, &mut writer)
            .map_err(Failure::delta(path))?;
        writer.flush().map_err(Failure::io("write file", path))
    }

    /// Puts what was made into the registry, with our own login. Without the right to, every server makes it for itself.
    fn publish(&self, way: &Way, path: &Path) {
        let publish = || -> Result<(), Failure> {
            let name = way.repository.as_deref().map(Repository::name).unwrap_or_default();
            let Source::Registry(reference) = Source::parse(name)? else { return Ok(()) };
            let repository = Repository::open(&reference, Access::Push, &self.options.registry, name)?;
            let file = File::open(path).map_err(Failure::io("read file", path))?;
            let delta = Delta::of(&file, path)?;
            let Some(cdimg) = delta.file.cdimg() else { return Ok(()) };
            let stat = Stat::of(&delta.file, delta.bytes).map_err(Failure::delta(path))?;
            let map = Map::file(&file).map_err(Failure::io("read file", path))?;
            let digest = Digest::of(&map);
            delta::publish(&repository, &NewDelta::of(cdimg, stat.full_bytes)?, (file, digest), None)?;
            Ok(())
        };
        if let Err(failure) = publish() {
            tracing::warn!(%failure, "delta is not in the registry");
        }
    }
}

fn manifest(repository: &Repository, digest: Digest) -> Result<Manifest, SourceError> {
    let on = format!("{} manifest {digest}", repository.name());
    match Document::parse(&repository.manifest(digest)?.bytes, &on)? {
        Document::Image(manifest) => Ok(*manifest),
        Document::Index(_) => {
            Err(SourceError::Usage { on, why: "is an index; ask for the image of a platform".into() })
        }
    }
}

fn bytes(manifest: &Manifest) -> u64 {
    manifest.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
}
