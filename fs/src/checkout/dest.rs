//! The destination: written aside, renamed when whole, removed when not.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;

use super::CheckoutError;

/// A directory that becomes the destination, or vanishes when dropped.
#[derive(Debug)]
pub(super) struct Dest {
    /// Where the tree goes.
    path: PathBuf,
    /// The directory at `partial`, closed before that is removed: there may be no more descriptors.
    dir: File,
    partial: Partial,
    /// `path` is a mount of its own and cannot be replaced: `partial` lies within it and its entries move up.
    within: bool,
}

/// Where the tree is written; removed when dropped, unless it has become the destination.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    done: bool,
}

impl Dest {
    pub(super) fn new(dest: &Path) -> Result<Self, CheckoutError> {
        let (path, within) = place(dest)?;
        let partial = if within { path.join(partial_name("")) } else { beside(&path)? };
        fs::DirBuilder::new().mode(0o700).create(&partial).map_err(fail("make directory", &partial))?;
        let partial = Partial { path: partial, done: false };
        let dir = open_private(&partial.path).map_err(fail("open directory", &partial.path))?;
        Ok(Self { path, dir, partial, within })
    }

    /// The directory to write into: empty, ours alone.
    pub(super) fn dir(&self) -> &File {
        &self.dir
    }

    /// Gives the tree its name. When that is a mount's root, `describe` is called to give it the tree's attributes.
    pub(super) fn finish(
        mut self,
        describe: impl FnOnce(&File) -> Result<(), CheckoutError>,
    ) -> Result<(), CheckoutError> {
        let partial = &mut self.partial;
        if !self.within {
            fs::rename(&partial.path, &self.path).map_err(|source| match source.raw_os_error() {
                Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR) => {
                    CheckoutError::DestinationInUse { path: self.path.clone() }
                }
                _ => fail("rename to destination", &self.path)(source),
            })?;
            partial.done = true;
            return Ok(());
        }
        let root = File::open(&self.path).map_err(fail("open directory", &self.path))?;
        // A root that its owner may not write into could not be emptied.
        let private = fs::Permissions::from_mode(0o700);
        self.dir.set_permissions(private).map_err(fail("open directory", &partial.path))?;
        let mut moved = Vec::new();
        let done = move_up(&partial.path, &self.path, &mut moved)
            .and_then(|()| fs::remove_dir(&partial.path).map_err(fail("remove directory", &partial.path)))
            .and_then(|()| describe(&root));
        partial.done = done.is_ok();
        if done.is_err() {
            moved.iter().for_each(|path| remove(path));
        }
        done
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            remove(&self.path);
        }
    }
}

/// Moves what is in `from` to `to`, which is above it; where each is then.
fn move_up(from: &Path, to: &Path, moved: &mut Vec<PathBuf>) -> Result<(), CheckoutError> {
    for entry in fs::read_dir(from).map_err(fail("read directory", from))? {
        let entry = entry.map_err(fail("read directory", from))?;
        let to = to.join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(fail("rename", &to))?;
        moved.push(to);
    }
    Ok(())
}

/// Removes what was written; what cannot be removed is logged.
fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => d4c_sys::remove_tree(path),
        _ => fs::remove_file(path),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "partial tree not removed");
    }
}

/// Where the tree goes, links resolved, and whether that is a mount of its own.
fn place(dest: &Path) -> Result<(PathBuf, bool), CheckoutError> {
    let in_use = || CheckoutError::DestinationInUse { path: dest.to_owned() };
    let path = match fs::canonicalize(dest) {
        Ok(path) => path,
        // A link that leads nowhere is something, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(dest).is_ok() => {
            return Err(in_use());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((dest.to_owned(), false)),
        Err(error) => return Err(fail("look at destination", dest)(error)),
    };
    let meta = fs::metadata(&path).map_err(fail("look at destination", dest))?;
    if !meta.is_dir() {
        return Err(in_use());
    }
    if fs::read_dir(&path).map_err(fail("look into destination", dest))?.next().is_some() {
        return Err(in_use());
    }
    let above = path.parent().map(fs::metadata).transpose().map_err(fail("look at destination", dest))?;
    let within = above.is_none_or(|above| above.dev() != meta.dev());
    Ok((path, within))
}

fn open_private(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    dir.set_permissions(fs::Permissions::from_mode(0o700))?;
    Ok(dir)
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckoutError + use<> {
    let path = path.to_owned();
    move |source| CheckoutError::Io { action, path, source }
}

fn partial_name(of: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{of}.d4c-partial-{}-{count}", std::process::id())
}

fn beside(path: &Path) -> Result<PathBuf, CheckoutError> {
    let Some(name) = path.file_name() else {
        return Err(fail("name destination", path)(io::Error::from_raw_os_error(libc::EINVAL)));
    };
    let kept: String = name.to_string_lossy().chars().take(50).collect();
    Ok(path.with_file_name(partial_name(&kept)))
}
