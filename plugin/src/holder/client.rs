//! The plugin's side.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, receive, send};
use crate::error::is_passing;
use crate::notify;

/// A holder that could not be started, or asked, is tried again so much later.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The flag by which the program becomes a holder.
pub(crate) const FLAG: &str = "--hold";

/// The way to the holder of one root, which is started when it is needed, and again when it ends before its time. What it
/// is given is given to the service manager as well, which may keep it too.
#[derive(Debug)]
pub struct Holder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    socket: PathBuf,
    state: Mutex<State>,
}

/// What is known of a holder. Locked as long as it is spoken to of what it keeps.
#[derive(Debug, Default)]
struct State {
    /// What it holds for this process, to be given to another one.
    kept: BTreeMap<String, OwnedFd>,
    /// Whether a thread waits for its end.
    watched: bool,
}

impl Holder {
    /// The holder of the plugin whose root is `root`; `program` is started with `--hold SOCKET` to be it.
    #[must_use]
    pub fn new(program: PathBuf, root: &Path) -> Self {
        let socket = root.join("holder.sock");
        Self(Arc::new(Inner { program, socket, state: Mutex::default() }))
    }

    /// Makes sure that what is given to the holder comes back.
    ///
    /// # Errors
    /// It cannot be started, or does not do what it is for.
    pub fn check(&self) -> io::Result<()> {
        let file = std::fs::File::open("/dev/null")?;
        let name = "check";
        self.0.give(name, file.as_fd())?;
        let found = self.0.ask()?.iter().any(|(held, _)| held == name);
        self.0.release(name)?;
        if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Gives it a descriptor by a name of at most 200 bytes, instead of one that it has by that name.
    ///
    /// # Errors
    /// It cannot be started or does not answer.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let copy = fd.try_clone_to_owned()?;
        let mut state = self.0.lock();
        self.0.give(name, fd)?;
        notify::keep(name, fd);
        state.kept.insert(name.to_owned(), copy);
        self.watch(&mut state)
    }

    /// What it holds, or the service manager has for us; nothing when it does not run. It keeps all of it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn held(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut state = self.0.lock();
        let mut held = self.0.ask()?;
        for (name, fd) in notify::passed() {
            if !held.iter().any(|(other, _)| *other == name) {
                tracing::info!(name, "the service manager had what no holder has");
                self.0.give(&name, fd.as_fd())?;
                held.push((name, fd));
            }
        }
        for (name, fd) in &held {
            // Whatever it had it forgot when the unit was stopped; what it has twice it keeps once.
            notify::keep(name, fd.as_fd());
            state.kept.insert(name.clone(), fd.try_clone()?);
        }
        if !held.is_empty() {
            self.watch(&mut state)?;
        }
        Ok(held)
    }

    /// Lets it close a descriptor; no error when it has none of that name.
    ///
    /// # Errors
    /// It does not answer.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.kept.remove(name);
        notify::forget(name);
        self.0.release(name)
    }

    /// Has a thread wait for the end of the holder, if none does.
    fn watch(&self, state: &mut State) -> io::Result<()> {
        if !state.watched {
            let inner = Arc::clone(&self.0);
            thread::Builder::new().name("holder-watch".into()).spawn(move || inner.watch())?;
            state.watched = true;
        }
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as there is something to be kept, gives it to another holder when one has ended.
    fn watch(&self) {
        let mut failed = false;
        loop {
            let ended = if failed { Ok(()) } else { self.wait_for_end() };
            let mut state = self.lock();
            if state.kept.is_empty() {
                state.watched = false;
                return;
            }
            if let Err(error) = ended {
                if is_passing(&error) {
                    drop(state);
                    thread::sleep(TRY_AGAIN);
                    continue;
                }
                tracing::error!(%error, "holder not watched: when it ends, what is served ends with this process");
                state.watched = false;
                return;
            }
            match state.kept.iter().try_for_each(|(name, fd)| self.give(name, fd.as_fd())) {
                Ok(()) => {
                    tracing::warn!(sessions = state.kept.len(), "the holder has ended, another one goes on");
                    failed = false;
                }
                Err(error) => {
                    if !failed {
                        tracing::error!(%error, "no holder yet: until there is, what is served ends with this process");
                    }
                    failed = true;
                    drop(state);
                    thread::sleep(TRY_AGAIN);
                }
            }
        }
    }

    /// Waits until the holder has ended.
    fn wait_for_end(&self) -> io::Result<()> {
        let Some(stream) = self.connect()? else { return Ok(()) };
        send(&stream, "watch", "", None)?;
        match answered(&stream) {
            Ok(()) => {}
            // It ended just then. One of an earlier release breaks off as well, and runs on: that one is not watched.
            Err(_) if self.connect()?.is_none() => return Ok(()),
            Err(error) => return Err(error),
        }
        stream.set_read_timeout(None)?;
        // It says nothing more.
        drop(receive(&stream));
        Ok(())
    }

    fn give(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
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

    fn ask(&self) -> io::Result<Vec<(String, OwnedFd)>> {
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

    fn release(&self, name: &str) -> io::Result<()> {
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
        let mut command = Command::new(&self.program);
        // It may be a link to whatever file this process was started from, which an upgrade has replaced.
        command.arg0("di3fs-snapshotter").arg(FLAG).arg(&self.socket);
        // These are for this process alone.
        for name in notify::VARIABLES {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (tell, ended) = mpsc::channel();
        // Once ended it is ours to reap, as long as we live.
        let wait = move || drop(tell.send(child.wait_with_output()));
        thread::Builder::new().name("holder".into()).spawn(wait)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = self.connect()? {
                return Ok(stream);
            }
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match ended.recv_timeout(Duration::from_millis(2)) {
                Ok(ended) => refused(&ended?)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// Why a holder ended at once; no error where another one was there already.
fn refused(ended: &Output) -> io::Result<()> {
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let why = said.lines().next().map(|line| line.strip_prefix("di3fs-snapshotter: ").unwrap_or(line));
    Err(io::Error::other(why.map_or_else(|| ended.status.to_string(), str::to_owned)))
}

fn answered(stream: &UnixStream) -> io::Result<()> {
    match receive(stream)? {
        Some((word, _, None)) if word == "ok" => Ok(()),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
