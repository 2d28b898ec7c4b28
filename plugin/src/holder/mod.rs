//! A process of its own that holds descriptors for the plugin, so that they outlive it.
//!
//! A FUSE mount lives as long as its device is open somewhere. The plugin gives the device of every mount to the holder
//! and, when it starts again after whatever end, gets it back and goes on answering: who waited for an answer meanwhile
//! gets it then. The holder knows nothing of what it holds, and ends when it holds nothing. It is started when there is
//! something to hold, and when it was killed: the plugin waits for its end, and gives all to another one. A service manager
//! that keeps descriptors (`crate::notify`) has them besides, in case both are killed at once.
//!
//! It listens at a socket in the plugin's root. Messages are frames of [`FRAME_BYTES`], a word and a name, filled up with
//! zeros; a descriptor comes with the first byte of its frame.
//!
//! ```text
//! keep NAME, descriptor  → ok          holds it instead of what it held by that name
//! drop NAME              → ok
//! give                   → fd NAME, descriptor …  → ok
//! watch                  → ok          and then nothing, until it ends or another one watches
//! ```

mod client;
mod serve;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

pub use client::Holder;
pub use serve::hold;

/// Bytes of every message.
const FRAME_BYTES: usize = 256;
/// How long either side waits for the other.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

fn send(stream: &UnixStream, word: &str, name: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = if name.is_empty() { word.to_owned() } else { format!("{word} {name}") };
    let mut frame = [0; FRAME_BYTES];
    let place = frame.get_mut(..text.len()).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(text.as_bytes());
    d4c_sys::send_with_fd(stream.as_fd(), &frame, fd)
}

/// A message: word, name, descriptor; `None` at the end.
fn receive(stream: &UnixStream) -> io::Result<Option<(String, String, Option<OwnedFd>)>> {
    let mut frame = [0; FRAME_BYTES];
    let (bytes, fd) = d4c_sys::receive_with_fd(stream.as_fd(), &mut frame)?;
    if bytes == 0 {
        return Ok(None);
    }
    let end = frame.iter().position(|byte| *byte == 0).unwrap_or(FRAME_BYTES);
    let text = std::str::from_utf8(&frame[..end]).map_err(|_| io::ErrorKind::InvalidData)?;
    if bytes != FRAME_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (word, name) = text.split_once(' ').unwrap_or((text, ""));
    Ok(Some((word.to_owned(), name.to_owned(), fd)))
}

#[cfg(test)]
mod tests;
