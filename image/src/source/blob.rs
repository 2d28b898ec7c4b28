//! Bytes of blobs: mapped ones that are shared, and streams.

use std::fmt;
use std::io::Read;
use std::ops::{Deref, Range};
use std::sync::Arc;

use d4c_sys::Map;

/// A part of a mapped file; clones share the mapping.
///
/// The file must not be cut or rewritten while it lives: see [`d4c_sys::Map`].
#[derive(Clone)]
pub struct MappedBytes {
    map: Arc<Map>,
    range: Range<usize>,
}

impl MappedBytes {
    /// All of `map`.
    pub fn whole(map: Map) -> Self {
        let range = 0..map.len();
        Self { map: Arc::new(map), range }
    }

    /// `length` bytes from `start` on; `None` where this part has not so many.
    pub fn part(&self, start: u64, length: u64) -> Option<Self> {
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= self.len()).then(|| Self {
            map: Arc::clone(&self.map),
            range: self.range.start + start..self.range.start + end,
        })
    }

    /// The mapping that this is a part of, for its hints to the kernel.
    pub fn map(&self) -> &Map {
        &self.map
    }
}

impl Deref for MappedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for MappedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedBytes({:?})", self.range)
    }
}

/// A blob as its store gives it.
pub(crate) enum Blob {
    /// In a file, which is mapped.
    Mapped(MappedBytes),
    /// The same, uncompressed and with its digest known to be right.
    Verified(MappedBytes),
    /// To be read once.
    Stream(Box<dyn Read + Send>),
}
