//! Times, device nodes, and the flush and the numbers of a file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;

use crate::c_path;

/// A point in time as file systems keep it: whole seconds since 1970, which may be negative, plus nanoseconds
/// counted forward from there (0 up to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileTime {
    /// Seconds since 1970-01-01 00:00 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds to add to `seconds`.
    pub nanoseconds: u32,
}

impl FileTime {
    /// A time of whole seconds and nanoseconds.
    pub fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds }
    }

    fn spec(self) -> io::Result<TimeSpec> {
        // utimensat gives the two values above this a meaning of their own (now, and leave alone).
        if self.nanoseconds > 999_999_999 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(TimeSpec::new(self.seconds, i64::from(self.nanoseconds)))
    }
}

/// Sets access and modification time of what `path` names, a symbolic link itself included (`utimensat`
/// with `AT_SYMLINK_NOFOLLOW`).
///
/// # Errors
/// Those of the call; `EINVAL` for nanoseconds of a second or more.
pub fn lutimens(path: &Path, accessed: FileTime, modified: FileTime) -> io::Result<()> {
    let flag = UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &accessed.spec()?, &modified.spec()?, flag)?;
    Ok(())
}

/// Sets access and modification time of an open file (`futimens`).
///
/// # Errors
/// Those of the call; `EINVAL` for nanoseconds of a second or more.
pub fn set_times(file: impl AsFd, accessed: FileTime, modified: FileTime) -> io::Result<()> {
    nix::sys::stat::futimens(file, &accessed.spec()?, &modified.spec()?)?;
    Ok(())
}

/// Makes a node: the type (`S_IFIFO`, `S_IFCHR`, `S_IFBLK`, …) and the permissions are the bits of `mode`;
/// `major` and `minor` count for devices only. The process's umask applies.
///
/// # Errors
/// Those of the call; `EEXIST` where there is something by that name, links not followed.
pub fn mknod(path: &Path, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
    let permissions = Mode::from_bits_truncate(mode & !libc::S_IFMT);
    let device = libc::makedev(major, minor);
    nix::sys::stat::mknod(c_path(path)?.as_c_str(), kind, permissions, device)?;
    Ok(())
}

/// Writes everything that the file system of `file` has not yet on its disk (`syncfs`).
///
/// # Errors
/// Those of the call, among them write errors since `file` was opened.
pub fn syncfs(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed from an open file for the length of the call, the only argument.
    match unsafe { libc::syncfs(file.as_fd().as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The numbers of the file system that `path` is on (`statvfs`).
///
/// # Errors
/// Those of the call.
pub fn statvfs(path: &Path) -> io::Result<libc::statvfs64> {
    let path = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::zeroed();
    // SAFETY: path is a string that ends in a NUL, and the kernel writes one `statvfs64` to the place made for one; all
    // zeros are a value of that plain struct, too.
    unsafe {
        match libc::statvfs64(path.as_ptr(), stat.as_mut_ptr()) {
            0 => Ok(stat.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    #[test]
    fn times_keep_nanoseconds_before_and_after_1970() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = std::fs::File::create(&path).unwrap();
        for seconds in [-1_000_000, -1, 0, 1, 1_700_000_000] {
            let (a, m) = (FileTime::new(seconds, 1), FileTime::new(seconds, 999_999_999));
            lutimens(&path, a, m).unwrap();
            let meta = path.symlink_metadata().unwrap();
            assert_eq!((meta.atime(), meta.atime_nsec()), (seconds, 1));
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, 999_999_999));
            set_times(&file, m, a).unwrap();
            let meta = path.symlink_metadata().unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, 1));
        }
        let error = lutimens(&path, FileTime::default(), FileTime::new(0, 1_000_000_000)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn times_of_a_link_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("t"), dir.path().join("l"));
        std::fs::write(&target, b"").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let before = target.metadata().unwrap().mtime();
        lutimens(&link, FileTime::new(1, 2), FileTime::new(3, 4)).unwrap();
        let meta = link.symlink_metadata().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (3, 4));
        assert_eq!(target.metadata().unwrap().mtime(), before);
    }

    #[test]
    fn makes_fifos() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        mknod(&path, libc::S_IFIFO | 0o600, 0, 0).unwrap();
        assert!(path.metadata().unwrap().file_type().is_fifo());
        assert_eq!(mknod(&path, libc::S_IFIFO, 0, 0).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        syncfs(std::fs::File::open(dir.path()).unwrap()).unwrap();
        assert!(statvfs(dir.path()).unwrap().f_blocks > 0);
    }
}
