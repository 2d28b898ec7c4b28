//! The memory that a program needs of its own.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::unistd::Pid;

use crate::program::line;

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The peak of the anonymous memory in bytes: what the program allocated, without files that it mapped.
    pub peak_bytes: u64,
    /// The time from start to end.
    pub elapsed: Duration,
}

/// Runs `command`, which must succeed, and samples its anonymous memory every 5 ms. The kernel keeps a peak (`VmHWM`) only of all pages, mapped
/// files with them, so the peak is a sampled one.
///
/// # Errors
/// Fails when the command does.
pub fn measure(command: &mut Command) -> Result<Usage> {
    let begin = std::time::Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        peak_bytes = peak_bytes.max(field(&status, "RssAnon:"));
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(ended.success(), "{}: {ended}", line(command));
    Ok(Usage { peak_bytes, elapsed: begin.elapsed() })
}

/// The anonymous memory of a running process in bytes.
pub fn anonymous(pid: Pid) -> u64 {
    field(&format!("/proc/{pid}/status"), "RssAnon:")
}

fn field(status: &str, name: &str) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}
