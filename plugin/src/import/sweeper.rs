//! Forgets unused images on a thread of its own: containerd removes snapshots with a lock held.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};

/// The thread and the way to it. Dropping it lets the sweep under way end.
#[derive(Debug)]
pub struct Sweeper {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread, which calls `sweep`.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(sweep: impl Fn() + Send + 'static) -> Result<Self> {
        // One waiting request stands for any number.
        let (wake, asked) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("sweeper".into())
            .spawn(move || asked.iter().for_each(|()| sweep()))
            .map_err(Error::io("start thread", "sweeper"))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Asks for a sweep; never blocks.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full: a sweep that begins later than now is queued already.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
