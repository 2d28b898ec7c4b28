//! Comparisons of d4c with other delta tools on the same inputs in one run: `make bench`.
//!
//! A pair is two files or two images. Ours are whole deltas, metadata included. The others get each changed file with the
//! file at the same path before, and what has none compressed alone; their metadata counts nothing. `bsdiff + bzip2 -6` is how
//! the original D4C encodes. Inputs are read, and unpacked, before the clock starts.

#![forbid(unsafe_code)]

mod others;
mod ours;
mod pair;
mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use pair::Pair;
use table::Row;

/// Sizes and times of d4c, bsdiff + bzip2, xdelta3 and zstd on the same pairs.
#[derive(Debug, Parser)]
#[command(name = "d4c-bench")]
struct Args {
    /// Pairs: OLD,NEW, each a file or an image source (default: the series of hack/images.sh)
    #[arg(value_name = "OLD,NEW")]
    pairs: Vec<String>,
    /// Write the results as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure on one core only
    #[arg(long)]
    one_core: bool,
}

/// Series and tags measured when no pair is given.
const DEFAULT: [(&str, &str, &str); 4] = [
    ("debian-nginx", "v1", "v2"),
    ("debian-nginx", "v2", "v3"),
    ("npm-node", "v1", "v2"),
    ("pypi-numpy", "v1", "v2"),
];

fn main() -> Result<()> {
    let args = Args::parse();
    others::check_tools()?;
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
    let all = std::thread::available_parallelism()?;
    let mut cores = vec![NonZeroUsize::MIN];
    if all > NonZeroUsize::MIN && !args.one_core {
        cores.push(all);
    }

    let mut rows: Vec<Row> = Vec::new();
    for (old, new) in &pairs {
        let pair = Pair::open(old, new).with_context(|| format!("open pair: {old}, {new}"))?;
        eprintln!("{}: {} changed files, {} bytes", pair.name, pair.files.len(), pair.changed_bytes());
        for &threads in &cores {
            for tool in ours::measure(&pair, threads)?.into_iter().chain(others::measure(&pair, threads)?) {
                eprintln!("  {} on {threads}: {} bytes, {:.2} s", tool.0, tool.1, tool.2.as_secs_f64());
                rows.push(Row {
                    pair: pair.name.clone(),
                    tool: tool.0,
                    threads: threads.get(),
                    bytes: tool.1,
                    time: tool.2,
                });
            }
        }
    }
    print!("{}", table::markdown(&rows));
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
