//! Delta layers whose contents are made when they are opened.
//!
//! A layer that was imported so has no directory of files. When a container or view is to stand on it, its tree merged
//! with those below is served by [`di3fs::mount`], below `<root>/served/<hex of the chain ID>`, and the container's overlay
//! lies on that. As long as contents are missing, a FUSE session answers; the kernel's end of it is with the
//! [`Holder`] too, so that the next plugin goes on where this one ended, however that was.
//!
//! The image of metadata of the route `erofs` stays there as long as the layer is known, for the next container and the next plugin: up to
//! [`MOST_KEPT_BYTES`] of those that nothing lies on, the ones written last.
//!
//! Once an image is complete (`Importer::finish`), the route `erofs` needs no session any more: it is ended when no
//! container or view lies on the layer. As long as one does, what it lies on stays mounted where it was: containerd asks
//! for mounts and mounts them later, and again when it starts a container anew.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use di3fs::mount::{Lower, METADATA, MountError, Options, Route, Served};

use dimg::Digest;

use crate::error::{Error, Result};
use crate::holder::Holder;
use crate::import::{Importer, Mounts, Progress};

/// Images of metadata that are kept without being used; one takes some 100 bytes for each entry.
const MOST_KEPT_BYTES: u64 = 256 << 20;

/// What a snapshot that stands on a lazily made layer lies on.
pub trait LowerProvider: Send + Sync {
    /// The lower layers that are the tree of `chain_id` merged with all below it. containerd waits with a lock held.
    ///
    /// # Errors
    /// It cannot be served.
    fn lower(&self, chain_id: &str) -> Result<Lower>;
}

/// For snapshotters that never have such layers.
impl LowerProvider for () {
    fn lower(&self, chain_id: &str) -> Result<Lower> {
        Err(Error::Unavailable { what: format!("serve layer {chain_id}: layers are made in advance here") })
    }
}

/// All that is served from one root.
#[derive(Debug)]
pub struct Serving {
    dir: PathBuf,
    route: Route,
    importer: Arc<Importer>,
    holder: Holder,
    served: Mutex<BTreeMap<String, Served>>,
    /// Chain IDs of what the holder has and could not be gone on with yet; none when it could not be asked. Whoever waits for it goes on waiting.
    left: Mutex<Option<HashSet<String>>>,
}

impl Serving {
    /// Takes over what an earlier plugin served, and serves from now on by `route`.
    ///
    /// # Errors
    /// The directory cannot be made. What cannot be taken over is told in the log.
    pub fn open(importer: Arc<Importer>, holder: Holder, route: Route) -> Result<Self> {
        let dir = importer.store().root().join("served");
        fs::create_dir_all(&dir).map_err(Error::io("make directory", &dir))?;
        let (served, left) = (Mutex::default(), Mutex::default());
        let serving = Self { dir, route, importer, holder, served, left };
        serving.take_over(&mut serving.lock());
        serving.tidy()?;
        Ok(serving)
    }

    /// The route of what is served from now on.
    pub fn route(&self) -> Route {
        self.route
    }

    /// How many trees are served.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Goes on with what the holder has and is not served yet; what cannot be now is tried again later.
    fn take_over(&self, served: &mut BTreeMap<String, Served>) {
        let held = match self.holder.held() {
            Ok(held) => held,
            Err(error) => {
                tracing::error!(%error, "the holder gives nothing back yet");
                self.importer.look_again();
                *self.left() = None;
                return;
            }
        };
        let (used, mut left) = (self.used(), HashSet::new());
        for (name, device) in held {
            let Some((route, chain_id)) = parse_name(&name) else {
                self.forget(&name);
                continue;
            };
            if served.get(&chain_id).is_some_and(|one| one.route() == route && one.device().is_some()) {
                continue;
            }
            match self.resume(route, &chain_id, device, is_used(used.as_ref(), &chain_id)) {
                Ok(Some(resumed)) => {
                    tracing::info!(chain_id, %route, "goes on serving");
                    served.insert(chain_id, resumed);
                }
                Ok(None) => self.forget(&name),
                Err(error) if error.is_passing() => {
                    tracing::warn!(chain_id, %error, "cannot go on serving yet");
                    left.insert(chain_id);
                }
                Err(error) => {
                    tracing::error!(chain_id, %error, "cannot go on serving");
                    self.forget(&name);
                }
            }
        }
        if !left.is_empty() {
            self.importer.look_again();
        }
        *self.left() = Some(left);
    }

    /// Goes on with one session; none when nobody needs it.
    fn resume(&self, route: Route, chain_id: &str, device: OwnedFd, is_used: bool) -> Result<Option<Served>> {
        let progress = self.importer.progress(chain_id)?;
        if !progress.is_some_and(|progress| is_wanted(progress, route, is_used)) {
            return Ok(None);
        }
        let Some(found) = self.importer.still_served_image(chain_id)? else { return Ok(None) };
        let options = Options { route: Some(route), ..Options::default() };
        let resumed = Served::resume(&found.image, &self.state(chain_id), &options, device);
        resumed.map(Some).map_err(|error| match error {
            MountError::Io { action, path, source } => Error::Io { action, path, source },
            error => failed(chain_id)(error),
        })
    }

    /// Tries again what could not be gone on with before.
    fn take_over_left(&self, served: &mut BTreeMap<String, Served>) {
        if self.left().as_ref().is_none_or(|left| !left.is_empty()) {
            self.take_over(served);
        }
    }

    fn left(&self) -> MutexGuard<'_, Option<HashSet<String>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes directories that nothing is served in, and images of metadata when they are many.
    fn tidy(&self) -> Result<()> {
        let used = self.used();
        let served = self.lock();
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("read directory", &self.dir))? {
            let path = entry.map_err(Error::io("read directory", &self.dir))?.path();
            if served.keys().any(|chain_id| self.state(chain_id) == path) {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let chain_id = format!("sha256:{name}");
            match self.importer.store().tree(&chain_id)? {
                None => remove(&path),
                Some(_) if is_used(used.as_ref(), &chain_id) => {}
                Some(_) => {
                    clean(&path);
                    let metadata = path.join(METADATA);
                    if let Ok(meta) = fs::metadata(&metadata) {
                        kept.push((meta.modified().ok(), meta.len(), metadata));
                    }
                }
            }
        }
        trim(kept, MOST_KEPT_BYTES);
        Ok(())
    }

    /// Ends what no layer or no content needs any more.
    pub fn sweep(&self) {
        let mut served = self.lock();
        self.take_over_left(&mut served);
        // Whoever comes later waits for us, and is given something new.
        let used = self.used();
        let chains: Vec<String> = served.keys().cloned().collect();
        for chain_id in chains {
            let wanted = match self.importer.progress(&chain_id) {
                Ok(None) => false,
                Ok(Some(progress)) => {
                    let session = served.get(&chain_id).filter(|one| one.device().is_some());
                    let is_used = is_used(used.as_ref(), &chain_id);
                    session.is_none_or(|one| is_wanted(progress, one.route(), is_used))
                }
                Err(error) => {
                    tracing::warn!(chain_id, %error, "cannot tell whether a layer is needed");
                    true
                }
            };
            if !wanted && let Some(one) = served.remove(&chain_id) {
                self.end(&chain_id, one);
            }
        }
        drop(served);
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "what is served no more is not removed");
        }
    }

    /// Ends all but what a container may be using: that goes on with the next plugin.
    pub fn close(&self) {
        let used = self.used();
        for (chain_id, one) in std::mem::take(&mut *self.lock()) {
            if is_used(used.as_ref(), &chain_id) {
                tracing::info!(chain_id, "left to the next plugin");
                one.leave();
            } else {
                self.end(&chain_id, one);
            }
        }
    }

    /// The chain IDs that active snapshots and views lie on; none when that cannot be told.
    fn used(&self) -> Option<HashSet<String>> {
        let found = self.importer.store().lazy_in_use();
        found.inspect_err(|error| tracing::warn!(%error, "cannot tell which layers are in use: all are")).ok()
    }

    fn end(&self, chain_id: &str, one: Served) {
        let (route, session) = (one.route(), one.device().is_some());
        drop(one);
        if session {
            self.forget(&name(route, chain_id));
        }
        match self.importer.store().tree(chain_id) {
            Ok(None) => remove(&self.state(chain_id)),
            _ => clean(&self.state(chain_id)),
        }
        tracing::info!(chain_id, "no longer served");
    }

    fn forget(&self, name: &str) {
        if let Err(error) = self.holder.forget(name) {
            tracing::warn!(name, %error, "the holder does not let go");
        }
    }

    fn start(&self, chain_id: &str, state: &Path) -> Result<Served> {
        let found = self
            .importer
            .served_image(chain_id)?
            .ok_or_else(|| Error::Unavailable { what: format!("serve layer {chain_id}: no image has it") })?;
        if !(found.complete && self.route == Route::Erofs) {
            clean(state);
        }
        // Else the same is mounted on what was left there, and who was told of that finds this.
        let (route, name) = (Some(self.route), Some(chain_id.to_owned()));
        let options = Options { route, name, complete: found.complete, ..Options::default() };
        Served::start(&found.image, state, &options).map_err(failed(chain_id))
    }

    /// The directory in which a chain's tree is served.
    fn state(&self, chain_id: &str) -> PathBuf {
        self.dir.join(chain_id.rsplit(':').next().unwrap_or(chain_id))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving {
    /// Also where a start fails: what was taken over is for the next one.
    fn drop(&mut self) {
        self.close();
    }
}

impl LowerProvider for Serving {
    fn lower(&self, chain_id: &str) -> Result<Lower> {
        let mut served = self.lock();
        self.take_over_left(&mut served);
        if let Some(one) = served.get(chain_id) {
            // Without a session nothing can be made: the image whose contents were all there has gone, and come again without them.
            if one.device().is_some() || self.importer.is_complete(chain_id)? {
                return Ok(one.lower().clone());
            }
            tracing::info!(chain_id, "serving anew, the image is another");
            if let Some(one) = served.remove(chain_id) {
                self.end(chain_id, one);
            }
        }
        let started = std::time::Instant::now();
        let state = self.state(chain_id);
        let again = match self.route == Route::Erofs && self.importer.is_complete(chain_id)? {
            true => Served::again(self.importer.objects(), &state, chain_id).map_err(failed(chain_id))?,
            false => None,
        };
        let known = again.is_some();
        let mut one = match again {
            Some(one) => one,
            // The holder has one session of a name: another one would be the end of the first.
            None if self.left().as_ref().is_none_or(|left| left.contains(chain_id)) => {
                let what = format!("serve layer {chain_id}: cannot go on yet with what was served before");
                return Err(Error::Unavailable { what });
            }
            None => self.start(chain_id, &state)?,
        };
        one.merge(&state).map_err(failed(chain_id))?;
        if let Some(device) = one.device() {
            let kept = self.holder.keep(&name(one.route(), chain_id), device);
            kept.map_err(|error| Error::Unavailable {
                what: format!("serve layer {chain_id}: give its session to the holder: {error}"),
            })?;
        }
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(chain_id, route = %one.route(), complete = one.device().is_none(), known, ms, "serving");
        let lower = one.lower().clone();
        served.insert(chain_id.to_owned(), one);
        if !known {
            self.importer.tell_served();
        }
        Ok(lower)
    }
}

/// Unmounts what is mounted in the state of a served tree, and removes it.
impl Mounts for Serving {
    fn end_unused(&self) {
        // Whoever has it may wait for the very content that there is no room for.
        let Ok(mut served) = self.served.try_lock() else { return };
        let Some(used) = self.used() else { return };
        for (chain_id, one) in served.extract_if(.., |chain_id, _| !used.contains(chain_id)) {
            self.end(&chain_id, one);
        }
    }

    fn while_unused(&self, chain_ids: &[Digest], work: &mut dyn FnMut()) {
        // Whoever has it may wait until contents are removed. A snapshot is recorded before it is asked what it lies on.
        let Ok(served) = self.served.try_lock() else { return };
        let Some(used) = self.used() else { return };
        let is_free = |chain_id: String| !served.contains_key(&chain_id) && !used.contains(&chain_id);
        if chain_ids.iter().all(|chain_id| is_free(chain_id.to_string())) {
            work();
        }
    }
}

/// Removes the oldest of `kept`, each with its time and bytes, until there are no more than `most` bytes.
fn trim(mut kept: Vec<(Option<SystemTime>, u64, PathBuf)>, most: u64) {
    kept.sort();
    let mut bytes: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, own, path) in kept {
        if bytes <= most {
            break;
        }
        match fs::remove_file(&path) {
            Ok(()) => bytes -= own,
            Err(error) => tracing::warn!(path = %path.display(), %error, "not removed"),
        }
    }
}

fn remove(state: &Path) {
    if let Err(error) = di3fs::mount::remove(state) {
        tracing::warn!(%error, "not removed");
    }
}

/// Unmounts what is mounted in the state of a served tree.
fn clean(state: &Path) {
    if let Err(error) = di3fs::mount::clean(state) {
        tracing::warn!(%error, "not cleaned");
    }
}

fn failed(chain_id: &str) -> impl Fn(MountError) -> Error {
    let chain_id = chain_id.to_owned();
    move |error| Error::Unavailable { what: format!("serve layer {chain_id}: {error}") }
}

/// What cannot be told is taken for used.
fn is_used(used: Option<&HashSet<String>>, chain_id: &str) -> bool {
    used.is_none_or(|used| used.contains(chain_id))
}

/// Whether a session serves an image that is so far.
fn is_wanted(progress: Progress, route: Route, is_used: bool) -> bool {
    match progress {
        Progress::Pending => true,
        Progress::Complete => route != Route::Erofs || is_used,
        Progress::Rejected => is_used,
    }
}

/// What the holder knows a session by.
fn name(route: Route, chain_id: &str) -> String {
    format!("{route}/{chain_id}")
}

fn parse_name(name: &str) -> Option<(Route, String)> {
    let (route, chain_id) = name.split_once('/')?;
    Some((Route::from_str(route).ok()?, chain_id.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let file = |number: u64| {
            let path = dir.path().join(number.to_string());
            fs::write(&path, [0; 10]).unwrap();
            (Some(SystemTime::UNIX_EPOCH + Duration::from_secs(number)), 10, path)
        };
        trim([3, 1, 2].map(file).to_vec(), 20);
        assert!(
            !dir.path().join("1").exists() && dir.path().join("2").exists() && dir.path().join("3").exists()
        );
        trim([3, 2].map(file).to_vec(), 0);
        assert!(!dir.path().join("2").exists() && !dir.path().join("3").exists());
    }
}
