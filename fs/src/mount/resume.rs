//! Going on with what a process that has ended served.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use super::table::is_mounted;
use super::{Image, Lower, MountError, Options, Route, Served};
use crate::fuse::{ObjectFs, Session, TreeFs};
use crate::table::Table;

/// What is mounted below a state, the first unmounted first.
const MOUNTS: [&str; 4] = ["merged", "objects", "metadata", "tree"];

impl Served {
    /// The device of the session in user space, if there is one. As long as someone has it open, those who ask for what is
    /// not made wait when this process has ended, instead of failing.
    pub fn device(&self) -> Option<BorrowedFd<'_>> {
        self.session.as_ref().map(|session| session.device().as_fd())
    }

    /// Whether a successor can go on with the session.
    pub fn can_resume(&self) -> bool {
        self.session.as_ref().is_none_or(Session::can_resume)
    }

    /// Goes on with what was served from `state` by the route of `options`, by the [`Served::device`] of then, for an equal
    /// `image`.
    ///
    /// # Errors
    /// What was mounted below the state is not there any more, or the kernel refuses. All stays as it was.
    pub fn resume(
        image: &Image,
        state: &Path,
        options: &Options,
        device: OwnedFd,
    ) -> Result<Self, MountError> {
        let route = options.route.unwrap_or(Route::Erofs);
        let state = fs::canonicalize(state).map_err(MountError::io("find directory", state))?;
        let [merged, objects, metadata, tree] = MOUNTS.map(|name| state.join(name));
        let (session_at, lower, mounts) = match route {
            Route::Erofs => {
                let data_only = super::data_only(image.contents.store(), &objects);
                let lower = Lower { layers: vec![metadata.clone()], data_only, merged: None };
                (objects, lower, vec![metadata])
            }
            Route::Fuse => (tree.clone(), Lower { layers: vec![tree], ..Lower::default() }, Vec::new()),
            Route::FusePassthrough | Route::Overlay => {
                return Err(MountError::Probe { route, why: "nothing to go on with".to_owned() });
            }
        };
        for path in mounts.iter().chain([&session_at]) {
            if !is_mounted(path).map_err(MountError::io("find mount", path))? {
                return Err(MountError::io("find mount", path)(io::ErrorKind::NotFound.into()));
            }
        }
        let is_merged = is_mounted(&merged).map_err(MountError::io("find mount", &merged))?;
        let device = File::from(device);
        let contents = Arc::clone(&image.contents);
        let session = match route {
            Route::Erofs => {
                let fs = Arc::new(ObjectFs::new(contents, &image.tree.contents()));
                Session::resume(fs, &session_at, device, options.threads)
            }
            _ => {
                let table = Arc::new(Table::new(Arc::clone(&image.tree)));
                let fs = Arc::new(TreeFs::new(table, contents, true));
                Session::resume(fs, &session_at, device, options.threads)
            }
        };
        let session = session.map_err(MountError::io("go on with fuse", &session_at))?;
        let mut served = Self { route, lower, mounts, session: Some(session) };
        if is_merged {
            served.lower.merged = Some(merged.clone());
            served.mounts.insert(0, merged);
        }
        Ok(served)
    }

    /// Mounts what is served below its `state` as one directory too, [`Lower::merged`], if it has data-only layers.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn merge(&mut self, state: &Path) -> Result<(), MountError> {
        if self.lower.data_only.is_empty() {
            return Ok(());
        }
        let merged =
            fs::canonicalize(state).map_err(MountError::io("find directory", state))?.join(MOUNTS[0]);
        super::make_dir(&merged)?;
        mount_merged(&self.lower, &merged)?;
        self.lower.merged = Some(merged.clone());
        self.mounts.insert(0, merged);
        Ok(())
    }

    /// Lets everything stay mounted, and served as long as this process lives.
    pub fn leave(mut self) {
        self.mounts.clear();
        if let Some(session) = &mut self.session {
            session.leave();
        }
    }
}

/// Mounts the layers and data-only layers of `lower` read-only at the directory `at`, as one.
///
/// # Errors
/// It cannot be mounted.
pub fn mount_merged(lower: &Lower, at: &Path) -> Result<(), MountError> {
    let options = format!("lowerdir={}", lower.option()?);
    let (kind, flags) = (Some("overlay"), MsFlags::MS_RDONLY);
    nix::mount::mount(Some("di3fs"), at, kind, flags, Some(options.as_str()))
        .map_err(|errno| MountError::io("mount overlay", at)(errno.into()))
}

/// Unmounts what an earlier process left mounted below `state`; those who use it keep it.
///
/// # Errors
/// It cannot be unmounted.
pub fn clean(state: &Path) -> Result<(), MountError> {
    for path in MOUNTS.map(|name| state.join(name)) {
        // One may lie on another when processes were killed at bad moments.
        loop {
            match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => break,
                Err(errno) => return Err(MountError::io("unmount", &path)(errno.into())),
            }
        }
    }
    Ok(())
}

/// As [`clean`], and removes `state` itself. Only when nothing lies on it.
///
/// # Errors
/// It cannot be unmounted or removed.
pub fn remove(state: &Path) -> Result<(), MountError> {
    clean(state)?;
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MountError::io("remove directory", state)(error))
        }
        _ => Ok(()),
    }
}
