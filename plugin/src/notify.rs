//! Speaks with systemd without a library: tells that the plugin is ready (`sd_notify(3)`), and has it keep descriptors
//! (`sd_pid_notify_with_fds(3)`, "FDSTORE"), which come back when the unit starts again (`sd_listen_fds(3)`).
//!
//! A name of ours has a colon where one of systemd's, which cannot, has an equals sign.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the service manager tells this process and no other.
pub(crate) const VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Sends `state` to the socket of `NOTIFY_SOCKET`; nothing happens without one.
pub fn notify(state: &str) {
    tell(state, None);
}

/// Has the service manager keep a descriptor, if it does such things.
pub(crate) fn keep(name: &str, fd: BorrowedFd<'_>) {
    tell(&format!("FDSTORE=1\nFDNAME={}", name.replace(':', "=")), Some(fd));
}

/// Has it close what it keeps by this name.
pub(crate) fn forget(name: &str) {
    tell(&format!("FDSTOREREMOVE=1\nFDNAME={}", name.replace(':', "=")), None);
}

/// What it kept, by name; once.
pub(crate) fn passed() -> Vec<(String, OwnedFd)> {
    let variable = |name: &str| env::var(name).ok();
    if variable("LISTEN_PID").and_then(|text| text.parse().ok()) != Some(std::process::id()) {
        return Vec::new();
    }
    let count = variable("LISTEN_FDS").and_then(|text| text.parse().ok()).unwrap_or(0);
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(|name| name.replace('=', ":"));
    let passed = d4c_sys::passed_descriptors(count).into_iter();
    names.zip(passed).filter_map(|(name, fd)| Some((name, fd?))).collect()
}

fn tell(state: &str, fd: Option<BorrowedFd<'_>>) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) else { return };
    if let Err(e) = send(&socket, state, fd) {
        tracing::warn!(socket = %socket.display(), error = %e, "cannot notify the service manager");
    }
}

/// A name that begins with `@` is one in the abstract name space.
fn send(socket: &OsStr, state: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.connect_addr(&address)?;
    d4c_sys::send_with_fd(datagram.as_fd(), state.as_bytes(), fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("di3fs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        send(path.as_os_str(), "READY=1", None).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1", None).unwrap();
        let mut buffer = [0; 32];
        let n = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        let n = abstract_one.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"STOPPING=1");
        assert!(send(OsStr::new("/nowhere/at/all"), "x", None).is_err());
    }
}
