//! Tells systemd that the plugin is ready (`sd_notify(3)`), without a library.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state` to the socket of `NOTIFY_SOCKET`; nothing happens without one.
pub fn notify(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) else { return };
    if let Err(e) = send(&socket, state) {
        tracing::warn!(socket = %socket.display(), error = %e, "cannot notify the service manager");
    }
}

/// A name that begins with `@` is one in the abstract name space.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
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
        send(path.as_os_str(), "READY=1").unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        let mut buffer = [0; 32];
        let n = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        let n = abstract_one.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"STOPPING=1");
        assert!(send(OsStr::new("/nowhere/at/all"), "x").is_err());
    }
}
