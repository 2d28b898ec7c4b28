//! Mounts in which files belong to others (`mount_setattr(2)`, `user_namespaces(7)`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::c_path;

/// A user namespace in which nothing runs. `uids` and `gids` are as in `/proc/PID/uid_map`: lines of the first number inside, the
/// first outside, and how many.
///
/// # Errors
/// Those of `clone(2)` and of writing the maps: `EPERM` without `CAP_SETUID` and `CAP_SETGID`, `EINVAL` for maps that
/// overlap or have too many lines.
pub fn user_namespace(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    // A namespace is there as long as someone is in it: a child that waits until the other end is closed, by whatever.
    let (ours, theirs) = UnixStream::pair()?;
    let (our_number, their_number) = (ours.as_raw_fd(), theirs.as_raw_fd());
    let (flags, none) = (libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD), 0 as libc::c_long);
    // SAFETY: without CLONE_VM and with no stack this is fork(2): the child goes on here with a copy of all memory, in which no
    // other thread runs. Until it ends it only makes system calls on numbers, which takes no lock.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    if child == 0 {
        let mut byte = 0u8;
        // SAFETY: the numbers are of open descriptors of this process; the buffer is one byte of a live local.
        unsafe {
            libc::close(our_number);
            libc::read(their_number, (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    let child = i32::try_from(child).unwrap_or(-1);
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(theirs);
    let opened = fs::write(format!("/proc/{child}/uid_map"), uids)
        .and_then(|()| fs::write(format!("/proc/{child}/gid_map"), gids))
        .and_then(|()| File::open(format!("/proc/{child}/ns/user")));
    drop(ours);
    while waitpid(Pid::from_raw(child), None) == Err(Errno::EINTR) {}
    Ok(opened?.into())
}

/// Mounts the directory `source` at `target` once more, with the owners that `namespace`, of [`user_namespace`], maps those of
/// `source` to.
///
/// # Errors
/// Those of the calls: `EINVAL` where the file system cannot be mapped, `EPERM` without `CAP_SYS_ADMIN`.
pub fn mount_mapped(source: &Path, target: &Path, namespace: impl AsFd) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends with NUL and lives through the call; what is returned is a new descriptor or -1.
    let tree = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })?;
    // SAFETY: it was opened just now and belongs to no one.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_fd().as_raw_fd()).map_err(|_| Errno::EBADF)?,
    };
    let (attributes, bytes) = (&raw const attributes, size_of::<libc::mount_attr>());
    let (number, none) = (tree.as_raw_fd(), c"".as_ptr());
    // SAFETY: the structure is a live local of the size that is passed, the paths end with NUL, both descriptors are open.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, number, none, libc::AT_EMPTY_PATH, attributes, bytes)
    })?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: the paths end with NUL, the descriptor is open.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, number, none, libc::AT_FDCWD, target.as_ptr(), flags)
    })?;
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<i32> {
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn owners_are_mapped() {
        if !nix::unistd::geteuid().is_root() {
            user_namespace("0 0 10\n", "0 0 10\n").unwrap_err();
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| tmp.path().join(name));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("file"), "text").unwrap();
        std::os::unix::fs::chown(source.join("file"), Some(5), Some(7)).unwrap();
        user_namespace("nonsense", "0 0 1\n").unwrap_err();
        let namespace = user_namespace("0 100000 1000\n", "0 200000 1000\n").unwrap();
        mount_mapped(&source, &target, &namespace).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|seen| (seen.uid(), seen.gid())).unwrap();
        let seen = (owner(&target.join("file")), fs::read_to_string(target.join("file")).unwrap());
        nix::mount::umount(&target).unwrap();
        assert_eq!(seen, ((100_005, 200_007), "text".to_owned()));
        assert_eq!(owner(&source.join("file")), (5, 7));
        mount_mapped(&source, &tmp.path().join("nowhere"), &namespace).unwrap_err();
    }
}
