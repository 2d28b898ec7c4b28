//! How much of the processors a thread gets.

use std::io;

/// Lets the calling thread run when others do not want to (nice 19), for good.
///
/// # Errors
/// Those of `setpriority`.
pub fn lower_priority() -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_can_always_step_back() {
        std::thread::spawn(|| super::lower_priority().unwrap()).join().unwrap();
    }
}
