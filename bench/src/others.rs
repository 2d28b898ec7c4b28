//! Other tools, file by file, several at a time.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::clock;
use crate::pair::{Pair, write_all};
use crate::table::{BASELINE, Measure};

/// Programs, and the packages that have them.
const TOOLS: [&str; 3] = ["bzip2", "xdelta3", "zstd"];

/// Fails with the command that installs what is missing.
pub fn check_tools(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let there = |tool: &&str| {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()));
        !found
    };
    let used = |tool: &&str| wanted(if *tool == "bzip2" { "bsdiff" } else { tool });
    let missing: Vec<&str> = TOOLS.into_iter().filter(used).filter(there).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    bail!("find tools: {names}: not in PATH; install with: apt-get install {names}")
}

/// How to encode file `number` in `dir`, given whether there was one before; the size.
type Encode = fn(&Pair, usize, &Path) -> Result<u64>;

/// Each tool that is wanted.
pub fn measure(pair: &Pair, threads: NonZeroUsize, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Measure>> {
    let dir = tempfile::tempdir()?;
    let tools: [(&str, Encode); 3] =
        [(BASELINE, bsdiff), ("xdelta3 -9", xdelta), ("zstd -19 --patch-from", zstd)];
    let tools: Vec<_> =
        tools.into_iter().filter(|(name, _)| wanted(name.split(' ').next().unwrap_or(name))).collect();
    if tools.is_empty() {
        return Ok(Vec::new());
    }
    write_all(pair, dir.path())?;
    let mut results = Vec::new();
    for (name, encode) in tools {
        let (bytes, time, processor) = clock::timed(|| all(pair, dir.path(), threads, encode));
        let bytes = bytes.with_context(|| format!("run {name}"))?;
        results.push(Measure { tool: name.to_owned(), bytes, time, processor, memory: None });
    }
    Ok(results)
}

/// Encodes every file; bytes in all.
fn all(pair: &Pair, dir: &Path, threads: NonZeroUsize, encode: Encode) -> Result<u64> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<u64> {
        let mut sum = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= pair.files.len() {
                return Ok(sum);
            }
            sum += encode(pair, number, dir)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.get()).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)))
            .sum()
    })
}

/// As the original D4C: a raw bsdiff patch, or the file when it is new, through bzip2.
fn bsdiff(pair: &Pair, number: usize, dir: &Path) -> Result<u64> {
    let (old, new) = &pair.files[number];
    let input = match old {
        None => dir.join(format!("{number}.new")),
        Some(old) => {
            let mut patch = Vec::new();
            bsdiff::diff(old, new, &mut patch)?;
            let path = dir.join(format!("{number}.bsdiff"));
            std::fs::write(&path, patch)?;
            path
        }
    };
    size_of(Command::new("bzip2").arg("-6").stdin(File::open(&input)?))
}

fn xdelta(pair: &Pair, number: usize, dir: &Path) -> Result<u64> {
    let (old, new) = &pair.files[number];
    let mut command = Command::new("xdelta3");
    command.args(["-e", "-c", "-9", "-W", &window(new.len(), 16 << 10, 16 << 20)]);
    if let Some(old) = old {
        // The whole old file within reach.
        command.args(["-B", &window(old.len(), 512 << 10, 2_147_483_647), "-s"]);
        command.arg(dir.join(format!("{number}.old")));
    }
    size_of(command.arg(dir.join(format!("{number}.new"))))
}

fn window(bytes: usize, least: usize, most: usize) -> String {
    bytes.clamp(least, most).to_string()
}

fn zstd(pair: &Pair, number: usize, dir: &Path) -> Result<u64> {
    let mut command = Command::new("zstd");
    command.args(["-19", "--long=31", "-T1", "-q", "-c"]);
    if pair.files[number].0.is_some() {
        command.arg(format!("--patch-from={}", dir.join(format!("{number}.old")).display()));
    }
    size_of(command.arg(dir.join(format!("{number}.new"))))
}

/// Bytes that a program prints.
fn size_of(command: &mut Command) -> Result<u64> {
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, error.lines().next().unwrap_or_default());
    }
    Ok(output.stdout.len() as u64)
}
