//! An allocator that tells when there is no more memory: a program can say so and clear up, where Rust's own would abort it.

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::fmt;
use std::ptr;
use std::sync::OnceLock;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// More than the system has where glibc found no memory.
const CHECKED_BYTES: usize = 16 << 20;

static TOLD: OnceLock<fn(fmt::Arguments<'_>)> = OnceLock::new();

/// The system's allocator, for `#[global_allocator]`.
#[derive(Debug)]
pub struct Telling;

/// Has `told` called with what the first allocation that fails was for, on the thread that wants it: by programs whose allocator is [`Telling`], by
/// [`exhausted`], and where glibc aborts the process for want of memory, as it does in threads that start. What it allocates may fail, too, and it may be
/// called again then, on any thread; the process is aborted if it returns. Only the first call counts.
pub fn when_exhausted(told: fn(fmt::Arguments<'_>)) {
    // Whoever was first stays.
    let _ = TOLD.set(told);
    let action = SigAction::new(SigHandler::Handler(aborted), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler ends the process, or comes back and has it aborted. What it calls takes locks and memory, which a thread that
    // glibc aborts for want of memory does not hold; where there is memory it does nothing.
    let _ = unsafe { sigaction(Signal::SIGABRT, &action) };
}

extern "C" fn aborted(_: libc::c_int) {
    if is_exhausted()
        && let Some(told) = TOLD.get()
    {
        told(format_args!("for glibc"));
    }
}

fn is_exhausted() -> bool {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, where the system finds it a place, that nobody knows of.
    let place = unsafe { libc::mmap(ptr::null_mut(), CHECKED_BYTES, access, flags, -1, 0) };
    if place == libc::MAP_FAILED {
        return true;
    }
    // SAFETY: the same memory, all of it.
    let _ = unsafe { libc::munmap(place, CHECKED_BYTES) };
    false
}

/// For what another allocator than Rust's refused to `who`, a C library: ends the process as where Rust's own fails.
pub fn exhausted(who: &str) -> ! {
    if let Some(told) = TOLD.get() {
        told(format_args!("for {who}"));
    }
    handle_alloc_error(Layout::new::<u8>())
}

fn or_told(place: *mut u8, bytes: usize) -> *mut u8 {
    if place.is_null()
        && let Some(told) = TOLD.get()
    {
        told(format_args!("{bytes} bytes"));
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
