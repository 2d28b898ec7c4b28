//! Threads that wait for requests, and are joined by others while they make contents.
//!
//! Making a content takes its time, and may wait for memory: when the last thread that waits for requests turns to that ([`long_work`]), it
//! starts another one, so that whoever asks for something that is there, or cheap, does not wait until a large content is made. What
//! was started beyond the first ones ends when there are enough that wait.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Threads of one crew at once, at most.
const MOST: usize = 128;

thread_local! {
    /// The crew that this thread is of.
    static OWN: RefCell<Option<Arc<Crew>>> = const { RefCell::new(None) };
}

/// What a thread waits with: requests that it reads, answers that it writes.
pub(crate) trait Duty: Send + Sync + 'static {
    /// What a thread has of its own.
    type Own;

    /// Made by the thread itself.
    fn begin(&self) -> Self::Own;

    /// Waits for a request; false when there will be none any more.
    fn wait(&self, own: &mut Self::Own) -> bool;

    /// Answers it.
    fn answer(&self, own: &mut Self::Own);
}

/// See the module's text.
pub(crate) struct Crew {
    /// What a thread does until there is nothing more to do, or enough others do it.
    work: Box<dyn Fn(&Crew) + Send + Sync>,
    /// As many stay.
    least: usize,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    running: usize,
    /// Of these, those that answer.
    answering: usize,
    handles: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("least", &self.least).finish_non_exhaustive()
    }
}

/// Called by whoever begins with what takes long: when nobody waits for requests, another thread does from now on.
pub(crate) fn long_work() {
    let crew = OWN.with_borrow(Clone::clone);
    if let Some(crew) = crew {
        let mut threads = crew.lock();
        if threads.answering == threads.running
            && threads.running < MOST
            && let Err(error) = crew.start_one(&mut threads)
        {
            tracing::debug!(%error, "nobody waits for requests meanwhile");
        }
    }
}

impl Crew {
    /// Starts `least` threads, or as many as the system has.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn start(duty: impl Duty, least: NonZeroUsize) -> io::Result<Arc<Self>> {
        let work = move |crew: &Crew| {
            let mut own = duty.begin();
            while duty.wait(&mut own) {
                crew.lock().answering += 1;
                duty.answer(&mut own);
                if crew.is_one_too_many() {
                    return;
                }
            }
        };
        let crew = Arc::new(Self { work: Box::new(work), least: least.get(), threads: Mutex::default() });
        let mut threads = crew.lock();
        for started in 0..crew.least {
            match crew.start_one(&mut threads) {
                Err(error) if started == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, started, wanted = crew.least, "fewer threads than wanted answer requests");
                    break;
                }
                Ok(()) => {}
            }
        }
        drop(threads);
        Ok(crew)
    }

    fn start_one(self: &Arc<Self>, threads: &mut Threads) -> io::Result<()> {
        threads.handles.retain(|thread| !thread.is_finished());
        let crew = Arc::clone(self);
        let run = move || {
            OWN.set(Some(Arc::clone(&crew)));
            (crew.work)(&crew);
        };
        let handle = Builder::new().name(format!("fuse-{}", threads.running)).spawn(run)?;
        threads.running += 1;
        threads.handles.push(handle);
        Ok(())
    }

    /// After an answer: whether enough others wait, and this thread ends.
    fn is_one_too_many(&self) -> bool {
        let mut threads = self.lock();
        threads.answering -= 1;
        let ends = threads.running - threads.answering > self.least;
        threads.running -= usize::from(ends);
        ends
    }

    /// Waits until there is nothing more to do, and all have ended.
    pub(crate) fn join(&self) {
        // One that has not ended may start another one.
        while let Some(thread) = { self.lock().handles.pop() } {
            drop(thread.join());
        }
    }

    /// No code that could panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A request: it takes until the other end says so, or ends.
    struct Takes(Mutex<Receiver<Receiver<()>>>, Sender<()>);

    impl Duty for Takes {
        type Own = Option<Receiver<()>>;

        fn begin(&self) -> Self::Own {
            None
        }

        fn wait(&self, own: &mut Self::Own) -> bool {
            *own = self.0.lock().unwrap().recv().ok();
            own.is_some()
        }

        fn answer(&self, own: &mut Self::Own) {
            long_work();
            let _ = own.take().unwrap().recv();
            self.1.send(()).unwrap();
        }
    }

    #[test]
    fn who_takes_long_holds_up_nobody_else() {
        let ((requests, received), (answered, answers)) = (channel(), channel());
        let crew = Crew::start(Takes(Mutex::new(received), answered), NonZeroUsize::new(2).unwrap()).unwrap();
        let long: Vec<_> = (0..40)
            .map(|_| {
                let (end, takes) = channel();
                requests.send(takes).unwrap();
                end
            })
            .collect();
        // Nobody ends any of these, and one more is answered.
        let (end, takes) = channel();
        drop(end);
        requests.send(takes).unwrap();
        answers.recv().unwrap();
        assert!(crew.lock().running >= 41);
        drop(long);
        (0..40).for_each(|_| answers.recv().unwrap());
        while crew.lock().running > 2 {
            // Until the last of them has looked.
            std::thread::yield_now();
        }
        drop(requests);
        crew.join();
    }
}
