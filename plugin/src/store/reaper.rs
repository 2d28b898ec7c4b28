//! Deletes directories on a thread of its own, so that no request waits for a large tree, and none holds a lock
//! meanwhile. What a crash leaves undeleted has no record and is found by the next sweep.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{fs, io, thread};

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
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Too many open files or too long a path: the tree is deeper than one file descriptor per level allows.
        Err(_) => delete_deep(dir),
        Ok(()) => Ok(()),
    }
}

/// Moves directories up to the top before it empties them, so that no path grows longer than two names below it.
fn delete_deep(dir: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    let mut queue = vec![dir.to_owned()];
    while let Some(current) = queue.pop() {
        for entry in fs::read_dir(&current)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            } else if current == dir {
                queue.push(entry.path());
            } else {
                let up = loop {
                    moved += 1;
                    let up = dir.join(format!(".reaped-{moved}"));
                    if fs::symlink_metadata(&up).is_err() {
                        break up;
                    }
                };
                fs::rename(entry.path(), &up)?;
                queue.push(up);
            }
        }
        if current != dir {
            fs::remove_dir(&current)?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
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
