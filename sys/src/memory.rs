//! Memory given back to the system.

/// Has the allocator give back what is free: many threads that were busy once leave a good deal of it. Nothing where the
/// allocator cannot.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
