//! Images that a client has imported and is about to tell containerd of.
//!
//! Until it has, nothing in containerd refers to them, and a garbage collection of another image or namespace may come
//! between. A hold keeps them; one whose client died runs out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dimg::Digest;

/// As long as the lease under which the client works.
const LONGEST: Duration = Duration::from_secs(3600);

/// Of each image, when its holds run out.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<Digest, Vec<Instant>>>);

impl Holds {
    /// Adds a hold.
    pub(super) fn take(&self, image: Digest) {
        self.lock().entry(image).or_default().push(Instant::now() + LONGEST);
    }

    /// Ends the oldest hold of an image, if there is one.
    pub(super) fn release(&self, image: Digest) {
        let mut held = self.lock();
        if let Some(ends) = held.get_mut(&image) {
            ends.remove(0);
            if ends.is_empty() {
                held.remove(&image);
            }
        }
    }

    /// Whether a hold is left.
    pub(super) fn has(&self, image: Digest) -> bool {
        let now = Instant::now();
        let mut held = self.lock();
        held.retain(|_, ends| {
            ends.retain(|end| *end > now);
            !ends.is_empty()
        });
        held.contains_key(&image)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Vec<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hold_is_released_once() {
        let (holds, image) = (Holds::default(), Digest::of(b"image"));
        holds.release(image);
        holds.take(image);
        holds.take(image);
        holds.release(image);
        assert!(holds.has(image));
        holds.release(image);
        assert!(!holds.has(image) && holds.lock().is_empty());
    }

    #[test]
    fn a_hold_runs_out() {
        let (holds, image) = (Holds::default(), Digest::of(b"image"));
        holds.lock().insert(image, vec![Instant::now()]);
        assert!(!holds.has(image));
        holds.release(image);
    }
}
