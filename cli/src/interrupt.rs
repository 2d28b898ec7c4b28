//! What Ctrl-C leaves behind: nothing.
//!
//! Whatever a command makes under a temporary name is registered here first. A thread waits for SIGINT, SIGTERM and
//! SIGHUP; it removes what is registered and ends the process with status 130. Temporary files that never had a
//! name need no care: the kernel frees them.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Kind, Reason};

/// The exit status of an interrupted command,
const INTERRUPTED: i32 = 130;

/// and what it is now.
static STATUS: AtomicI32 = AtomicI32::new(INTERRUPTED);

/// Told of the first signal, instead of the process ending.
static INSTEAD: Mutex<Option<UnixStream>> = Mutex::new(None);

static PENDING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts to wait for signals.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn watch() -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Kind::Failed, "start", "signal handler", Reason(&error));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    // A file beyond `ulimit -f` is a failed write then, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
    let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            let instead = INSTEAD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if instead.is_some_and(|mut told| told.write_all(&[1]).is_ok()) {
                continue;
            }
            // Kept locked until the end, so that nothing is added that nobody would remove.
            let mut pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for path in pending.drain(..).rev() {
                remove(&path);
            }
            std::process::exit(STATUS.load(Ordering::Relaxed));
        }
    });
    if thread.is_err() {
        // Without a thread the process only ends, and leaves what `kill -9` would.
        let always = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&always))
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Lets a signal be the way to end the process, with status 0: of what serves until then.
pub(crate) fn is_the_end() {
    STATUS.store(0, Ordering::Relaxed);
}

/// A stream that can be read from once a signal came. The first one does not end the process then; the second does.
///
/// # Errors
/// The system has no more descriptors.
pub(crate) fn stream() -> Result<UnixStream, Failure> {
    let pair = UnixStream::pair();
    let (told, stream) =
        pair.map_err(|error| Failure::new(Kind::Failed, "start", "signal handler", Reason(&error)))?;
    *INSTEAD.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(told);
    Ok(stream)
}

/// Removes a file or a directory with all that is in it, also while another thread still adds to it.
pub(crate) fn remove(path: &Path) {
    for _ in 0..10 {
        let removed = match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => d4c_sys::remove_tree(path),
            Ok(_) => fs::remove_file(path),
            Err(_) => return,
        };
        if removed.is_ok() {
            return;
        }
    }
}

/// Removes all that is registered, when the process is about to end. Where another thread has the list it may be waiting for what this one has: then what there is
/// stays.
pub(crate) fn remove_pending() {
    for _ in 0..50 {
        let mut pending = match PENDING.try_lock() {
            Ok(pending) => pending,
            Err(TryLockError::Poisoned(pending)) => pending.into_inner(),
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        for path in pending.drain(..).rev() {
            remove(&path);
        }
        return;
    }
}

/// A path that is removed when this is dropped, or when the process is interrupted, unless it is kept.
#[derive(Debug)]
pub(crate) struct Pending(PathBuf);

impl Pending {
    /// Registers `path`, which is about to be made.
    pub(crate) fn new(path: PathBuf) -> Self {
        PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(path.clone());
        Self(path)
    }

    /// The path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Runs `publish`, which gives the path its final name, with no interruption in between; on success nothing is
    /// left to remove.
    ///
    /// # Errors
    /// That of `publish`; the path is removed then.
    pub(crate) fn keep<T, E>(self, publish: impl FnOnce(&Path) -> Result<T, E>) -> Result<T, E> {
        let mut pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = publish(&self.0)?;
        pending.retain(|path| *path != self.0);
        drop(pending);
        Ok(result)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = PENDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if pending.contains(&self.0) {
            remove(&self.0);
            pending.retain(|path| *path != self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [kept, dropped, failed] = ["kept", "dropped", "failed"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            Pending::new(path)
        });
        let to = dir.path().join("final");
        kept.keep(|from| fs::rename(from, &to)).unwrap();
        drop(dropped);
        failed.keep(|_| Err::<(), _>(())).unwrap_err();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [to]);
    }
}
