//! An image's layers as an edit of a parent's layers.
//!
//! An [`Edit`] says of each layer that it *is* one of the parent's, or how its entries come about: runs of entries
//! copied from the parent, some of their fields overridden, and new entries between them. A base image is an edit of
//! nothing. An edit is found by [`Edit::between`], stored as columns (`FORMAT.md`, section 4) by [`Edit::encode`] and
//! [`Edit::decode`], and applied by [`Edit::apply`]. Values never refer to the parent's values, so two edits
//! compose without the parent.
//!
//! What stands here was made by us or checked by `decode`; still `apply` checks everything that depends on the parent.

mod apply;
mod between;
mod compose;
mod decode;
mod encode;
mod place;
mod values;

#[cfg(test)]
mod refusals;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use apply::content_at;
pub(crate) use between::key;
pub use compose::{Composed, Lookup, Named};
pub use decode::LayerClaim;
pub(crate) use place::PlaceCoder;
pub(crate) use values::{SPECS, heap_bytes};

use super::{Content, Entry, Extent, IndexError, LayerIndex, Shape, Tail};
use crate::Digest;
use std::sync::Arc;

/// An entry of the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Number of the layer, the lowest is 0.
    pub layer: u32,
    /// Number of the entry in the layer.
    pub entry: u32,
}

/// Which content an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentRef {
    /// It has none.
    None,
    /// New content by number: [`Edit::new_contents`].
    New(u32),
    /// The content of a parent's entry.
    Parent(Place),
}

/// A field's value that differs from the copied entry's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// [`Entry::content`].
    Content(ContentRef),
    /// [`Entry::mtime`].
    Mtime(i64),
    /// [`Entry::mtime_nsec`].
    MtimeNsec(u32),
    /// [`Entry::path`].
    Path(Box<[u8]>),
    /// [`Entry::mode`].
    Mode(u32),
    /// [`Entry::shape`], by its number in [`Edit::shapes`].
    Shape(u32),
    /// [`Entry::link`].
    Link(Box<[u8]>),
    /// [`Entry::pax`].
    Pax(Box<[Box<[u8]>]>),
    /// [`Entry::uid`].
    Uid(u64),
    /// [`Entry::gid`].
    Gid(u64),
    /// [`Entry::uname`].
    Uname(Box<[u8]>),
    /// [`Entry::gname`].
    Gname(Box<[u8]>),
    /// [`Entry::dev_major`] and [`Entry::dev_minor`].
    Device(u64, u64),
    /// [`Entry::bare_size`].
    BareSize(u64),
    /// [`Entry::sparse`].
    Sparse(Box<[Extent]>),
    /// [`Entry::raw`].
    Raw(Box<[u8]>),
}

/// Number of fields: values and bits of a mask.
pub(crate) const FIELDS: u32 = 16;

impl Value {
    /// The field's number: its bit in a change's mask. Frequent ones come first.
    pub(crate) fn field(&self) -> u32 {
        match self {
            Self::Content(_) => 0,
            Self::Mtime(_) => 1,
            Self::MtimeNsec(_) => 2,
            Self::Path(_) => 3,
            Self::Mode(_) => 4,
            Self::Shape(_) => 5,
            Self::Link(_) => 6,
            Self::Pax(_) => 7,
            Self::Uid(_) => 8,
            Self::Gid(_) => 9,
            Self::Uname(_) => 10,
            Self::Gname(_) => 11,
            Self::Device(..) => 12,
            Self::BareSize(_) => 13,
            Self::Sparse(_) => 14,
            Self::Raw(_) => 15,
        }
    }

    /// The name that listings show.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Content(_) => "content",
            Self::Mtime(_) => "mtime",
            Self::MtimeNsec(_) => "mtime_nsec",
            Self::Path(_) => "path",
            Self::Mode(_) => "mode",
            Self::Shape(_) => "shape",
            Self::Link(_) => "link",
            Self::Pax(_) => "pax",
            Self::Uid(_) => "uid",
            Self::Gid(_) => "gid",
            Self::Uname(_) => "uname",
            Self::Gname(_) => "gname",
            Self::Device(..) => "device",
            Self::BareSize(_) => "bare_size",
            Self::Sparse(_) => "sparse",
            Self::Raw(_) => "raw",
        }
    }

    /// Sets the field of `entry`, but for content and shape: they are names that mean something in the edit only.
    pub(crate) fn set(&self, entry: &mut Entry) {
        match self {
            Self::Content(_) | Self::Shape(_) => {}
            Self::Mtime(value) => entry.mtime = *value,
            Self::MtimeNsec(value) => entry.mtime_nsec = *value,
            Self::Path(value) => entry.path.clone_from(value),
            Self::Mode(value) => entry.mode = *value,
            Self::Link(value) => entry.link.clone_from(value),
            Self::Pax(value) => entry.pax.clone_from(value),
            Self::Uid(value) => entry.uid = *value,
            Self::Gid(value) => entry.gid = *value,
            Self::Uname(value) => entry.uname.clone_from(value),
            Self::Gname(value) => entry.gname.clone_from(value),
            Self::Device(major, minor) => (entry.dev_major, entry.dev_minor) = (*major, *minor),
            Self::BareSize(value) => entry.bare_size = *value,
            Self::Sparse(value) => entry.sparse.clone_from(value),
            Self::Raw(value) => entry.raw.clone_from(value),
        }
    }
}

/// Entries of a layer that come about alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// So many entries of the parent, one after the other.
    Copied {
        /// The first.
        from: Place,
        /// At least one.
        count: u32,
    },
    /// So many of [`Edited::new`].
    New {
        /// At least one.
        count: u32,
    },
}

impl Run {
    /// Entries that the run makes.
    pub fn count(&self) -> u32 {
        match *self {
            Self::Copied { count, .. } | Self::New { count } => count,
        }
    }
}

/// A copied entry of which some fields differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The entry's number in the layer made.
    pub at: u32,
    /// The fields, in order of their numbers, each at most once.
    pub values: Vec<Value>,
}

/// An entry that is not a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// All fields but the content, which is `None` here; the shape is a number in [`Edit::shapes`].
    pub entry: Entry,
    /// The content.
    pub content: ContentRef,
}

/// How a layer's entries come about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// In the order of the layer.
    pub runs: Vec<Run>,
    /// Ascending by `at`; only copied entries.
    pub changes: Vec<Change>,
    /// The entries of the runs of new ones, in order.
    pub new: Vec<NewEntry>,
    /// What follows the layer's last member.
    pub tail: Tail,
}

impl Edited {
    /// Entries of the layer made.
    pub fn entries(&self) -> usize {
        self.runs.iter().map(|run| run.count() as usize).sum()
    }
}

/// Where a layer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerEdit {
    /// It is this layer of the parent.
    Same(u32),
    /// It is made.
    Edited(Edited),
}

/// How an image's layers come from a parent's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Every layer, the lowest first.
    pub layers: Vec<LayerEdit>,
    /// The shapes that new entries and overridden fields name.
    pub shapes: Vec<Shape>,
    /// Contents that the edit names by themselves, in order of first use, each once.
    pub new_contents: Vec<Content>,
}

impl Edit {
    /// An edit of nothing that makes `layers`: a base image.
    ///
    /// # Errors
    /// As [`Edit::between`].
    pub fn whole(layers: &[Arc<LayerIndex>]) -> Result<Self, IndexError> {
        Self::between(&[], layers)
    }

    /// For each new content the parent's entry that its first user is a copy of: the base that costs nothing to name.
    pub fn origins(&self) -> Vec<Option<Place>> {
        let mut origins = vec![None; self.new_contents.len()];
        let mut known = vec![false; self.new_contents.len()];
        let mut note = |content: ContentRef, place: Option<Place>| {
            if let ContentRef::New(number) = content
                && let Some(known) = known.get_mut(number as usize)
                && !std::mem::replace(known, true)
            {
                origins[number as usize] = place;
            }
        };
        for layer in &self.layers {
            let LayerEdit::Edited(layer) = layer else { continue };
            let (mut changes, mut new) = (layer.changes.iter().peekable(), layer.new.iter());
            let mut at = 0u32;
            for run in &layer.runs {
                let end = at.saturating_add(run.count());
                match *run {
                    Run::New { count } => {
                        new.by_ref().take(count as usize).for_each(|new| note(new.content, None));
                    }
                    Run::Copied { from, .. } => {
                        while let Some(change) = changes.next_if(|change| change.at < end) {
                            let place = Place { entry: from.entry + (change.at - at), ..from };
                            for value in &change.values {
                                if let Value::Content(content) = value {
                                    note(*content, Some(place));
                                }
                            }
                        }
                    }
                }
                at = end;
            }
        }
        origins
    }
}

/// The layer's id: SHA-256 of its canonical encoding, the columns of the layer alone as an edit of nothing, none of
/// them compressed. Equal for equal layers, whatever files they came in.
pub fn layer_id(layer: &LayerIndex) -> Digest {
    encode::canonical_id(layer)
}
