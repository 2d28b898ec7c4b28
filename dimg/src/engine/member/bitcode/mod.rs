//! LLVM bitcode (`.bc`): a stream of bits, opened into bytes.
//!
//! The container is LLVM's bitstream ("LLVM Bitcode File Format"): nested blocks of records, a record being a code and numbers, each written in as
//! few bits as its abbreviation says. Whatever grows by a bit shifts all that follows, so that bytes of two builds have nothing in common. The opened form
//! has the same items in the same order, each number in bytes of its own ([`form`]); lengths of blocks are left out, they follow. So nothing has to be
//! known of what the records mean, but for what [`meaning`] makes of some.
//!
//! Opening and closing are one walk ([`walk`]) from a [`Source`] to a [`Sink`]: from bits to the form, or back. What opens comes back bit for
//! bit: a stream that says something in more bits than it takes is left as it is.

mod bits;
mod form;
mod index;
mod meaning;
#[cfg(any(test, fuzzing))]
pub mod sample;
mod stream;
#[cfg(test)]
mod tests;

use super::MAX_OPENED_BYTES;
use crate::engine::EngineError;
use std::io::{self, Write};
use stream::{Block, Item, Record};

pub(super) const MAGIC: &[u8; 4] = b"BC\xc0\xde";
/// Bytes before the bitcode that tell where in the file it is.
const WRAPPER: &[u8; 4] = b"\xde\xc0\x17\x0b";

/// Contents up to this size are opened: to close one takes memory of twice its size.
pub(super) const MAX_CONTENT_BYTES: u64 = if cfg!(fuzzing) { 1 << 20 } else { 16 << 20 };

/// Whether a content begins as bitcode, or an opened form of such a content.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(WRAPPER)
}

/// Bytes up to the first block: magic, and the wrapper before it.
fn head(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(MAGIC) {
        return Some(MAGIC.len());
    }
    if !bytes.starts_with(WRAPPER) {
        return None;
    }
    let offset = usize::try_from(super::u32_at(bytes, 8)?).ok()?;
    let end = offset.checked_add(MAGIC.len())?;
    (offset >= 16 && bytes.get(offset..end)? == MAGIC).then_some(end)
}

/// Writes the opened form of `content`; how many bytes it has. `None`, and something of no use written, where it has none, or one of more
/// than `limit` bytes.
///
/// # Errors
/// [`EngineError::Output`].
pub(super) fn open(content: &[u8], limit: u64, out: &mut dyn Write) -> Result<Option<u64>, EngineError> {
    let Some(head) = head(content).filter(|_| content.len() as u64 <= MAX_CONTENT_BYTES) else {
        return Ok(None);
    };
    let mut out = Limited { out, count: 0, limit: limit.min(MAX_OPENED_BYTES), failure: None };
    let done = opened(content, head, &mut out);
    match out.failure {
        Some(error) => Err(EngineError::Output(error)),
        None => Ok(done.ok().map(|()| out.count)),
    }
}

fn opened(content: &[u8], head: usize, out: &mut Limited<'_>) -> Result<(), Fault> {
    let (before, rest) = content.split_at_checked(head).ok_or("it ends in its head")?;
    out.put(before)?;
    let mut source = bits::BitReader::new(rest);
    let mut sink = form::FormWriter::new(out);
    stream::walk(&mut source, &mut sink, meaning::Direction::Open)?;
    sink.rest(source.rest())
}

/// The content whose opened form is `form`, of at most `limit` bytes.
///
/// # Errors
/// [`EngineError::Member`].
pub(super) fn close(form: &[u8], limit: u64) -> Result<Vec<u8>, EngineError> {
    let head = head(form).ok_or_else(|| EngineError::member(0, "a form without bitcode"))?;
    let (before, rest) = form.split_at_checked(head).unwrap_or((form, &[]));
    let mut source = form::FormReader::new(rest);
    let mut sink = bits::BitWriter::new(limit.min(MAX_CONTENT_BYTES).saturating_sub(head as u64));
    let done = stream::walk(&mut source, &mut sink, meaning::Direction::Close);
    let done = done.and_then(|()| sink.rest(source.rest()));
    done.map_err(|Fault(reason)| EngineError::member((form.len() - source.rest().len()) as u64, reason))?;
    let content = [before, &sink.finish()].concat();
    match content.len() as u64 > limit {
        true => Err(EngineError::member(form.len() as u64, "it makes more than the length of the content")),
        false => Ok(content),
    }
}

/// Why a stream does not open, or a form does not close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault(&'static str);

impl From<&'static str> for Fault {
    fn from(reason: &'static str) -> Self {
        Self(reason)
    }
}

/// What the walk takes items from.
trait Source {
    /// The block that begins here, outside of all blocks, if one does.
    fn begins(&mut self) -> Result<Option<Item>, Fault>;
    /// The next item of `block`, the one opened last; a record is put into `record`.
    fn item(&mut self, block: &Block, record: &mut Record) -> Result<Item, Fault>;
}

/// What the walk gives items to.
trait Sink {
    /// The next item of `block`, the one opened last if any is.
    fn item(&mut self, block: Option<&Block>, item: &Item, record: &Record) -> Result<(), Fault>;
    /// No further block.
    fn end(&mut self) -> Result<(), Fault>;
}

/// Counts what it passes on, and stops at the limit.
struct Limited<'a> {
    out: &'a mut dyn Write,
    count: u64,
    limit: u64,
    failure: Option<io::Error>,
}

impl Limited<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.count += bytes.len() as u64;
        if self.count > self.limit {
            return Err(Fault("its opened form is too long"));
        }
        self.out.write_all(bytes).map_err(|error| {
            self.failure = Some(error);
            Fault("its opened form cannot be written")
        })
    }
}
