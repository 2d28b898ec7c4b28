//! How far a command is, on standard error.
//!
//! Counters are atomics, so that working threads add to them without waiting; a bar or a line is drawn from them by
//! a thread of its own, a few times a second or every few seconds.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use d4c_image::registry::OnBytes;
use indicatif::{ProgressBar, ProgressStyle as BarStyle};

use crate::config::ProgressStyle;
use crate::units::Bytes;

const BAR_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// What a command is doing.
#[derive(Debug)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stage: Mutex<Stage>,
    wake: Condvar,
    done: AtomicU64,
    total: AtomicU64,
}

#[derive(Debug)]
struct Stage {
    name: String,
    unit: Unit,
    ended: bool,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Layers, by number.
    Layers,
}

impl Progress {
    /// Starts to draw.
    pub(crate) fn new(style: ProgressStyle) -> Self {
        let stage = Stage { name: String::new(), unit: Unit::Bytes, ended: false };
        let shared = Arc::new(Shared {
            stage: Mutex::new(stage),
            wake: Condvar::new(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        });
        let drawer = (style != ProgressStyle::None).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("progress".into()).spawn(move || match style {
                ProgressStyle::Bar => shared.draw_bar(),
                ProgressStyle::Plain | ProgressStyle::None => shared.draw_lines(),
            })
        });
        // Without a thread to draw it, progress is only not seen.
        Self { shared, drawer: drawer.and_then(Result::ok) }
    }

    /// Begins the next stage, of `total` (0: not known) units of work.
    pub(crate) fn stage(&self, name: impl Into<String>, unit: Unit, total: u64) {
        let mut stage = self.shared.lock();
        stage.name = name.into();
        stage.unit = unit;
        self.shared.done.store(0, Relaxed);
        self.shared.total.store(total, Relaxed);
    }

    /// Adds to what is done.
    pub(crate) fn add(&self, done: u64) {
        self.shared.done.fetch_add(done, Relaxed);
    }

    /// As [`Progress::add`], for whoever outlives a borrow.
    pub(crate) fn on_bytes(&self) -> OnBytes {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |bytes| {
            shared.done.fetch_add(bytes, Relaxed);
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake.notify_all();
        if let Some(drawer) = self.drawer.take() {
            let _ = drawer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; false when all is done.
    fn wait(&self, interval: Duration) -> bool {
        let until = Instant::now() + interval;
        let mut stage = self.lock();
        while !stage.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            stage = self.wake.wait_timeout(stage, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The stage's name and how far it is.
    fn text(&self) -> (String, String) {
        let stage = self.lock();
        let shown = |number| match stage.unit {
            Unit::Bytes => Bytes(number).to_string(),
            Unit::Layers => number.to_string(),
        };
        let (done, total) = (self.done.load(Relaxed), self.total.load(Relaxed));
        let counts = match (done, total) {
            (0, 0) => String::new(),
            (_, 0) => shown(done),
            _ => format!("{} of {}", shown(done), shown(total)),
        };
        (stage.name.clone(), counts)
    }

    fn draw_bar(&self) {
        let bar = ProgressBar::new(0);
        let template = |text| BarStyle::with_template(text).unwrap_or_else(|_| BarStyle::default_bar());
        let known = template("{prefix:<22} {wide_bar} {msg:>24} {elapsed:>5}");
        let unknown = template("{prefix:<22} {spinner} {msg} {elapsed}");
        while self.wait(BAR_INTERVAL) {
            let (name, counts) = self.text();
            if name.is_empty() {
                continue;
            }
            let total = self.total.load(Relaxed);
            bar.set_style(if total == 0 { unknown.clone() } else { known.clone() });
            bar.set_prefix(name);
            bar.set_message(counts);
            bar.set_length(total);
            bar.set_position(self.done.load(Relaxed));
            bar.tick();
        }
        bar.finish_and_clear();
    }

    fn draw_lines(&self) {
        while self.wait(LINE_INTERVAL) {
            let (name, counts) = self.text();
            if !name.is_empty() {
                let colon = if counts.is_empty() { "" } else { ": " };
                drop(writeln!(std::io::stderr(), "d4c: {name}{colon}{counts}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_in_their_unit() {
        let progress = Progress::new(ProgressStyle::None);
        progress.stage("read", Unit::Bytes, 0);
        assert_eq!(progress.shared.text(), ("read".into(), String::new()));
        progress.add(2048);
        assert_eq!(progress.shared.text().1, "2.0 KiB");
        progress.stage("diff", Unit::Layers, 7);
        progress.add(3);
        assert_eq!(progress.shared.text(), ("diff".into(), "3 of 7".into()));
    }

    #[test]
    fn drawing_ends_at_once() {
        let start = Instant::now();
        drop(Progress::new(ProgressStyle::Plain));
        drop(Progress::new(ProgressStyle::Bar));
        assert!(start.elapsed() < LINE_INTERVAL);
    }
}
