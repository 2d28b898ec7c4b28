//! Small results on their way into a frame. What is from one frame of a file comes together and stays together: it was put
//! there because it is alike. Frames that have become too small to gain from standing alone are joined.

use crate::engine::frame::MAX_SLOTS;

/// Which stage of which recipe a result is: of a content, a step, and the part of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub content: u32,
    pub step: u32,
    pub part: u32,
}

/// A frame's worth of results, in the order of their seats.
pub(super) struct Full<T>(pub Vec<(Seat, T)>);

/// Groups below this are joined with others.
const JOIN_BYTES: u64 = 64 << 10;

struct Group<T> {
    members: Vec<(Seat, T)>,
    bytes: u64,
}

impl<T> Group<T> {
    fn new() -> Self {
        Self { members: Vec::new(), bytes: 0 }
    }

    fn is_full(&self, members: usize, bytes: u64, limit: u64) -> bool {
        self.bytes + bytes > limit || (self.members.len() + members) as u64 > MAX_SLOTS
    }

    fn take(&mut self) -> Option<Full<T>> {
        let mut members = std::mem::replace(self, Self::new()).members;
        members.sort_by_key(|(seat, _)| *seat);
        (!members.is_empty()).then_some(Full(members))
    }
}

/// Results of one kind; sources come one after the other.
pub(super) struct Pool<T> {
    limit: u64,
    source: Option<(usize, u32)>,
    current: Group<T>,
    joined: Group<T>,
}

impl<T> Pool<T> {
    /// A pool of groups of at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, source: None, current: Group::new(), joined: Group::new() }
    }

    /// Adds a result from the frame `source` of a file; the groups that are full now.
    pub(super) fn add(&mut self, source: (usize, u32), seat: Seat, result: T, bytes: u64) -> Vec<Full<T>> {
        let mut full = Vec::new();
        if self.source != Some(source) {
            full = self.end_source();
            self.source = Some(source);
        }
        if self.current.is_full(1, bytes, self.limit) {
            full.extend(self.current.take());
        }
        self.current.members.push((seat, result));
        self.current.bytes += bytes;
        full
    }

    fn end_source(&mut self) -> Vec<Full<T>> {
        if self.current.bytes > JOIN_BYTES {
            return self.current.take().into_iter().collect();
        }
        let Group { members, bytes } = std::mem::replace(&mut self.current, Group::new());
        let full =
            if self.joined.is_full(members.len(), bytes, self.limit) { self.joined.take() } else { None };
        self.joined.members.extend(members);
        self.joined.bytes += bytes;
        full.into_iter().collect()
    }

    /// What is left.
    pub(super) fn finish(&mut self) -> Vec<Full<T>> {
        let mut full = self.end_source();
        full.extend(self.joined.take());
        full
    }
}
