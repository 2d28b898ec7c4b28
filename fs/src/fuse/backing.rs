//! Files that the kernel reads without us.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Registered files that nobody has open any more: this many are kept for the next open.
const MOST_IDLE: usize = 512;

#[derive(Debug)]
struct Backing {
    id: u32,
    opens: u64,
}

#[derive(Debug, Default)]
struct State {
    by_row: HashMap<u32, Backing>,
    /// Rows whose last open was closed, the oldest first; some may be open again or gone.
    idle: VecDeque<u32>,
}

/// The registered files of a mount. All opens of a file at a time name the same one.
#[derive(Debug)]
pub(super) struct Backings {
    device: Arc<File>,
    state: Mutex<State>,
}

impl Backings {
    pub(super) fn new(device: Arc<File>) -> Self {
        Self { device, state: Mutex::default() }
    }

    /// One more open of a row; `open` gives the file when it is not registered. The file's number.
    pub(super) fn open(&self, row: u32, open: impl FnOnce() -> io::Result<File>) -> io::Result<u32> {
        let count = |state: &mut State| {
            let backing = state.by_row.get_mut(&row)?;
            backing.opens += 1;
            Some(backing.id)
        };
        if let Some(id) = count(&mut self.lock()) {
            return Ok(id);
        }
        // May take as long as making the content: not under the lock.
        let file = open()?;
        let mut state = self.lock();
        if let Some(id) = count(&mut state) {
            return Ok(id);
        }
        let id = d4c_sys::fuse_backing_open(&*self.device, &file)?;
        state.by_row.insert(row, Backing { id, opens: 1 });
        Ok(id)
    }

    /// One open less.
    pub(super) fn release(&self, row: u32) {
        let mut state = self.lock();
        let Some(backing) = state.by_row.get_mut(&row) else { return };
        backing.opens = backing.opens.saturating_sub(1);
        if backing.opens > 0 {
            return;
        }
        state.idle.push_back(row);
        while state.idle.len() > MOST_IDLE {
            let Some(oldest) = state.idle.pop_front() else { return };
            if state.by_row.get(&oldest).is_some_and(|backing| backing.opens == 0)
                && let Some(backing) = state.by_row.remove(&oldest)
                && let Err(error) = d4c_sys::fuse_backing_close(&*self.device, backing.id)
            {
                tracing::warn!(%error, "backing file not closed");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
