//! Completes pending images, and gives back contents when there is too little room, on a thread of its own, at low priority.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Importer;
use crate::error::{Error, Result};

/// Without anything to do for so long, memory is given back.
const REST_AFTER: Duration = Duration::from_secs(10);
/// What containers open is noted so long after, and room made.
const SMALL_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    /// When images are to be completed.
    complete_at: Option<Instant>,
    /// How long after it is asked for.
    after: Duration,
    /// When what was opened is to be noted, and room to be made.
    small_at: Option<Instant>,
    room: bool,
    /// Indexes and trees were in memory, and the allocator has what they took.
    trim: bool,
    /// When what forgotten images left is to be removed.
    sweep_at: Option<Instant>,
    /// When memory is given back, unless something happens before.
    rest_at: Option<Instant>,
    stopped: bool,
}

/// What the thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Complete images.
    Complete,
    /// Note what was opened; make room, have the allocator give back and remove what forgotten images left where that is said.
    Small { room: bool, trim: bool, sweep: bool },
    /// Nothing happened for a while: give memory back.
    Rest,
}

/// Whether there is something to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with what an earlier process may have left: images are completed `after` each time that it is asked for.
    fn begin(&self, after: Duration) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.after = after;
        (state.complete_at, state.rest_at) = (Some(now + after), Some(now + REST_AFTER));
        (state.small_at, state.room, state.sweep_at) = (Some(now + SMALL_AFTER), true, Some(now));
    }

    /// Asks for all pending images to be completed.
    pub(super) fn ask(&self) {
        self.ask_after(Duration::ZERO);
    }

    /// The same, so much later.
    pub(super) fn ask_after(&self, wait: Duration) {
        let mut state = self.lock();
        let due = Instant::now() + state.after + wait;
        state.complete_at = Some(state.complete_at.map_or(due, |at| at.min(due)));
        drop(state);
        self.changed.notify_all();
    }

    /// Asks for contents to be given back, as far as there are too many.
    pub(super) fn ask_room(&self) {
        self.small(true, false);
    }

    /// Notes that contents were made.
    pub(super) fn tell_made(&self) {
        self.small(false, false);
    }

    /// Notes that an image was read.
    pub(super) fn tell_read(&self) {
        self.small(false, true);
    }

    /// Asks for what forgotten images left to be removed.
    pub(super) fn ask_sweep(&self) {
        self.ask_sweep_after(Duration::ZERO);
        self.small(false, false);
    }

    /// The same, so much later.
    pub(super) fn ask_sweep_after(&self, wait: Duration) {
        let mut state = self.lock();
        let due = Instant::now() + wait;
        state.sweep_at = Some(state.sweep_at.map_or(due, |at| at.min(due)));
        drop(state);
        self.changed.notify_all();
    }

    fn small(&self, room: bool, trim: bool) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.room |= room;
        state.trim |= trim;
        state.rest_at = Some(now + REST_AFTER);
        if state.small_at.is_none() {
            state.small_at = Some(now + SMALL_AFTER);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Whether room is to be made now.
    pub(super) fn wants_room(&self) -> bool {
        let state = self.lock();
        state.room && state.small_at.is_some_and(|at| at <= Instant::now())
    }

    /// Ends all work, for good.
    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits until something is to be done; none when it was stopped.
    fn wait(&self) -> Option<Asked> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            // What is asked for now waits for the rest of it.
            let small_at = state.small_at.or(state.sweep_at);
            if is_due(small_at) {
                state.small_at = None;
                let sweep = state.sweep_at.take_if(|at| *at <= now).is_some();
                let asked = Asked::Small { room: state.room, trim: state.trim, sweep };
                (state.room, state.trim) = (false, false);
                return Some(asked);
            }
            if is_due(state.complete_at) {
                state.complete_at = None;
                return Some(Asked::Complete);
            }
            if is_due(state.rest_at) {
                state.rest_at = None;
                return Some(Asked::Rest);
            }
            let next = [small_at, state.complete_at, state.rest_at].into_iter().flatten().min();
            state = match next {
                Some(next) => {
                    let waited = self.changed.wait_timeout(state, next.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The thread. Dropping it stops it soon, for good.
#[derive(Debug)]
pub struct Finisher {
    importer: Arc<Importer>,
    thread: Option<JoinHandle<()>>,
}

impl Finisher {
    /// Starts the thread, which begins `after` an import: a container's start goes first; without `after` it completes nothing. It
    /// calls `then` each time that images are complete or were forgotten.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(
        importer: Arc<Importer>,
        after: Option<Duration>,
        then: impl Fn() + Send + 'static,
    ) -> Result<Self> {
        importer.work.begin(after.unwrap_or_default());
        let work = importer.clone();
        let run = move || {
            if let Err(error) = d4c_sys::lower_priority() {
                tracing::warn!(%error, "images are completed at the priority of all else");
            }
            while let Some(asked) = work.work.wait() {
                match asked {
                    Asked::Complete => {
                        if after.is_some() {
                            work.finish_all();
                        }
                        then();
                    }
                    Asked::Small { room, trim, sweep } => {
                        work.note_opened();
                        if sweep {
                            // Also at the start: the process before may have been killed before it had.
                            work.sweep_unused();
                            work.sweep_left();
                            then();
                        }
                        if room {
                            work.keep_room();
                        }
                        if trim {
                            d4c_sys::trim_memory();
                        }
                    }
                    Asked::Rest => work.rest(),
                }
            }
        };
        let thread = thread::Builder::new().name("finisher".into()).spawn(run);
        Ok(Self { importer, thread: Some(thread.map_err(Error::io("start thread", "finisher"))?) })
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        self.importer.work.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_done_in_its_time() {
        let work = Work::default();
        work.begin(Duration::from_millis(20));
        let started = Instant::now();
        assert_eq!(work.wait(), Some(Asked::Complete));
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert!(!work.wants_room(), "not yet");
        work.tell_read();
        assert_eq!(work.wait(), Some(Asked::Small { room: true, trim: true, sweep: true }));
        assert!(started.elapsed() >= SMALL_AFTER && !work.wants_room());
        let (later, asked) = (Duration::from_millis(50), Instant::now());
        work.ask_sweep_after(later);
        assert_eq!(work.wait(), Some(Asked::Small { room: false, trim: false, sweep: true }));
        assert!(asked.elapsed() >= later && asked.elapsed() < SMALL_AFTER);
        work.stop();
        assert_eq!(work.wait(), None);
    }
}
