//! Our own deltas, whole files.

use std::num::NonZeroUsize;

use anyhow::Result;
use dimg::Digest;
use dimg::build::{BuildOptions, Codec, Side, build};
use dimg::engine::compress::Level;
use dimg::format::{Assembled, DimgError};

use crate::clock;
use crate::memory;
use crate::pair::{Image, Pair};
use crate::table::Measure;

/// Of each level, and the default one without executable-aware and opened patches, those `wanted`, the least time of so many tries; the
/// delta of the default level as well.
pub fn measure(
    pair: &Pair,
    threads: NonZeroUsize,
    tries: NonZeroUsize,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(Vec<Measure>, Option<Assembled>)> {
    let (mut results, mut default) = (Vec::new(), None);
    for (name, level, codec) in [
        ("fast", Level::Fast, Codec::Auto),
        (DEFAULT, Level::Default, Codec::Auto),
        ("best", Level::Best, Codec::Auto),
        ("plain programs", Level::Default, Codec::Plain),
    ] {
        // A word is enough to ask for it.
        if !wanted(name.split(' ').next().unwrap_or(name)) {
            continue;
        }
        let work = || delta(pair, level, codec, threads);
        let ((made, memory), mut time, mut processor) = clock::timed(|| memory::peak(work));
        let made = made?;
        for _ in 1..tries.get() {
            let (again, wall, busy) = clock::timed(work);
            again?;
            (time, processor) = (time.min(wall), processor.min(busy));
        }
        results.push(Measure {
            tool: format!("d4c {name}"),
            bytes: made.bytes(),
            time,
            processor,
            memory: Some(memory),
        });
        if name == DEFAULT {
            default = Some(made);
        }
    }
    Ok((results, default))
}

/// The delta of a pair.
pub fn delta(pair: &Pair, level: Level, codec: Codec, threads: NonZeroUsize) -> Result<Assembled, DimgError> {
    let options = BuildOptions {
        level,
        codec,
        threads,
        memory_bytes: 1 << 30,
        name: String::new(),
        dir: std::env::temp_dir(),
    };
    build(Some(&side(&pair.old)), &side(&pair.new), &options, &mut ())
}

const DEFAULT: &str = "default";

/// Digests of documents do not matter here.
fn side(image: &Image) -> Side<'_> {
    let none = Digest([0; 32]);
    Side { manifest: none, config: none, layers: &image.layers, contents: &image.contents }
}
