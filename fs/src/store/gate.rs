//! Makers and users of contents keep the remover out.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    holds: usize,
    removing: bool,
}

/// Either any number of holds, or one removal.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// While this lives no object is removed. See [`ObjectStore::hold`](super::ObjectStore::hold).
#[derive(Debug)]
pub struct Hold(Arc<Gate>);

/// While this lives no hold is given.
#[derive(Debug)]
pub(super) struct Removal<'a>(&'a Gate);

impl Gate {
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        let waited = self.changed.wait_while(self.lock(), |state| state.removing);
        waited.unwrap_or_else(PoisonError::into_inner).holds += 1;
        Hold(Arc::clone(self))
    }

    /// `None` while there are holds or another removal.
    pub(super) fn try_remove(&self) -> Option<Removal<'_>> {
        let mut state = self.lock();
        if state.holds > 0 || state.removing {
            return None;
        }
        state.removing = true;
        Some(Removal(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.lock().holds -= 1;
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.0.lock().removing = false;
        self.0.changed.notify_all();
    }
}
