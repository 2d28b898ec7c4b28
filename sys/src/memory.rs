//! Memory given back to the system.

use std::num::NonZeroUsize;

/// From this size on it is worth a system call and new pages each time.
const LARGE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("not 0");

/// For a process that rests most of its time: has the allocator share as many arenas as there are processors among all threads, of which it
/// makes eight for each processor of its own accord, and give large pieces back ([`map_from`]). Call it before threads are started.
/// Nothing where the allocator has none.
pub fn rest_small() {
    map_from(LARGE_BYTES);
    #[cfg(target_env = "gnu")]
    {
        let arenas = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // SAFETY: takes numbers, and refuses what it does not know.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas.try_into().unwrap_or(i32::MAX));
        }
    }
}

/// Has the allocator map whatever takes at least `bytes` by itself and unmap it when it is freed, for a process that is to stay within
/// some memory: of its own accord it takes the largest freed mapping, up to 32 MiB, for a size better kept, and what is kept is in pieces. Costs
/// new pages for each such allocation. Nothing where the allocator does not know of it.
pub fn map_from(bytes: NonZeroUsize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers, and may be called at any time by any thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes.get().try_into().unwrap_or(i32::MAX));
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
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
