//! A mount seen from the system's table of mounts.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{MountError, Route};
use crate::fuse::Session;

const TABLE: &str = "/proc/self/mountinfo";

/// A mounted image. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    route: Route,
    dest: PathBuf,
    /// The kernel's number of the mount.
    id: u64,
    session: Option<Session>,
    done: bool,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Someone has unmounted the image.
    Unmounted,
    /// The caller was woken.
    Woken,
}

impl Mounted {
    /// What was just mounted at `dest`.
    pub(super) fn new(route: Route, dest: PathBuf) -> Result<Self, MountError> {
        let found = || -> io::Result<Option<u64>> {
            let mut table = File::open(TABLE)?;
            // The last one lies on top.
            Ok(mounts(&mut table)?.iter().rev().find(|(_, path)| *path == dest).map(|(id, _)| *id))
        };
        let id = found().and_then(|id| id.ok_or_else(|| io::ErrorKind::NotFound.into()));
        match id {
            Ok(id) => Ok(Self { route, dest, id, session: None, done: false }),
            Err(error) => {
                let _ = nix::mount::umount2(&dest, MntFlags::MNT_DETACH);
                Err(MountError::io("find mount", &dest)(error))
            }
        }
    }

    pub(super) fn serving(mut self, session: Option<Session>) -> Self {
        self.session = session;
        self
    }

    /// The route that is taken.
    pub fn route(&self) -> Route {
        self.route
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dest
    }

    /// Waits until the image is unmounted by someone else, or `wake` can be read from.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn wait(&self, wake: BorrowedFd<'_>) -> Result<Ended, MountError> {
        let failed = || MountError::io("watch mounts", Path::new(TABLE));
        let mut table = File::open(TABLE).map_err(failed())?;
        loop {
            if !mounts(&mut table).map_err(failed())?.iter().any(|(id, _)| *id == self.id) {
                return Ok(Ended::Unmounted);
            }
            let table = PollFd::new(table.as_fd(), PollFlags::POLLPRI);
            let mut fds = [table, PollFd::new(wake, PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) | Ok(_) => {}
                Err(errno) => return Err(failed()(errno.into())),
            }
            if fds[1].any().unwrap_or(false) {
                return Ok(Ended::Woken);
            }
        }
    }

    /// Unmounts the image. Whether nothing used it any more; else it is gone for all who look for it, and those who have
    /// files open keep them as long as this process lives.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub fn unmount(mut self) -> Result<bool, MountError> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<bool, MountError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(true);
        }
        let failed = |errno: Errno| MountError::io("unmount", &self.dest)(errno.into());
        let mut table = File::open(TABLE).map_err(MountError::io("open", Path::new(TABLE)))?;
        let all = mounts(&mut table).map_err(MountError::io("read", Path::new(TABLE)))?;
        if !all.iter().any(|(id, _)| *id == self.id) {
            return Ok(true);
        }
        let unused = match nix::mount::umount2(&self.dest, MntFlags::empty()) {
            Ok(()) => true,
            Err(Errno::EBUSY) => {
                nix::mount::umount2(&self.dest, MntFlags::MNT_DETACH).map_err(failed)?;
                false
            }
            Err(errno) => return Err(failed(errno)),
        };
        if unused && let Some(session) = self.session.take() {
            session.join();
        }
        Ok(unused)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            tracing::warn!(%error, "image not unmounted");
        }
    }
}

/// Whether something is mounted at `path`.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mounts(&mut File::open(TABLE)?)?.iter().any(|(_, at)| at == path))
}

/// The mounts of this process's name space: number and place of each.
fn mounts(table: &mut File) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut text = Vec::new();
    table.rewind()?;
    table.read_to_end(&mut text)?;
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        Some((id, unescape(fields.nth(3)?)))
    };
    Ok(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

/// A path of the table: four characters have their octal numbers there.
fn unescape(field: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                path.push(escaped);
                rest = &after[3..];
            }
            None => {
                path.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        assert_eq!(unescape(br"/a\040b\134c\011\012"), Path::new("/a b\\c\t\n"));
        let mut table = File::open(TABLE).unwrap();
        assert!(mounts(&mut table).unwrap().iter().any(|(_, path)| path == Path::new("/")));
    }
}
