//! No more memory: one line, what is under a temporary name removed, status 5, where Rust aborts of its own accord.
//!
//! What fails so is an allocation, under `ulimit -v` or without overcommit, or the start of a thread, which the standard library ends with a panic that nothing
//! can catch once the system has granted the thread, and glibc by aborting the process, with a line of its own. zstd's wrapper panics, too.

use std::cell::Cell;
use std::fmt;
use std::io::{Cursor, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use crate::failure::Kind;
use crate::interrupt;

/// Given back first, so that there is something to clear up with.
const SPARE_BYTES: usize = 64 << 10;
static SPARE: Mutex<Option<Box<[u8]>>> = Mutex::new(None);

/// The program's name.
static NAME: OnceLock<&str> = OnceLock::new();

/// A thread tells it already.
static TOLD: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// And it is this one.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// How panics begin that say it, and what they are about: the standard library's where a thread gets no stack for its signals, zstd's without a context.
const PANICS: [(&str, &str); 2] = [
    ("failed to allocate an alternative stack", "start thread: its stack"),
    ("zstd returned null pointer", "allocate memory: for zstd"),
];

/// From now on a lack of memory ends the program of this name in order.
pub(crate) fn watch(name: &'static str) {
    *SPARE.lock().unwrap_or_else(PoisonError::into_inner) = Some(vec![1; SPARE_BYTES].into());
    let _ = NAME.set(name);
    d4c_sys::when_exhausted(|what| end(format_args!("allocate memory: {what}")));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let why = panic.payload_as_str().unwrap_or_default();
        match PANICS.iter().find(|(start, _)| why.starts_with(start)) {
            Some((_, what)) => end(format_args!("{what}")),
            None => usual(panic),
        }
    }));
}

/// Ends the process, unless this thread is at it already: then what it wants has to do without.
fn end(what: fmt::Arguments<'_>) {
    if TELLING.get() {
        return;
    }
    TELLING.set(true);
    if TOLD.swap(true, Ordering::Relaxed) {
        // The other thread ends this one, and may wait for what this one has locked, but not for ever.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    match SPARE.try_lock() {
        Ok(mut spare) => drop(spare.take()),
        Err(TryLockError::Poisoned(spare)) => drop(spare.into_inner().take()),
        Err(TryLockError::WouldBlock) => {}
    }
    let name = NAME.get().copied().unwrap_or_default();
    // At once: another thread may write, too.
    let mut line = Cursor::new([0; 256]);
    drop(writeln!(line, "{name}: {what}: cannot allocate memory"));
    let written = usize::try_from(line.position()).unwrap_or(0);
    drop(std::io::stderr().write_all(&line.get_ref()[..written]));
    interrupt::remove_pending();
    std::process::exit(Kind::NoSpace.exit_code().into());
}
