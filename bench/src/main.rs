//! Comparisons of d4c with other delta tools on the same inputs in one run: `make bench`.
//!
//! A pair is two files or two images. Ours are whole deltas, metadata included. The others get each changed file with the
//! file at the same path before, and what has none compressed alone; their metadata counts nothing. `bsdiff + bzip2 -6` is how
//! the original D4C encodes. Inputs are read, and unpacked, before the clock starts.

#![forbid(unsafe_code)]

mod apply;
mod classes;
mod clock;
mod memory;
mod others;
mod ours;
mod pair;
mod table;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dimg::format::Share;

use classes::Class;
use pair::Pair;
use table::Row;

/// Sizes and times of d4c, bsdiff + bzip2, xdelta3 and zstd on the same pairs.
#[derive(Debug, Parser)]
#[command(name = "d4c-bench", args_override_self = true)]
struct Args {
    /// Pairs: OLD,NEW, each a file or an image source (default: all series of hack/images)
    #[arg(value_name = "OLD,NEW")]
    pairs: Vec<String>,
    /// Write the results as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure on so many cores, one after the other (default: on one, and on all)
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    cores: Vec<NonZeroUsize>,
    /// Make each of our deltas so many times, and take the least time
    #[arg(long, value_name = "N", default_value = "1")]
    tries: NonZeroUsize,
    /// Leave out xdelta3 and zstd
    #[arg(long)]
    baseline: bool,
    /// Measure only these: fast, default, best, plain, bsdiff, xdelta3, zstd (default: all); or apply: how fast contents are made
    #[arg(long, value_name = "TOOL,…", value_delimiter = ',', conflicts_with = "baseline", value_parser = TOOLS, hide_possible_values = true)]
    only: Vec<String>,
    /// For `apply`: keep deltas there, and take those from there that it has already
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What can be measured alone.
const TOOLS: [&str; 8] = ["fast", "default", "best", "plain", "bsdiff", "xdelta3", "zstd", APPLY];
const APPLY: &str = "apply";

/// Series and tags measured when no pair is given: each is in `hack/images`.
const DEFAULT: [(&str, &str, &str); 14] = [
    // Security updates, and one more module.
    ("debian-nginx", "v1", "v2"),
    ("debian-nginx", "v2", "v3"),
    // C++: a patch release and a minor one.
    ("npm-node", "v1", "v2"),
    ("npm-node", "v2", "v3"),
    // C and Fortran.
    ("pypi-numpy", "v1", "v2"),
    ("pypi-numpy", "v2", "v3"),
    // C.
    ("npm-postgres", "v1", "v2"),
    // Go.
    ("npm-esbuild", "v1", "v2"),
    ("npm-esbuild", "v2", "v3"),
    // Java.
    ("npm-closure", "v1", "v2"),
    // C++, Go and C for aarch64.
    ("npm-arm64", "v1", "v2"),
    // Rust.
    ("pypi-uv", "v1", "v2"),
    // Cython and Rust.
    ("pypi-science", "v1", "v2"),
    // C++, one library of over 500 MB.
    ("pypi-tensorflow", "v1", "v2"),
];

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("d4c-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let wanted = |tool: &str| match args.only.as_slice() {
        [] => !args.baseline || !matches!(tool, "xdelta3" | "zstd"),
        only => only.iter().any(|other| other == tool),
    };
    others::check_tools(&wanted)?;
    let cache = std::env::var("D4C_CACHE").unwrap_or_else(|_| "/var/cache/d4c".into());
    let pairs = if args.pairs.is_empty() {
        DEFAULT
            .iter()
            .map(|(series, old, new)| {
                let dir = format!("{cache}/images/{series}");
                (format!("oci:{dir}:{old}"), format!("oci:{dir}:{new}"))
            })
            .collect()
    } else {
        args.pairs.iter().map(|pair| split(pair)).collect::<Result<Vec<_>>>()?
    };
    let mut cores = args.cores;
    if cores.is_empty() {
        cores = vec![NonZeroUsize::MIN, std::thread::available_parallelism()?];
        cores.dedup();
    }

    if args.only.iter().any(|tool| tool == APPLY) {
        let mut speeds = Vec::new();
        for (old, new) in &pairs {
            let pair = Pair::open(old, new).with_context(|| format!("open pair: {old}, {new}"))?;
            let threads = std::thread::available_parallelism()?;
            speeds.push((pair.name.clone(), apply::measure(&pair, threads, args.keep.as_deref())?));
        }
        print!("{}", apply::markdown(&speeds));
        if args.only.iter().all(|tool| tool == APPLY) {
            return Ok(());
        }
        println!();
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut classes: BTreeMap<Class, Share> = BTreeMap::new();
    for (old, new) in &pairs {
        let pair = Pair::open(old, new).with_context(|| format!("open pair: {old}, {new}"))?;
        eprintln!("{}: {} changed files, {} bytes", pair.name, pair.files.len(), pair.changed_bytes());
        for (run, &threads) in cores.iter().enumerate() {
            let (mut measures, delta) = ours::measure(&pair, threads, args.tries, &wanted)?;
            measures.extend(others::measure(&pair, threads, &wanted)?);
            for measure in measures {
                let seconds = measure.time.as_secs_f64();
                let cpu = measure.processor.as_secs_f64();
                eprintln!(
                    "  {} on {threads}: {} bytes, {seconds:.2} s, cpu {cpu:.2} s",
                    measure.tool, measure.bytes
                );
                rows.push(Row { pair: pair.name.clone(), threads: threads.get(), measure });
            }
            // The same for any number of cores.
            if let Some(mut delta) = delta.filter(|_| run == 0) {
                for (class, share) in classes::shares(&mut delta, &pair.new.contents)? {
                    *classes.entry(class).or_default() += share;
                }
            }
        }
    }
    print!("{}{}", table::markdown(&rows), table::classes(&classes));
    if let Some(path) = args.json {
        std::fs::write(&path, table::json(&rows).to_string())
            .with_context(|| format!("write results: {}", path.display()))?;
    }
    Ok(())
}

fn split(pair: &str) -> Result<(String, String)> {
    match pair.split_once(',') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => bail!("command line: {pair}: a pair is OLD,NEW"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tools_that_there_are_can_be_asked_for() {
        assert!(TOOLS.iter().all(|tool| Args::try_parse_from(["d4c-bench", "--only", tool]).is_ok()));
        assert!(Args::try_parse_from(["d4c-bench", "--only", "fast,nope"]).is_err());
    }
}
