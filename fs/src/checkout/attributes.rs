//! Owners, modes, times and extended attributes of what was made.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use d4c_sys::FileTime;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::CheckoutError;
use crate::table::escaped;
use crate::tree::Attributes;

/// How attributes are applied in one checkout.
#[derive(Debug)]
pub(super) struct Applier {
    /// The tree is a layer of an overlay mount.
    overlay: bool,
    /// The owner that new files have anyway.
    ours: Option<(u32, u32)>,
    pub(super) dropped_xattrs: AtomicU64,
}

/// What attributes are set on: an open file, or a name in a directory that cannot be opened for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Open(&'a File),
    Named { dir: &'a File, name: &'a [u8], symlink: bool },
}

impl Applier {
    /// For files made below `root`, a directory that this process just made.
    pub(super) fn new(root: &File, overlay: bool) -> io::Result<Self> {
        let meta = root.metadata()?;
        let ours = (meta.uid(), meta.gid());
        let inherits = ours == (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let ours = (inherits && meta.mode() & 0o2000 == 0).then_some(ours);
        Ok(Self { overlay, ours, dropped_xattrs: AtomicU64::new(0) })
    }

    /// Sets everything that `attributes` says; `path` is for errors.
    pub(super) fn apply(
        &self,
        target: Target<'_>,
        attributes: &Attributes,
        path: &[u8],
    ) -> Result<(), CheckoutError> {
        if self.ours != Some((attributes.uid, attributes.gid)) {
            set_owner(target, attributes.uid, attributes.gid)
                .map_err(|error| privileged("set owner", path, error))?;
        }
        for (name, value) in &attributes.xattrs {
            self.set_xattr(target, name, value, path)?;
        }
        set_mode(target, attributes.mode).map_err(|error| privileged("set mode", path, error))?;
        set_time(target, FileTime::new(attributes.mtime, attributes.mtime_nsec))
            .map_err(|error| failed("set time", path, error))
    }

    fn set_xattr(
        &self,
        target: Target<'_>,
        name: &[u8],
        value: &[u8],
        path: &[u8],
    ) -> Result<(), CheckoutError> {
        let kept = if self.overlay { escaped(name) } else { Cow::Borrowed(name) };
        let Err(error) = raw_set_xattr(target, &kept, value) else { return Ok(()) };
        // Linux has user attributes on files and directories only: no unpacked image has others.
        let never = matches!(target, Target::Named { .. })
            && name.starts_with(b"user.")
            && error.raw_os_error() == Some(libc::EPERM);
        let unsupported = error.raw_os_error() == Some(libc::EOPNOTSUPP);
        if never || (unsupported && self.overlay) {
            self.dropped_xattrs.fetch_add(1, Ordering::Relaxed);
            let (path, name) = (String::from_utf8_lossy(path), String::from_utf8_lossy(name));
            tracing::warn!(%path, %name, %error, "extended attribute dropped");
            return Ok(());
        }
        Err(privileged("set extended attribute", path, error))
    }

    /// Marks a directory so that nothing of the layers below shows through.
    pub(super) fn make_opaque(&self, directory: &File, path: &[u8]) -> Result<(), CheckoutError> {
        raw_set_xattr(Target::Open(directory), b"trusted.overlay.opaque", b"y")
            .map_err(|error| privileged("make opaque", path, error))
    }
}

fn set_owner(target: Target<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match target {
        Target::Open(file) => nix::unistd::fchown(file, uid, gid)?,
        Target::Named { dir, name, .. } => {
            nix::unistd::fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

fn set_mode(target: Target<'_>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    match target {
        Target::Open(file) => nix::sys::stat::fchmod(file, mode)?,
        Target::Named { symlink: true, .. } => {}
        Target::Named { dir, name, .. } => {
            nix::sys::stat::fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)?;
        }
    }
    Ok(())
}

fn set_time(target: Target<'_>, time: FileTime) -> io::Result<()> {
    match target {
        Target::Open(file) => d4c_sys::set_times(file, time, time)?,
        Target::Named { dir, name, .. } => {
            let time = TimeSpec::new(time.seconds, time.nanoseconds.into());
            nix::sys::stat::utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
    }
    Ok(())
}

fn raw_set_xattr(target: Target<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    match target {
        Target::Open(file) => d4c_sys::fset_xattr(file, name, value),
        Target::Named { dir, name: file, .. } => {
            // There is no call that takes a directory and a name before Linux 6.13; through /proc the parent is still
            // the one that is open, and the last component is not followed.
            let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            path.push(OsStr::from_bytes(file));
            d4c_sys::lset_xattr(&path, name, value)
        }
    }
}

/// An I/O error at a path within the tree.
pub(super) fn failed(action: &'static str, path: &[u8], source: io::Error) -> CheckoutError {
    CheckoutError::Io { action, path: shown(path), source }
}

/// As [`failed`], for what only root may do.
pub(super) fn privileged(action: &'static str, path: &[u8], source: io::Error) -> CheckoutError {
    match source.raw_os_error() {
        Some(libc::EPERM) => CheckoutError::NeedsRoot { action, path: shown(path) },
        _ => failed(action, path, source),
    }
}

/// A path within the tree as errors show it.
pub(super) fn shown(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}
