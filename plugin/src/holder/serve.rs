//! The holder's side.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{PATIENCE, receive, send};
use crate::error::{Error, Result};

/// After a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Holds what it is given at `socket` until that is nothing. At once when another process listens there.
///
/// # Errors
/// The socket cannot be made.
pub fn hold(socket: &Path) -> Result<()> {
    // Signals of the plugin's terminal are not meant for us. Refused when we lead a group, which has the same effect.
    let _ = nix::unistd::setsid();
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove stale socket", socket)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(Error::io("listen at", socket))?;
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(Error::io("set mode", socket))?;
    let served = serve(&listener);
    // Before the listener: a successor's socket must not be taken away.
    drop(fs::remove_file(socket));
    served.map_err(Error::io("serve", socket))
}

fn serve(listener: &UnixListener) -> io::Result<()> {
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    let (mut held, mut watcher) = (BTreeMap::new(), None);
    loop {
        let timeout = if held.is_empty() { patience } else { PollTimeout::NONE };
        match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                pause_or_end(errno.into(), &held)?;
                continue;
            }
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_or_end(error, &held)?;
                continue;
            }
        };
        // Whoever talks nonsense, or breaks off, is left.
        let talked = talk(&stream, &mut held);
        if matches!(talked, Ok(true)) {
            // There is one plugin: whoever watched before is gone.
            watcher.replace(stream);
        } else if held.is_empty() && talked.is_ok() {
            return Ok(());
        }
    }
}

/// After a failure, which may pass: with this process everything would go that is held.
fn pause_or_end(error: io::Error, held: &BTreeMap<String, OwnedFd>) -> io::Result<()> {
    if held.is_empty() {
        return Err(error);
    }
    thread::sleep(PAUSE);
    Ok(())
}

/// Whether the other side stays, to see our end.
fn talk(stream: &UnixStream, held: &mut BTreeMap<String, OwnedFd>) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    while let Some((word, name, fd)) = receive(stream)? {
        match (word.as_str(), fd) {
            ("keep", Some(fd)) => drop(held.insert(name, fd)),
            ("drop", None) => drop(held.remove(&name)),
            ("give", None) => {
                for (name, fd) in held.iter() {
                    send(stream, "fd", name, Some(fd.as_fd()))?;
                }
            }
            ("watch", None) => {
                send(stream, "ok", "", None)?;
                return Ok(true);
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        send(stream, "ok", "", None)?;
    }
    Ok(false)
}
