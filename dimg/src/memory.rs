//! Memory for making contents, shared by all who make some at once.
//!
//! Whoever makes a content takes what it will need at most ([`Memory::take`]) and waits until there is so much. There are two lanes: what is
//! *cheap* takes part of what is left, and a quarter stays for it, so that it never waits behind a large content; what is not waits in the order
//! in which it came, and while it waits cheap ones keep to their quarter, so that it is not overtaken for ever. Each lane is served in order.
//! Another quarter of the whole is for groups that stay decoded between contents ([`Memory::keep`]), which nobody waits for.
//!
//! Nobody may wait for a content of another one while they have taken something; then the waiting ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a thread that works on a large content takes, as a rule: windows of decoders, and a map of addresses with what is known of the file.
const MAKER_BYTES: u64 = 32 << 20;

/// How much memory there is, and who has it. What contents need is estimated from above, but for what the allocator adds.
#[derive(Debug)]
pub struct Memory {
    /// For contents that are being made.
    limit: u64,
    /// For groups that are kept.
    keep_limit: u64,
    kept: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    lanes: [Lane; 2],
}

#[derive(Debug, Default)]
struct Lane {
    used: u64,
    waiting: VecDeque<u64>,
}

const CHEAP: usize = 0;
const LARGE: usize = 1;

/// Memory taken; given back when it is dropped.
#[derive(Debug)]
pub struct Taken<'a> {
    memory: &'a Memory,
    lane: usize,
    bytes: u64,
}

/// Memory of a group that is kept; given back when it is dropped.
#[derive(Debug)]
pub struct Kept {
    memory: Arc<Memory>,
    bytes: u64,
}

/// Of a process that says nothing else: 1 GiB.
impl Default for Memory {
    fn default() -> Self {
        Self::new(1 << 30)
    }
}

impl Memory {
    /// So many bytes for all together. One content is always made, whatever it takes: with less than 64 MiB large ones may take more.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let keep_limit = bytes / 4;
        let (limit, state, changed) = (bytes - keep_limit, Mutex::default(), Condvar::new());
        Self { limit, keep_limit, kept: AtomicU64::new(0), state, changed }
    }

    /// What stays for cheap contents, and the most that one of them takes.
    fn reserve(&self) -> u64 {
        self.limit / 4
    }

    /// How much one part of what a content takes may be, of `most` bytes that it is better with: little where there is little in all.
    pub(crate) fn part(&self, most: u64) -> u64 {
        most.min(self.reserve() / 4)
    }

    /// How many of `threads` may work on one large content.
    pub(crate) fn threads(&self, threads: usize) -> usize {
        let most = usize::try_from(self.limit / MAKER_BYTES).unwrap_or(usize::MAX);
        threads.min(most).max(1)
    }

    /// Takes `bytes`; of more than there can be, all that there can be. Waits until they are there and it is this one's turn.
    pub fn take(&self, bytes: u64) -> Taken<'_> {
        let lane = if bytes <= self.reserve() { CHEAP } else { LARGE };
        let bytes = bytes.min(self.limit - self.reserve());
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.lanes[lane].waiting.push_back(ticket);
        let waits = |state: &mut State| {
            let [cheap, large] = &state.lanes;
            let turn = state.lanes[lane].waiting.front() == Some(&ticket);
            let fits = cheap.used + large.used + bytes <= self.limit;
            let within = match lane {
                CHEAP => large.waiting.is_empty() || cheap.used + bytes <= self.reserve(),
                _ => large.used + bytes <= self.limit - self.reserve(),
            };
            !(turn && fits && within)
        };
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.lanes[lane].waiting.pop_front();
        state.lanes[lane].used += bytes;
        // The next one's turn may be now.
        self.changed(state);
        Taken { memory: self, lane, bytes }
    }

    /// Room for a group of so many bytes that is kept, if there is.
    pub fn keep(self: &Arc<Self>, bytes: u64) -> Option<Kept> {
        let add = |kept: u64| kept.checked_add(bytes).filter(|all| *all <= self.keep_limit);
        self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Kept { memory: Arc::clone(self), bytes })
    }

    /// Wakes those who wait; a call of the system that would wake nobody is left out.
    fn changed(&self, state: MutexGuard<'_, State>) {
        if state.lanes.iter().any(|lane| !lane.waiting.is_empty()) {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// No code that could panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.lanes[self.lane].used -= self.bytes;
        self.memory.changed(state);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.memory.kept.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::scope;

    const MIB: u64 = 1 << 20;

    impl Memory {
        /// Until so many wait in a lane.
        fn wait_for(&self, lane: usize, waiting: usize) {
            while self.lock().lanes[lane].waiting.len() != waiting {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn cheap_ones_do_not_wait_behind_large_ones_and_large_ones_not_for_ever() {
        // 96 MiB for contents, 24 of them for cheap ones alone.
        let memory = &Memory::new(128 * MIB);
        let large = memory.take(60 * MIB);
        let many: Vec<_> = (0..3).map(|_| memory.take(12 * MIB)).collect();
        let order = &Mutex::new(Vec::new());
        scope(|scope| {
            let start = |name, bytes| {
                scope.spawn(move || {
                    let taken = memory.take(bytes);
                    order.lock().unwrap().push(name);
                    drop(taken);
                })
            };
            let waiting = start("large", 64 * MIB);
            memory.wait_for(LARGE, 1);
            let next = start("next", 70 * MIB);
            memory.wait_for(LARGE, 2);
            // The cheap ones have more than their quarter: one more would keep the large one waiting.
            let late = start("cheap", 12 * MIB);
            memory.wait_for(CHEAP, 1);
            drop(many);
            late.join().unwrap();
            assert_eq!(*order.lock().unwrap(), ["cheap"], "behind a large one");
            drop(large);
            waiting.join().unwrap();
            next.join().unwrap();
        });
        assert_eq!(*order.lock().unwrap(), ["cheap", "large", "next"]);
        assert!(memory.lock().lanes.iter().all(|lane| lane.used == 0 && lane.waiting.is_empty()));
    }

    #[test]
    fn what_is_taken_stays_within_the_limit() {
        let memory = &Memory::new(128 * MIB);
        let (used, most) = (&AtomicU64::new(0), &AtomicU64::new(0));
        scope(|scope| {
            for number in 0..16 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = [1, 90, 7, 24, 64, 3][(number + round) % 6] * MIB;
                        let taken = memory.take(bytes);
                        let all = used.fetch_add(taken.bytes, Ordering::Relaxed) + taken.bytes;
                        most.fetch_max(all, Ordering::Relaxed);
                        used.fetch_sub(taken.bytes, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(most.load(Ordering::Relaxed) <= 96 * MIB);
    }

    #[test]
    fn anything_is_made_alone_and_groups_are_kept_within_a_quarter() {
        let memory = Arc::new(Memory::new(0));
        drop((memory.take(u64::MAX), memory.keep(1).is_none()));
        let memory = Arc::new(Memory::new(128 * MIB));
        let kept: Vec<_> = (0..9).filter_map(|_| memory.keep(4 * MIB)).collect();
        assert!(kept.len() == 8 && memory.keep(1).is_none());
        drop(kept);
        assert!(memory.keep(32 * MIB).is_some());
        assert_eq!((memory.threads(8), Memory::new(1 << 30).threads(100)), (3, 24));
    }
}
