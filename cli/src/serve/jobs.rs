//! Work that many ask for and one does, a bounded number at once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dimg::Digest;
use tokio::sync::{Semaphore, watch};

use super::answer::{Got, Refusal};

/// Image wanted and image to start from.
pub(super) type Pair = (Digest, Digest);

/// What is got once: the delta of a pair, for one repository. Who may write to one gives nothing to those who read another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Job {
    /// Digest of its name.
    pub(super) repository: Digest,
    pub(super) pair: Pair,
}

impl Job {
    /// `repository` is `HOST/NAME`; empty where only the directory is asked.
    pub(super) fn new(repository: &str, pair: Pair) -> Self {
        Self { repository: Digest::of(repository.as_bytes()), pair }
    }
}

type Outcome = Result<Got, Refusal>;

/// What is being done.
#[derive(Debug)]
pub(super) struct Jobs {
    running: Mutex<HashMap<Job, watch::Receiver<Option<Outcome>>>>,
    turns: Arc<Semaphore>,
    /// Jobs that may be done or wait at once.
    limit: usize,
}

impl Jobs {
    /// `at_once` are done at a time, and `queue` more may wait.
    pub(super) fn new(at_once: NonZeroUsize, queue: usize) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(at_once.get()));
        Arc::new(Self { running: Mutex::default(), turns, limit: at_once.get() + queue })
    }

    /// Jobs that are being done or wait.
    pub(super) fn running(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Job, watch::Receiver<Option<Outcome>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` for `job`, or waits for whoever does it already. It goes on when nobody waits for it any more.
    pub(super) async fn run(
        self: &Arc<Self>,
        job: Job,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Outcome {
        let mut result = self.join(job, work)?;
        let done = result.wait_for(Option::is_some).await.ok().and_then(|done| done.clone());
        done.unwrap_or_else(|| Err(Refusal::Failed("the work for it broke off".into())))
    }

    fn join(
        self: &Arc<Self>,
        job: Job,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<watch::Receiver<Option<Outcome>>, Refusal> {
        let mut running = self.lock();
        if let Some(result) = running.get(&job) {
            return Ok(result.clone());
        }
        if running.len() >= self.limit {
            return Err(Refusal::Busy);
        }
        let (tell, result) = watch::channel(None);
        running.insert(job, result.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let turn = Arc::clone(&this.turns).acquire_owned().await;
            let done = tokio::task::spawn_blocking(work).await;
            drop(turn);
            this.lock().remove(&job);
            let failed = |error| Err(Refusal::Failed(format!("the work for it broke off: {error}")));
            // Nobody may wait any more.
            let _ = tell.send(Some(done.unwrap_or_else(failed)));
        });
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_does_it_for_all_and_the_queue_ends() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let jobs = Jobs::new(NonZeroUsize::MIN, 1);
        let job = |number: u8| Job::new("r.example/app", (Digest([number; 32]), Digest([0; 32])));
        let (done, (go, wait)) = (Arc::new(AtomicU64::new(0)), std::sync::mpsc::channel::<()>());
        runtime.block_on(async {
            let counter = Arc::clone(&done);
            let first = {
                let jobs = Arc::clone(&jobs);
                tokio::spawn(async move {
                    let work = move || {
                        wait.recv().unwrap();
                        counter.fetch_add(1, Ordering::Relaxed);
                        Err(Refusal::Failed("first".into()))
                    };
                    jobs.run(job(1), work).await
                })
            };
            while jobs.running() == 0 {
                tokio::task::yield_now().await;
            }
            let others: Vec<_> = (0..100)
                .map(|_| {
                    let jobs = Arc::clone(&jobs);
                    tokio::spawn(async move { jobs.run(job(1), || unreachable!("done twice")).await })
                })
                .collect();
            // The same pair in another repository is another job.
            let elsewhere = Job::new("r.example/other", job(1).pair);
            let second = jobs.join(elsewhere, || Err(Refusal::Failed("second".into()))).unwrap();
            assert!(matches!(jobs.join(job(3), || unreachable!("no room")), Err(Refusal::Busy)));
            drop(second);
            go.send(()).unwrap();
            assert!(matches!(first.await.unwrap(), Err(Refusal::Failed(why)) if why == "first"));
            for other in others {
                assert!(other.await.unwrap().is_err());
            }
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
