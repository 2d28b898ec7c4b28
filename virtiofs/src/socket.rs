//! Where a monitor connects.
//!
//! A socket that we made has its name until a monitor has connected, or until it is dropped; it is removed by way of its
//! directory, which is held open, because the process may see another root by then.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::VirtioError;

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    pub(crate) listener: UnixListener,
    name: String,
    place: Place,
}

/// The directory of a socket and the name in it, as long as that is to be removed.
#[derive(Debug, Clone, Default)]
pub struct Place(Arc<Mutex<Option<(File, OsString)>>>);

impl Place {
    /// Removes the name: whoever has connected stays connected.
    pub fn hide(&self) {
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((dir, name)) = place
            && let Err(error) = unlinkat(&dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
        {
            tracing::warn!(?name, %error, "socket not removed");
        }
    }
}

impl Socket {
    /// Makes a socket at `path`. One that a process which has ended left there is replaced.
    ///
    /// # Errors
    /// Something else is there, a process listens there already, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, VirtioError> {
        let failed = || VirtioError::io("listen at socket", path);
        let name = path.file_name().ok_or_else(|| failed()(io::ErrorKind::InvalidInput.into()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = File::open(parent.unwrap_or(Path::new("."))).map_err(failed())?;
        let is_left = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
            && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_left {
            fs::remove_file(path).map_err(failed())?;
        }
        let listener = UnixListener::bind(path).map_err(failed())?;
        let place = Place(Arc::new(Mutex::new(Some((dir, name.to_owned())))));
        Ok(Self { listener, name: path.display().to_string(), place })
    }

    /// The socket that the process was started with as descriptor `number`; whoever made it removes its name.
    ///
    /// # Errors
    /// The descriptor is not open, or no Unix socket that listens.
    pub fn inherited(number: RawFd) -> Result<Self, VirtioError> {
        let name = format!("descriptor {number}");
        let listener =
            d4c_sys::inherited_listener(number).map_err(VirtioError::io("listen at socket", &name))?;
        Ok(Self { listener, name, place: Place::default() })
    }

    /// As the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, to be removed by whoever does not wait for [`crate::serve`].
    pub fn place(&self) -> Place {
        self.place.clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.place.hide();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_and_one_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        let refused = Socket::bind(&path).unwrap_err().to_string();
        assert!(refused.starts_with("listen at socket: "), "{refused}");
        assert!(path.exists());
        socket.place().hide();
        assert!(!path.exists());
        drop(Socket::bind(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        Socket::bind(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
