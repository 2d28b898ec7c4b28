//! Names beside what is about to be written: `.NAME.<16 hexadecimal digits>.d4c`, for files and directories that get their name when they are whole.
//!
//! Whoever makes one keeps it locked until then. A killed process leaves it without a lock, so the next one that writes the same
//! name can remove it: nothing grows with the number of kills, and what another process is at stays. Those without a lock because their
//! file system has none are left alone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::interrupt::{self, Pending};

/// Bytes of a name in a directory, on every file system of Linux.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// Digits between the name and the end.
const DIGITS: usize = 16;

const END: &[u8] = b".d4c";

/// How often a name is made anew when another process takes it for one that was left.
const ATTEMPTS: usize = 8;

/// The directory of `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// How all names beside `target` begin. Of a long name it has the front.
fn front(target: &Path) -> Vec<u8> {
    let mut front = vec![b'.'];
    front.extend(target.file_name().unwrap_or_default().as_bytes());
    front.truncate(MAX_NAME_BYTES - (1 + DIGITS + END.len()));
    front.push(b'.');
    front
}

/// A path beside `target` that nobody else has: for what is about to become `target`.
pub(crate) fn aside(target: &Path) -> PathBuf {
    let random = RandomState::new().build_hasher().finish();
    let mut name = front(target);
    name.extend(format!("{random:0DIGITS$x}").bytes());
    name.extend(END);
    parent(target).join(OsString::from_vec(name))
}

/// An empty file of this mode beside `target`, to be read and written, locked as long as it is open; what killed processes left of
/// `target` goes.
///
/// # Errors
/// Those of `open`.
pub(crate) fn new_file(target: &Path, mode: u32) -> io::Result<(Pending, File)> {
    new(target, |path| OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path))
}

/// An empty directory beside `target`, locked as long as the file is open; what killed processes left of `target` goes.
///
/// # Errors
/// Those of `mkdir` and `open`.
pub(crate) fn new_dir(target: &Path) -> io::Result<(Pending, File)> {
    new(target, |path| DirBuilder::new().create(path).and_then(|()| File::open(path)))
}

fn new(target: &Path, make: impl Fn(&Path) -> io::Result<File>) -> io::Result<(Pending, File)> {
    sweep(target);
    for _ in 0..ATTEMPTS {
        let pending = Pending::new(aside(target));
        let file = make(pending.path())?;
        // A file system without locks: nobody else can lock it either.
        if file.lock().is_err() || is_at(&file, pending.path()) {
            return Ok((pending, file));
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy))
}

/// Whether the open file has this name, by symbolic links too.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (open, named) = (file.metadata(), fs::metadata(path));
    matches!((open, named), (Ok(open), Ok(named)) if (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Removes what killed processes left beside `target`. What cannot be looked at, locked or removed stays.
pub(crate) fn sweep(target: &Path) {
    let front = front(target);
    for entry in fs::read_dir(parent(target)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digits = name.as_bytes().strip_prefix(&front[..]).and_then(|rest| rest.strip_suffix(END));
        if !digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        let path = entry.path();
        if let Some(_lock) = abandoned(&path) {
            interrupt::remove(&path);
            tracing::info!(path = %path.display(), "removed what a killed process left");
        }
    }
}

/// The file or directory, locked for us, if it is one of ours that nobody has locked.
fn abandoned(path: &Path) -> Option<File> {
    let meta = fs::symlink_metadata(path).ok()?;
    if !(meta.is_dir() || meta.is_file()) || meta.uid() != fs::metadata("/proc/self").ok()?.uid() {
        return None;
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.try_lock().ok()?;
    is_at(&file, path).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_locked_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let left = dir.path().join(".out.0123456789abcdef.d4c");
        fs::write(&left, "x").unwrap();
        let tree = dir.path().join(".out.0123456789abcdee.d4c");
        fs::create_dir_all(tree.join("root/etc")).unwrap();
        let others = [".out.d4c", ".out.0123.d4c", ".outer.0123456789abcdef.d4c", ".out.0123456789abcdefd4c"];
        let others = others.map(|name| dir.path().join(name));
        for other in &others {
            fs::write(other, "x").unwrap();
        }
        let (first, lock) = new_file(&target, 0o666).unwrap();
        assert!(!left.exists() && !tree.exists());
        assert!(others.iter().all(|other| other.exists()));
        let (second, _lock) = new_dir(&target).unwrap();
        assert!(first.path().exists() && second.path().is_dir(), "what is being written stays");
        drop(lock);
        sweep(&target);
        assert!(!first.path().exists() && second.path().is_dir());
    }
}
