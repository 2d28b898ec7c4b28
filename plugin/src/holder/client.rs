//! The plugin's side.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, receive, send};

/// The flag by which the program becomes a holder.
pub(crate) const FLAG: &str = "--hold";

/// The way to the holder of one root, which is started when it is needed.
#[derive(Debug)]
pub struct Holder {
    program: PathBuf,
    socket: PathBuf,
}

impl Holder {
    /// The holder of the plugin whose root is `root`; `program` is started with `--hold SOCKET` to be it.
    #[must_use]
    pub fn new(program: PathBuf, root: &Path) -> Self {
        Self { program, socket: root.join("holder.sock") }
    }

    /// Makes sure that what is given to the holder comes back.
    ///
    /// # Errors
    /// It cannot be started, or does not do what it is for.
    pub fn check(&self) -> io::Result<()> {
        let file = std::fs::File::open("/dev/null")?;
        let name = "check";
        self.keep(name, std::os::fd::AsFd::as_fd(&file))?;
        let found = self.held()?.iter().any(|(held, _)| held == name);
        self.forget(name)?;
        if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Gives it a descriptor by a name of at most 200 bytes, instead of one that it has by that name.
    ///
    /// # Errors
    /// It cannot be started or does not answer.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let kept = self.connect_or_start().and_then(|stream| {
                send(&stream, "keep", name, Some(fd))?;
                answered(&stream)
            });
            match kept {
                // One that had nothing more to hold may have ended just then.
                Err(_) if tries > 0 => {}
                kept => return kept,
            }
        }
    }

    /// What it holds; nothing when it does not run.
    ///
    /// # Errors
    /// It does not answer.
    pub fn held(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let Some(stream) = self.connect()? else { return Ok(Vec::new()) };
        send(&stream, "give", "", None)?;
        let mut held = Vec::new();
        loop {
            match receive(&stream)? {
                Some((word, name, Some(fd))) if word == "fd" => held.push((name, fd)),
                Some((word, _, None)) if word == "ok" => return Ok(held),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Lets it close a descriptor; no error when it has none of that name.
    ///
    /// # Errors
    /// It does not answer.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        let Some(stream) = self.connect()? else { return Ok(()) };
        send(&stream, "drop", name, None)?;
        answered(&stream)
    }

    fn connect(&self) -> io::Result<Option<UnixStream>> {
        match UnixStream::connect(&self.socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Some(stream))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn connect_or_start(&self) -> io::Result<UnixStream> {
        if let Some(stream) = self.connect()? {
            return Ok(stream);
        }
        let mut child = Command::new(&self.program)
            .arg(FLAG)
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Once ended it is ours to reap, as long as we live.
        thread::Builder::new().name("holder".into()).spawn(move || child.wait())?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = self.connect()? {
                return Ok(stream);
            }
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn answered(stream: &UnixStream) -> io::Result<()> {
    match receive(stream)? {
        Some((word, _, None)) if word == "ok" => Ok(()),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
