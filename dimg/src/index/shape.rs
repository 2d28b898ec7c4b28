//! How a tar's writer wrote a member, shared by all members written alike.

use super::Kind;

/// The way one kind of member is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What such members make.
    pub kind: Kind,
    /// Whether the entry keeps its header blocks ([`Entry::raw`](super::Entry::raw)): the tar holds those bytes and
    /// `style` is empty.
    pub raw: bool,
    /// Whether the entry has a map of data runs.
    pub sparse: bool,
    /// Keys of the pax records whose values stand in [`Entry::pax`](super::Entry::pax), in the tar's order. Records
    /// that repeat another field (`path`, `mtime`, …) are part of the style and have no value of their own.
    pub pax_keys: Vec<Box<[u8]>>,
    /// The writer's style: bytes that only the tar codec reads; laid out in `FORMAT.md`, "Styles".
    pub style: Box<[u8]>,
}
