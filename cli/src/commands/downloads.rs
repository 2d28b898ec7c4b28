//! Where `d4c pull` downloads to: a folder of the user's own in the directory of temporary files, `d4c-UID`. What breaks off, however it does, is gone on
//! with by the next pull that has the same directory.

use std::fs::{self, DirBuilder};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d4c_image::registry::{PARTIAL_BYTES, Partials};
use tempfile::TempDir;

use crate::failure::Failure;

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) partials: Arc<Partials>,
    /// Where it is for this pull only.
    _alone: Option<TempDir>,
}

impl Folder {
    /// Makes it where it is not there. Where its name is somebody else's, one that ends with this pull takes its place.
    ///
    /// # Errors
    /// None can be made in `tmpdir`.
    pub(super) fn open(tmpdir: &Path) -> Result<Self, Failure> {
        let path = path(tmpdir)?;
        let made = match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        match made.and_then(|()| check(&path)) {
            Ok(()) => Ok(Self { partials: Arc::new(Partials::new(path, PARTIAL_BYTES)), _alone: None }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a download that breaks off will begin anew");
                let alone = tempfile::tempdir_in(tmpdir);
                let alone = alone.map_err(Failure::io("make temporary directory", tmpdir))?;
                let partials = Arc::new(Partials::new(alone.path(), PARTIAL_BYTES));
                Ok(Self { partials, _alone: Some(alone) })
            }
        }
    }
}

/// Removes downloads that broke off and are old or too many.
pub(super) fn sweep(tmpdir: &Path) {
    if let Ok(path) = path(tmpdir)
        && check(&path).is_ok()
    {
        Partials::new(path, PARTIAL_BYTES).sweep();
    }
}

fn user() -> std::io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

fn path(tmpdir: &Path) -> Result<PathBuf, Failure> {
    let user = user().map_err(Failure::io("find user of", Path::new("/proc/self")))?;
    Ok(tmpdir.join(format!("d4c-{user}")))
}

/// That nobody else writes there: the directory of temporary files is everybody's.
fn check(path: &Path) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() || meta.uid() != user()? || meta.mode() & 0o022 != 0 {
        return Err(Error::new(ErrorKind::PermissionDenied, "not a directory of this user alone"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_folder_is_the_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path()).unwrap();
        let opened = || Folder::open(dir.path()).unwrap().partials.dir().to_owned();
        assert_eq!(opened(), path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(opened(), path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let other = opened();
        assert!(other != path && !other.exists(), "{other:?}");
        fs::remove_dir(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), &path).unwrap();
        assert_ne!(opened(), path);
    }
}
