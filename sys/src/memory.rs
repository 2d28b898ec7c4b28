//! Memory given back to the system.

use std::num::NonZeroUsize;

/// Has the allocator share `count` arenas among all threads, for a process that rests most of its time: of its own accord it
/// makes eight for each processor, and each keeps what was freed in it. Call it before threads are started. Nothing where
/// the allocator has none.
pub fn share_arenas(count: NonZeroUsize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers, and refuses what it does not know.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.get().try_into().unwrap_or(i32::MAX));
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Has the allocator give back what is free: many threads that were busy once leave a good deal of it. Nothing where the
/// allocator cannot.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
