//! An allocator that tells when there is no more memory: a program can say so and clear up, where Rust's own would abort it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

static TOLD: OnceLock<fn(usize)> = OnceLock::new();

/// The system's allocator, for `#[global_allocator]`.
#[derive(Debug)]
pub struct Telling;

/// Has `told` called with the bytes of the first allocation that fails, on the thread that wants them: by programs whose allocator is [`Telling`]. What it
/// allocates may fail, too, and it may be called again then, on any thread; the process is aborted if it returns. Only the first call counts.
pub fn when_exhausted(told: fn(usize)) {
    // Whoever was first stays.
    let _ = TOLD.set(told);
}

fn or_told(place: *mut u8, bytes: usize) -> *mut u8 {
    if place.is_null()
        && let Some(told) = TOLD.get()
    {
        told(bytes);
    }
    place
}

// SAFETY: all is done by the system's allocator, with what the caller gave.
unsafe impl GlobalAlloc for Telling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        or_told(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        or_told(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        or_told(unsafe { System.realloc(place, layout, bytes) }, bytes)
    }
}
