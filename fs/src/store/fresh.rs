//! Objects by a second name, for those who looked below `objects` before they were made.
//!
//! Whoever opens a content that is not there asks the file system in user space for it, and then looks here, without having to start
//! again ([`mount`](mod@crate::mount)). The names are taken away when nothing was made for a while, who comes too late for one starts again;
//! and before objects are removed, whose bytes they would keep. What was not given a name is not looked at: the names are known, and `mark`
//! tells of some to whoever opens the store after a process that was killed. Folders stay, since to make one costs more than two names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dimg::index::Content;

use super::{ObjectFiles, ObjectStore, StoreError};

/// Folders, one for each first byte of a digest.
const FANS: usize = 256;

/// Names that are known of a folder; one with more is looked through.
const KNOWN: usize = 32;

/// The directory of these names, as `ab/cdef…`.
#[derive(Debug)]
pub(super) struct Fresh {
    dir: PathBuf,
    files: ObjectFiles,
    /// There while a folder may have names.
    mark: PathBuf,
    fans: Box<[Mutex<Fan>]>,
    /// How many may; locked after one of them.
    used: Mutex<usize>,
}

/// What may be in a folder.
#[derive(Debug, Default)]
struct Fan {
    known: Vec<Content>,
    /// More than those.
    more: bool,
}

impl Fan {
    fn is_used(&self) -> bool {
        self.more || !self.known.is_empty()
    }

    fn note(&mut self, content: &Content) {
        if self.known.len() == KNOWN {
            self.more = true;
        } else if !self.known.contains(content) {
            self.known.push(*content);
        }
    }
}

impl Fresh {
    /// Those below `root`, an earlier process's among them.
    pub(super) fn below(root: &Path) -> Result<Self, StoreError> {
        let dir = root.join("fresh");
        fs::create_dir_all(&dir).map_err(|error| StoreError::io("make directory", &dir, error))?;
        let mark = dir.join("mark");
        let left = mark.try_exists().map_err(|error| StoreError::io("look at", &mark, error))?;
        let fan = || Fan { known: Vec::new(), more: left };
        let fans = (0..FANS).map(|_| Mutex::new(fan())).collect();
        let used = Mutex::new(if left { FANS } else { 0 });
        Ok(Self { files: ObjectFiles::at(dir.clone()), dir, mark, fans, used })
    }

    fn add(&self, content: &Content, object: &Path) -> io::Result<()> {
        let path = self.files.path(content);
        let mut fan = lock(&self.fans[usize::from(content.digest.0[0])]);
        if !fan.is_used() {
            let mut used = lock(&self.used);
            if *used == 0 {
                File::create(&self.mark)?;
            }
            *used += 1;
        }
        fan.note(content);
        let link = || fs::hard_link(object, &path);
        match link() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| link())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let inode = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.ino());
                match inode(object)? == inode(&path)? {
                    true => Ok(()),
                    // Of an object that was made again since.
                    false => fs::remove_file(&path).and_then(|()| link()),
                }
            }
            linked => linked,
        }
    }

    pub(super) fn forget(&self) -> Result<(), StoreError> {
        for (byte, fan) in self.fans.iter().enumerate() {
            let mut fan = lock(fan);
            if !fan.is_used() {
                continue;
            }
            match fan.more {
                true => empty(&self.dir.join(format!("{byte:02x}"))),
                false => {
                    fan.known.iter().try_for_each(|content| absent(fs::remove_file(self.files.path(content))))
                }
            }
            .map_err(|error| StoreError::io("remove second names of objects in", &self.dir, error))?;
            let mut used = lock(&self.used);
            if *used == 1 {
                absent(fs::remove_file(&self.mark))
                    .map_err(|error| StoreError::io("remove", &self.mark, error))?;
            }
            *used -= 1;
            *fan = Fan::default();
        }
        Ok(())
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    match fs::read_dir(dir) {
        Err(error) => absent(Err(error)),
        Ok(mut files) => files.try_for_each(|file| absent(fs::remove_file(file?.path()))),
    }
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What these locks guard is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        if let Err(error) = self.forget_fresh() {
            tracing::warn!(%error, "objects keep their second names");
        }
    }
}

impl ObjectStore {
    /// Where objects have their second names, as `ab/cdef…`. None in a store that is volatile, from which nothing is removed.
    pub(crate) fn fresh(&self) -> Option<&Path> {
        self.fresh.as_ref().map(|fresh| &*fresh.dir)
    }

    /// Gives an object its second name, where there are such names.
    pub(crate) fn add_fresh(&self, content: &Content) -> io::Result<()> {
        let Some(fresh) = &self.fresh else { return Ok(()) };
        let _hold = self.hold();
        fresh.add(content, &self.path(content))
    }

    /// Takes all second names away.
    ///
    /// # Errors
    /// A directory cannot be read, or a name not be removed.
    pub(crate) fn forget_fresh(&self) -> Result<(), StoreError> {
        self.fresh.as_ref().map_or(Ok(()), Fresh::forget)
    }
}
