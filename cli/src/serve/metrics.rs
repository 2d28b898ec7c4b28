//! Counters, as Prometheus reads them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How an answer was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// A file was there.
    Found,
    /// A delta of the registry was fetched.
    Fetched,
    /// Deltas were merged.
    Merged,
    /// It was made of the two images.
    Made,
}

impl How {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Fetched => "fetched",
            Self::Merged => "merged",
            Self::Made => "made",
        }
    }
}

/// What was done since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) requests: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) evicted: AtomicU64,
    jobs: [AtomicU64; 4],
    job_ms: [AtomicU64; 4],
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, number: u64) {
        counter.fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a job that ended.
    pub(super) fn job(&self, how: How, took: Duration) {
        Self::add(&self.jobs[how as usize], 1);
        Self::add(&self.job_ms[how as usize], u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// All of it in Prometheus' text format.
    pub(super) fn text(&self, running: usize) -> String {
        let mut text = String::new();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("requests", "Questions for a delta.", &self.requests),
            ("answers", "Questions answered with a delta.", &self.answered),
            ("refusals", "Questions refused: bad, without a login, or without an answer.", &self.refused),
            ("busy", "Questions put off because too much was being made.", &self.busy),
            ("failures", "Questions that failed on our side or the registry's.", &self.failed),
            ("sent_bytes", "Bytes of deltas in answers.", &self.bytes),
            ("evictions", "Files removed for the limit of the directory.", &self.evicted),
        ];
        for (name, help, counter) in counters {
            let name = format!("d4c_serve_{name}_total");
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", read(counter));
        }
        let name = "d4c_serve_jobs_total";
        let _ = writeln!(text, "# HELP {name} Deltas got, by how.\n# TYPE {name} counter");
        let all = [How::Found, How::Fetched, How::Merged, How::Made];
        for how in all {
            let _ = writeln!(text, "{name}{{how=\"{}\"}} {}", how.name(), read(&self.jobs[how as usize]));
        }
        let name = "d4c_serve_job_seconds_total";
        let _ = writeln!(text, "# HELP {name} Time that took.\n# TYPE {name} counter");
        for how in all {
            let ms = read(&self.job_ms[how as usize]);
            let _ = writeln!(text, "{name}{{how=\"{}\"}} {}.{:03}", how.name(), ms / 1000, ms % 1000);
        }
        let name = "d4c_serve_running";
        let _ = writeln!(
            text,
            "# HELP {name} Deltas being got or waiting.\n# TYPE {name} gauge\n{name} {running}"
        );
        text
    }
}
