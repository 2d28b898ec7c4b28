//! Whoever waits for a content goes before what is made in advance.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For so long after a content that was waited for the next one is expected.
const MOMENT: Duration = Duration::from_millis(50);

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Readers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    last: Option<Instant>,
    /// How many let them go first.
    behind: usize,
}

/// While this lives someone waits for a content.
#[derive(Debug)]
pub struct Reading<'a>(&'a Readers);

impl Readers {
    pub(super) fn begin(&self) -> Reading<'_> {
        self.lock().waiting += 1;
        Reading(self)
    }

    /// Waits for a moment without readers, `most` at the longest; whether it came.
    pub(super) fn let_go_first(&self, most: Duration) -> bool {
        let end = Instant::now() + most;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let quiet_at = if state.waiting > 0 { end } else { state.last.map_or(now, |last| last + MOMENT) };
            if state.waiting == 0 && quiet_at <= now {
                return true;
            }
            let left = quiet_at.min(end).saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            state.behind += 1;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.behind -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        state.last = Some(Instant::now());
        let behind = state.behind;
        drop(state);
        // A call of the system, for nobody as a rule.
        if behind > 0 {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_go_first_but_not_for_ever() {
        let readers = Readers::default();
        let waited = |most| {
            let started = Instant::now();
            (readers.let_go_first(Duration::from_millis(most)), started.elapsed())
        };
        assert!(waited(60_000).0);
        let reading = readers.begin();
        let (quiet, after) = waited(20);
        assert!(!quiet && after >= Duration::from_millis(20));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                drop(reading);
            });
            let (quiet, after) = waited(60_000);
            assert!(quiet && after >= MOMENT, "{after:?}");
        });
    }
}
