//! Threads that may be refused: a limit of processes (`ulimit -u`, a cgroup's `pids.max`) or no memory for a stack slows work down,
//! and does not end it.

use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

/// A thread that runs `work` within `scope`; none when the system refuses it. `work` is not run then.
pub fn spawn_scoped<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).ok()
}

/// Runs `work` on this thread, and at the same time on as many others as make `threads` of them, as far as the system grants them.
/// Ends when all have.
///
/// # Panics
/// When `work` did on one of them.
pub fn on_threads(threads: usize, work: impl Fn() + Sync) {
    scope(|scope| {
        // Where one is refused the next one would be.
        for _ in 1..threads {
            if spawn_scoped(scope, &work).is_none() {
                break;
            }
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn runs_on_all_that_are_asked_for() {
        for threads in [0, 1, 2, 5] {
            let runs = AtomicUsize::new(0);
            on_threads(threads, || {
                runs.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(runs.into_inner(), threads.max(1));
        }
        assert_eq!(scope(|scope| spawn_scoped(scope, || 7).map(|thread| thread.join().unwrap())), Some(7));
    }
}
