//! The columns INDEX, and how each field's values are written to and read from them.
//!
//! The writer and the reader keep the same state: the value before in each column, and tables of shapes, names and pax
//! values that stood in the file already.

mod read;
mod write;

pub(super) use read::ValueReader;
#[cfg(test)]
pub(super) use read::get_from_table;
pub(super) use write::ValueWriter;

use super::{Place, Value};
use crate::engine::compress::Kind::{self, Bytes, Numbers};
use crate::index::Entry;
use crate::index::columns::Spec;
use crate::limits::MAX_INDEX_BYTES;
use crate::wire::{Reader, WireError};

/// A column of INDEX, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Col {
    Runs,
    RunPlaces,
    Tails,
    Gaps,
    Masks,
    Shapes,
    ShapeTable,
    PathPrefixes,
    PathLengths,
    Paths,
    Modes,
    Uids,
    Gids,
    Names,
    NameTable,
    Mtimes,
    MtimeNsecs,
    Devices,
    LinkPrefixes,
    LinkLengths,
    Links,
    PaxCounts,
    PaxValues,
    PaxTable,
    Contents,
    ContentPlaces,
    NewSizes,
    NewDigests,
    BareSizes,
    SparseCounts,
    SparseExtents,
    RawLengths,
    RawHeaders,
}

const fn spec(name: &'static str, kind: Kind) -> Spec {
    Spec { name, kind }
}

/// The columns, in the order of [`Col`].
pub(crate) static SPECS: [Spec; 33] = [
    spec("column runs", Numbers),
    spec("column run places", Numbers),
    spec("column tails", Bytes),
    spec("column change gaps", Numbers),
    spec("column change masks", Numbers),
    spec("column shapes", Numbers),
    spec("column shape table", Bytes),
    spec("column path prefixes", Numbers),
    spec("column path lengths", Numbers),
    spec("column paths", Bytes),
    spec("column modes", Numbers),
    spec("column uids", Numbers),
    spec("column gids", Numbers),
    spec("column names", Numbers),
    spec("column name table", Bytes),
    spec("column mtimes", Numbers),
    spec("column mtime nanoseconds", Numbers),
    spec("column devices", Numbers),
    spec("column link prefixes", Numbers),
    spec("column link lengths", Numbers),
    spec("column links", Bytes),
    spec("column pax counts", Numbers),
    spec("column pax values", Numbers),
    spec("column pax table", Bytes),
    spec("column contents", Numbers),
    spec("column content places", Numbers),
    spec("column new sizes", Numbers),
    spec("column new digests", Bytes),
    spec("column bare sizes", Numbers),
    spec("column sparse counts", Numbers),
    spec("column sparse extents", Numbers),
    spec("column raw lengths", Numbers),
    spec("column raw headers", Bytes),
];

/// Values of a number column stand as the difference to the one before.
#[derive(Debug, Default)]
struct Before {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: i64,
    nsec: u32,
}

const PATH: [Col; 3] = [Col::PathPrefixes, Col::PathLengths, Col::Paths];
const LINK: [Col; 3] = [Col::LinkPrefixes, Col::LinkLengths, Col::Links];

/// What is left of [`MAX_INDEX_BYTES`].
#[derive(Debug)]
pub(in crate::index::edit) struct Budget(pub(super) usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_INDEX_BYTES)
    }
}

impl Budget {
    /// Takes `bytes`; false when they are not there.
    pub(in crate::index::edit) fn take(&mut self, bytes: usize) -> bool {
        self.0.checked_sub(bytes).map(|left| self.0 = left).is_some()
    }

    fn spend(&mut self, bytes: usize, reader: &Reader<'_>) -> Result<(), WireError> {
        let why = || format!("the names and values of all entries exceed {MAX_INDEX_BYTES} bytes");
        if self.take(bytes) { Ok(()) } else { Err(reader.error("value", why())) }
    }

    fn copy(&mut self, bytes: &[u8], reader: &Reader<'_>) -> Result<Box<[u8]>, WireError> {
        self.spend(bytes.len(), reader)?;
        Ok(bytes.into())
    }

    /// As [`Budget::copy`], of one of a list: an empty one takes memory, too.
    fn copy_item(&mut self, bytes: &[u8], reader: &Reader<'_>) -> Result<Box<[u8]>, WireError> {
        self.spend(size_of::<Box<[u8]>>(), reader)?;
        self.copy(bytes, reader)
    }
}

/// Bytes that an entry's fields of variable length take in memory.
pub(crate) fn heap_bytes(entry: &Entry) -> usize {
    let pax: usize = entry.pax.iter().map(|value| value.len() + size_of::<Box<[u8]>>()).sum();
    let names = entry.path.len() + entry.link.len() + entry.uname.len() + entry.gname.len();
    names + pax + entry.raw.len() + size_of_val(&*entry.sparse)
}

/// Bytes that a value of variable length takes in memory.
pub(in crate::index::edit) fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Path(bytes)
        | Value::Link(bytes)
        | Value::Uname(bytes)
        | Value::Gname(bytes)
        | Value::Raw(bytes) => bytes.len(),
        Value::Pax(values) => values.iter().map(|value| value.len() + size_of::<Box<[u8]>>()).sum(),
        Value::Sparse(extents) => size_of_val(&**extents),
        _ => 0,
    }
}

/// A parent's entry that a content was said to be of, for messages.
pub(in crate::index::edit) fn describe(place: Place) -> String {
    format!("entry {} of layer {} of the parent", place.entry, place.layer)
}
