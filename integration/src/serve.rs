//! A running `d4c serve`, and the plain questions that tests ask it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::program::built;
use crate::sandbox::{Daemon, Sandbox, wait_for};

/// A server on a loopback port.
pub struct Serve {
    daemon: Daemon,
    port: u16,
}

/// An answer: status, head, body.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Serve {
    /// Starts one with these arguments and waits until it answers.
    ///
    /// # Errors
    /// Fails when it does not.
    pub fn start(sandbox: &Sandbox, arguments: &[String]) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = sandbox.command(built("d4c"));
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]).args(arguments);
        let daemon = sandbox.start("serve", command)?;
        let mut this = Self { daemon, port };
        wait_for("d4c serve to answer", || {
            ensure!(this.daemon.is_running()?, "it ended: {}", this.daemon.log());
            Ok(this.get("/healthz", "").is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(this)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks for `path`, with more lines of the head.
    ///
    /// # Errors
    /// Fails when there is no answer.
    pub fn get(&self, path: &str, lines: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Answer { status, head, body: bytes.split_off(end + 4) })
    }

    /// The value of one line of the metrics.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn metric(&self, name: &str) -> Result<String> {
        let text = String::from_utf8(self.get("/metrics", "")?.body)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.to_owned())
    }

    /// Ends it.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn stop(self) -> Result<()> {
        self.daemon.terminate().map(drop)
    }
}
