//! Completes pending images, and gives back contents when there is too little room, on a thread of its own, at low priority.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Importer;
use crate::error::{Error, Result};

#[derive(Debug)]
struct State {
    asked: bool,
    /// Whether contents are to be given back.
    room: bool,
    stopped: bool,
}

/// Whether there is something to complete.
#[derive(Debug)]
pub(super) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Work {
    fn default() -> Self {
        // An earlier process may have left something.
        Self { state: Mutex::new(State { asked: true, room: true, stopped: false }), changed: Condvar::new() }
    }
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for all pending images to be completed.
    pub(super) fn ask(&self) {
        self.lock().asked = true;
        self.changed.notify_all();
    }

    /// Asks for contents to be given back, as far as there are too many.
    pub(super) fn ask_room(&self) {
        let mut state = self.lock();
        if !state.room {
            state.room = true;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Whether it was asked for.
    pub(super) fn wants_room(&self) -> bool {
        self.lock().room
    }

    /// Ends all work, for good.
    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits until something is asked for, and `after` that. Whether images are to be completed, and whether room is to be made;
    /// none when it was stopped.
    fn wait(&self, after: Duration) -> Option<(bool, bool)> {
        let idle = |state: &mut State| !state.asked && !state.room && !state.stopped;
        let state = self.changed.wait_while(self.lock(), idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, after, |state| !state.stopped);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let asked = (std::mem::take(&mut state.asked), std::mem::take(&mut state.room));
        (!state.stopped).then_some(asked)
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
    /// calls `then` each time that it has nothing more to do.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(
        importer: Arc<Importer>,
        after: Option<Duration>,
        then: impl Fn() + Send + 'static,
    ) -> Result<Self> {
        let work = importer.clone();
        let run = move || {
            if let Err(error) = d4c_sys::lower_priority() {
                tracing::warn!(%error, "images are completed at the priority of all else");
            }
            while let Some((complete, room)) = work.work.wait(after.unwrap_or_default()) {
                if room {
                    work.keep_room();
                }
                if complete && after.is_some() {
                    work.finish_all();
                }
                if complete {
                    then();
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
