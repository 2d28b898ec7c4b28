//! Numbered work on several threads, with results in the order of the numbers: nothing that is made of them depends on how many
//! threads there are.

use crossbeam::channel::{Receiver, Sender, bounded};
use d4c_sys::{on_threads, spawn_scoped};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// What `work` makes of each number below `count`.
pub(crate) fn map<T: Send>(threads: usize, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads.min(count) <= 1 {
        return (0..count).map(work).collect();
    }
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let result = work(number);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    on_threads(threads.min(count), run);
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, result)| result).collect()
}

/// Has `take` take what `work` makes of each number below `count`, in order, on this thread. No more than twice as many results
/// as threads are there at a time. Ends early when `take` says so.
pub(crate) fn in_order<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) -> bool,
) {
    let alone = |take: &mut dyn FnMut(T) -> bool| {
        for number in 0..count {
            if !take(work(number)) {
                break;
            }
        }
    };
    if threads.min(count) <= 1 {
        return alone(&mut take);
    }
    let state = Mutex::new(State { next: 0, taken: 0, made: BTreeMap::new(), died: false });
    let changed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let run = || {
        let _death = Death(|| {
            let mut held = lock();
            (held.next, held.died) = (count, true);
            changed.notify_all();
        });
        loop {
            let far = |state: &mut State<T>| state.next < count && state.next >= state.taken + 2 * threads;
            let mut held = changed.wait_while(lock(), far).unwrap_or_else(PoisonError::into_inner);
            let number = held.next;
            if number >= count {
                break;
            }
            held.next += 1;
            drop(held);
            let result = work(number);
            lock().made.insert(number, result);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        let granted = (0..threads.min(count)).take_while(|_| spawn_scoped(scope, run).is_some()).count();
        if granted == 0 {
            return alone(&mut take);
        }
        for number in 0..count {
            let missing = |state: &mut State<T>| !state.died && !state.made.contains_key(&number);
            let mut held = changed.wait_while(lock(), missing).unwrap_or_else(PoisonError::into_inner);
            let result = held.made.remove(&number);
            held.taken += 1;
            drop(held);
            changed.notify_all();
            if !result.is_some_and(&mut take) {
                // A panic of a worker goes on where the scope ends.
                lock().next = count;
                changed.notify_all();
                break;
            }
        }
    });
}

/// What a worker does with a job.
type Work<'w, J, D> = dyn Fn(J) -> D + Sync + 'w;

/// Jobs for worker threads, and what they make of them. Of the jobs under way, at most twice as many as there are threads are held.
pub(crate) struct Workers<'w, J, D> {
    jobs: Sender<J>,
    done: Receiver<D>,
    /// What a worker would take from and do, when the system granted none.
    alone: Option<(Receiver<J>, &'w Work<'w, J, D>)>,
}

impl<J, D> Workers<'_, J, D> {
    /// Hands out a job. Blocks while as many as there is room for are under way.
    pub(crate) fn send(&self, job: J) {
        // There is always a receiver: workers live as long as the sender.
        let _ = self.jobs.send(job);
    }

    /// What was made of one of the jobs under way, of which there must be one; none when a worker died.
    pub(crate) fn receive(&self) -> Option<D> {
        match &self.alone {
            Some((jobs, work)) => jobs.try_recv().ok().map(work),
            None => self.done.recv().ok(),
        }
    }
}

/// Has `coordinate` hand out jobs for `work` to so many threads, or to this one where the system refuses all. No more than twice as
/// many jobs as threads may be under way.
pub(crate) fn with_workers<J: Send, D: Send, R>(
    threads: usize,
    work: impl Fn(J) -> D + Sync,
    coordinate: impl FnOnce(Workers<'_, J, D>) -> R,
) -> R {
    let (job_sender, jobs) = bounded(2 * threads);
    // Never more results than jobs under way.
    let (done_sender, done) = bounded(2 * threads);
    let work = &work;
    std::thread::scope(|scope| {
        let granted = (0..threads).take_while(|_| {
            let (jobs, done) = (jobs.clone(), done_sender.clone());
            let run = move || {
                for job in jobs {
                    if done.send(work(job)).is_err() {
                        break;
                    }
                }
            };
            spawn_scoped(scope, run).is_some()
        });
        let alone = (granted.count() == 0).then(|| (jobs.clone(), work as &Work<'_, J, D>));
        drop((jobs, done_sender));
        coordinate(Workers { jobs: job_sender, done, alone })
    })
}

/// Calls what it holds if the thread panics.
struct Death<F: Fn()>(F);

impl<F: Fn()> Drop for Death<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0();
        }
    }
}

struct State<T> {
    /// The first number that no thread has.
    next: usize,
    taken: usize,
    made: BTreeMap<usize, T>,
    /// A thread panicked: its result will not come.
    died: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [0, 1, 2, 5] {
            assert_eq!(map(threads, 100, |number| number * 2), (0..100).map(|n| n * 2).collect::<Vec<_>>());
            let mut taken = Vec::new();
            let slow = |number: usize| {
                std::thread::sleep(std::time::Duration::from_micros((number % 7) as u64 * 50));
                number
            };
            in_order(threads, 100, slow, |number| {
                taken.push(number);
                number < 60
            });
            assert_eq!(taken, (0..=60).collect::<Vec<_>>());
            in_order(threads, 0, |_| (), |()| false);
        }
    }

    #[test]
    #[should_panic(expected = "scoped thread panicked")]
    fn a_panic_ends_it() {
        let work = |number| if number == 5 { panic!("on purpose") } else { number };
        in_order(3, 100, work, |_| true);
    }
}
