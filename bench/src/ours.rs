//! Our own deltas, whole files.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::Result;
use dimg::Digest;
use dimg::build::{BuildOptions, Codec, Side, build};
use dimg::engine::compress::Level;

use crate::pair::{Image, Pair};

/// Name, bytes and time of each level, and of the default one without executable-aware and opened patches.
pub fn measure(pair: &Pair, threads: NonZeroUsize) -> Result<Vec<(String, u64, Duration)>> {
    let mut results = Vec::new();
    for (name, level, codec) in [
        ("fast", Level::Fast, Codec::Auto),
        ("default", Level::Default, Codec::Auto),
        ("best", Level::Best, Codec::Auto),
        ("plain programs", Level::Default, Codec::Plain),
    ] {
        let options = BuildOptions {
            level,
            codec,
            threads,
            memory_bytes: 1 << 30,
            name: String::new(),
            dir: std::env::temp_dir(),
        };
        let start = Instant::now();
        let made = build(Some(&side(&pair.old)), &side(&pair.new), &options, &mut ())?;
        results.push((format!("d4c {name}"), made.bytes(), start.elapsed()));
    }
    Ok(results)
}

/// Digests of documents do not matter here.
fn side(image: &Image) -> Side<'_> {
    let none = Digest([0; 32]);
    Side { manifest: none, config: none, layers: &image.layers, contents: &image.contents }
}
