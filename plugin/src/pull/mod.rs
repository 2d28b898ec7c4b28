//! Deltas within an ordinary pull: a Prepare that asks for a layer of an image makes us look for deltas that lead to the image from what the
//! node has, and is answered with layers made of them.
//!
//! containerd waits for a Prepare with its lock of this snapshotter held, which its garbage collection takes exclusively. So nothing is fetched on
//! the thread of the request: a thread of the image's own does (`fetch`), and the request waits for it until a deadline. Past that, or
//! when it fails, the request is answered as if there were no such thing, and containerd pulls the layers. What was begun goes on: a pull that is
//! tried again finds it. Never is containerd's API called from here; of its content store the files are read (`content`).
//!
//! One image is looked for once, however many layers and clients ask. What came of it is remembered, so that the Prepare of the next layer does
//! not ask the registry again; the Prepare of the layer that asked first stands for a new pull, and does.

mod content;
mod fetch;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use d4c_image::registry::Partials;
use dimg::Digest;

use crate::config::PullSettings;
use crate::error::{Error, Result};
use crate::import::Importer;
use crate::snapshot::{LABEL_IMAGE_REF, LABEL_LAYER_DIGEST, LABEL_MANIFEST_DIGEST, Labels};
use crate::snapshotter::{LayerProvider, Parent, ReadyLayer};
use fetch::Fetch;

/// Images that are fetched at once; for others containerd pulls.
const MAX_RUNNING: usize = 8;
/// Images of which it is remembered what came of them.
const MAX_KNOWN: usize = 256;
/// For how long.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Looks for images whose layers are asked for.
pub struct Puller {
    importer: Arc<Importer>,
    settings: PullSettings,
    /// What is being fetched, and beside it unpacked layers of bases.
    partials: Partials,
    jobs: Mutex<HashMap<Digest, Job>>,
    changed: Condvar,
    closed: AtomicBool,
}

/// An image that was asked for.
#[derive(Debug)]
struct Job {
    state: State,
    /// The layer whose Prepare began it.
    first: String,
    /// When those who wait are let go.
    until: Instant,
    waiting: usize,
    /// A Prepare was let go.
    missed: bool,
}

#[derive(Debug)]
enum State {
    Running,
    /// The image is there, and held until its topmost layer is taken.
    Done {
        held: Vec<Digest>,
        top: Option<Digest>,
        since: Instant,
    },
    Failed {
        since: Instant,
    },
}

/// What a Prepare asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    /// The image's name, as the client has it.
    image: String,
    manifest: Digest,
    /// Digest of the layer's blob.
    layer: Option<Digest>,
    chain_id: String,
}

impl Asked {
    /// What the labels tell, if they are those of a pull.
    fn of(chain_id: &str, labels: &Labels) -> Option<Self> {
        Some(Self {
            image: labels.get(LABEL_IMAGE_REF)?.clone(),
            manifest: labels.get(LABEL_MANIFEST_DIGEST)?.parse().ok()?,
            layer: labels.get(LABEL_LAYER_DIGEST).and_then(|digest| digest.parse().ok()),
            chain_id: chain_id.to_owned(),
        })
    }
}

impl LayerProvider for Arc<Puller> {
    fn lookup(&self, parent: &Parent<'_>, chain_id: &str, labels: &Labels) -> Result<Option<ReadyLayer>> {
        let ready = self.importer.lookup(parent, chain_id, labels)?;
        if ready.is_some() {
            return Ok(ready);
        }
        let Some(asked) = Asked::of(chain_id, labels) else { return Ok(None) };
        if self.wait_for(asked) { self.importer.lookup(parent, chain_id, labels) } else { Ok(None) }
    }
}

impl Puller {
    /// A puller that imports through `importer`. Deltas that a predecessor left half fetched stay, to be gone on with; what else it left is removed.
    ///
    /// # Errors
    /// The directory for what is being fetched cannot be made or cleared.
    pub fn open(importer: Arc<Importer>, settings: PullSettings) -> Result<Arc<Self>> {
        let dir = importer.store().root().join("pull");
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => clear(&dir)?,
            made => made.map_err(Error::io("make directory", &dir))?,
        }
        let partials = Partials::new(dir, settings.partial_bytes);
        partials.sweep();
        Ok(Arc::new(Self {
            importer,
            settings,
            partials,
            jobs: Mutex::default(),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Removes downloads that broke off and are old or too many.
    pub fn sweep(&self) {
        self.partials.sweep();
    }

    /// Lets everyone go who waits.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let _jobs = self.lock();
        self.changed.notify_all();
    }

    /// Notes that containerd has taken a layer. Whether images that were held for it are let go now.
    pub fn adopted(&self, chain_id: &str) -> bool {
        let mut freed = Vec::new();
        self.lock().retain(|_, job| match &mut job.state {
            State::Done { held, top, .. } if top.is_some_and(|top| top.to_string() == chain_id) => {
                freed.append(held);
                false
            }
            _ => true,
        });
        freed.iter().for_each(|&image| self.importer.unhold(image));
        !freed.is_empty()
    }

    /// Has the image made that a layer is asked of, and waits for it. Whether it is there now.
    fn wait_for(self: &Arc<Self>, asked: Asked) -> bool {
        let manifest = asked.manifest;
        let mut jobs = self.lock();
        let now = Instant::now();
        let until = now + self.settings.deadline;
        let again = jobs.get(&manifest).is_some_and(|job| job.first == asked.chain_id);
        let begin = match jobs.get_mut(&manifest) {
            None => true,
            Some(job) => match job.state {
                State::Running => {
                    if again {
                        (job.until, job.missed) = (until, false);
                    }
                    false
                }
                // Its layers have gone since.
                State::Done { .. } if !job.missed => true,
                State::Done { since, .. } | State::Failed { since } => again || now > since + REMEMBERED,
            },
        };
        if begin && !self.begin(&mut jobs, asked, until) {
            return false;
        }
        if let Some(job) = jobs.get_mut(&manifest) {
            job.waiting += 1;
        }
        let came = loop {
            let Some(job) = jobs.get_mut(&manifest) else { break false };
            let left = job.until.saturating_duration_since(Instant::now());
            match job.state {
                State::Done { .. } => break true,
                State::Failed { .. } => break false,
                State::Running if self.closed.load(Ordering::Acquire) => break false,
                State::Running if left.is_zero() => {
                    if !job.missed {
                        let seconds = self.settings.deadline.as_secs_f32();
                        tracing::warn!(%manifest, seconds, "deltas are late, containerd pulls the layers");
                    }
                    job.missed = true;
                    break false;
                }
                State::Running => {
                    jobs = self
                        .changed
                        .wait_timeout(jobs, left)
                        .map_or_else(|error| error.into_inner().0, |(jobs, _)| jobs);
                }
            }
        };
        if let Some(job) = jobs.get_mut(&manifest) {
            job.waiting = job.waiting.saturating_sub(1);
        }
        came
    }

    /// Starts the thread of an image. Whether it runs.
    fn begin(self: &Arc<Self>, jobs: &mut HashMap<Digest, Job>, asked: Asked, until: Instant) -> bool {
        let (image, manifest) = (asked.image.clone(), asked.manifest);
        let running = jobs.values().filter(|job| matches!(job.state, State::Running)).count();
        if running >= MAX_RUNNING {
            tracing::info!(image, running, "too many images at once, containerd pulls the layers");
            return false;
        }
        if let Some(Job { state: State::Done { held, .. }, .. }) = jobs.remove(&manifest) {
            held.into_iter().for_each(|held| self.importer.unhold(held));
        }
        self.forget(jobs);
        let first = asked.chain_id.clone();
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new().name("pull".into()).spawn(move || this.run(&asked));
        if let Err(error) = thread {
            tracing::warn!(image, %error, "no thread for deltas, containerd pulls the layers");
            return false;
        }
        jobs.insert(manifest, Job { state: State::Running, first, until, waiting: 0, missed: false });
        true
    }

    /// Forgets what has been remembered longest, so that there is room for another.
    fn forget(&self, jobs: &mut HashMap<Digest, Job>) {
        while jobs.len() >= MAX_KNOWN {
            let ended = jobs.iter().filter_map(|(&manifest, job)| match job.state {
                State::Done { since, .. } | State::Failed { since } => Some((since, manifest)),
                State::Running => None,
            });
            let Some((_, oldest)) = ended.min() else { return };
            if let Some(Job { state: State::Done { held, .. }, .. }) = jobs.remove(&oldest) {
                held.into_iter().for_each(|held| self.importer.unhold(held));
            }
        }
    }

    /// The thread of an image.
    fn run(&self, asked: &Asked) {
        let started = Instant::now();
        let manifest = asked.manifest;
        let is_wanted = || {
            self.lock()
                .get(&manifest)
                .is_some_and(|job| job.waiting > 0 || !job.missed && Instant::now() < job.until)
        };
        let mut held = Vec::new();
        let mut fetch = Fetch::new(&self.importer, &self.settings, &self.partials, asked, &mut held);
        let result = fetch.run(&is_wanted);
        let since = Instant::now();
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let image = &asked.image;
        let state = match result {
            Ok(got) => {
                let (fetched_bytes, pull_bytes) = (got.fetched_bytes, got.pull_bytes);
                let deltas = got.deltas;
                tracing::info!(image, %manifest, deltas, fetched_bytes, pull_bytes, ms, "image made from deltas");
                State::Done { held, top: got.top, since }
            }
            Err(why) => {
                held.into_iter().for_each(|held| self.importer.unhold(held));
                if why.is_ordinary() {
                    tracing::info!(image, %manifest, reason = %why, "containerd pulls the layers");
                } else {
                    // The disk may be full, and containerd unpacks there now.
                    if why.is_of_import() {
                        self.importer.sweep_unused();
                    }
                    self.importer.sweep_objects();
                    tracing::warn!(image, %manifest, reason = %why, ms, "containerd pulls the layers");
                }
                State::Failed { since }
            }
        };
        if let Some(job) = self.lock().get_mut(&manifest) {
            job.state = state;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes from `dir` what is no download.
fn clear(dir: &Path) -> Result<()> {
    const WHAT: &str = "clear directory";
    for entry in std::fs::read_dir(dir).map_err(Error::io(WHAT, dir))? {
        let entry = entry.map_err(Error::io(WHAT, dir))?;
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(Partials::owns) {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(Error::io(WHAT, &path))?;
    }
    Ok(())
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Puller({})", self.partials.dir().display())
    }
}

#[cfg(test)]
mod tests;
