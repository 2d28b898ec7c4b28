//! Small results on their way into a frame. What is from one source comes together and stays together, in the order in which it comes.

use crate::engine::frame::MAX_SLOTS;

/// Which stage of which recipe a result is: of a content, a step, and the part of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub content: u32,
    pub step: u32,
    pub part: u32,
}

/// A frame's worth of results.
pub(super) struct Full<T>(pub Vec<(Seat, T)>);

/// Results of one kind; sources come one after the other.
pub(super) struct Pool<T> {
    limit: u64,
    source: Option<(usize, u32)>,
    members: Vec<(Seat, T)>,
    bytes: u64,
}

impl<T> Pool<T> {
    /// A pool of groups of at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, source: None, members: Vec::new(), bytes: 0 }
    }

    /// Adds a result from the frame `source` of a file; the group that is full now.
    pub(super) fn add(&mut self, source: (usize, u32), seat: Seat, result: T, bytes: u64) -> Option<Full<T>> {
        let is_full = self.bytes.saturating_add(bytes) > self.limit || self.members.len() as u64 >= MAX_SLOTS;
        let full = if is_full || self.source != Some(source) { self.finish() } else { None };
        self.source = Some(source);
        self.members.push((seat, result));
        self.bytes += bytes;
        full
    }

    /// What is left.
    pub(super) fn finish(&mut self) -> Option<Full<T>> {
        self.bytes = 0;
        let members = std::mem::take(&mut self.members);
        (!members.is_empty()).then_some(Full(members))
    }
}
