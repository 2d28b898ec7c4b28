//! Deletes directories on a thread of its own, so that no request waits for a large tree, and none holds a lock
//! meanwhile. What a crash leaves undeleted has no record and is found by the next sweep.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{io, thread};

use crate::error::{Error, Result};

enum Job {
    Delete(PathBuf),
    Barrier(Sender<()>),
}

/// The thread and the way to it. Dropping it lets the deletion under way end and forgets the rest.
#[derive(Debug)]
pub(super) struct Reaper {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub fn start() -> Result<Self> {
        let (jobs, queue) = channel();
        let thread = thread::Builder::new()
            .name("reaper".into())
            .spawn(move || run(&queue))
            .map_err(Error::io("start thread", "reaper"))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a directory that has no record any more.
    pub fn delete(&self, dir: PathBuf) {
        if let Some(jobs) = &self.jobs
            && jobs.send(Job::Delete(dir)).is_err()
        {
            tracing::error!("reaper thread is gone, directories stay until the next start");
        }
    }

    /// Waits until all that was queued so far is deleted.
    pub fn drain(&self) {
        let (done, wait) = channel();
        if let Some(jobs) = &self.jobs
            && jobs.send(Job::Barrier(done)).is_ok()
        {
            // An error means that the thread is gone, and with it all that there was to wait for.
            let _ = wait.recv();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Delete(dir) => match delete(&dir) {
                Ok(()) => tracing::debug!(dir = %dir.display(), "directory deleted"),
                Err(e) => tracing::warn!(dir = %dir.display(), error = %e, "cannot delete directory"),
            },
            Job::Barrier(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Deletes a tree whatever its depth; one that is gone already is no error.
fn delete(dir: &Path) -> io::Result<()> {
    match d4c_sys::remove_tree(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn deletes_a_tree_deeper_than_any_path_may_be() {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().join("7");
        fs::create_dir(&top).unwrap();
        // Grown from the bottom: a path of its full depth would be longer than PATH_MAX.
        for n in 0..3000 {
            let next = tmp.path().join("next");
            fs::create_dir(&next).unwrap();
            fs::write(next.join(format!("f{n}")), "x").unwrap();
            fs::rename(&top, next.join("d")).unwrap();
            fs::rename(&next, &top).unwrap();
        }
        let reaper = Reaper::start().unwrap();
        reaper.delete(top.clone());
        reaper.delete(tmp.path().join("never-was"));
        reaper.drain();
        assert!(!top.exists());
    }
}
