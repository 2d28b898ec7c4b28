//! Log lines for the system's log (syslog(3), RFC 3164), by way of a descriptor that is opened once.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tracing_subscriber::fmt::MakeWriter;

/// Facility daemon (3), severity notice (5).
const PRIORITY: u8 = 3 * 8 + 5;

/// The system's log.
#[derive(Debug, Clone)]
pub(crate) struct Syslog(Arc<UnixDatagram>);

impl Syslog {
    /// Connects to the log.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        // A log that is stuck holds nobody up.
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(socket)))
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// One call is one line.
impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut packet = format!("<{PRIORITY}>di3fs-virtiofsd[{}]: ", std::process::id()).into_bytes();
        packet.extend(line.trim_ascii_end());
        self.0.send(&packet)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
