//! Our own deltas, whole files.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::Result;
use dimg::Digest;
use dimg::build::{BuildOptions, Codec, Side, build};
use dimg::engine::compress::Level;
use dimg::format::Assembled;

use crate::memory;
use crate::pair::{Image, Pair};
use crate::table::Measure;

/// Each level, and the default one without executable-aware and opened patches; the delta of the default level as well.
pub fn measure(pair: &Pair, threads: NonZeroUsize) -> Result<(Vec<Measure>, Option<Assembled>)> {
    let (mut results, mut default) = (Vec::new(), None);
    for (name, level, codec) in [
        ("fast", Level::Fast, Codec::Auto),
        (DEFAULT, Level::Default, Codec::Auto),
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
        let (made, memory) =
            memory::peak(|| build(Some(&side(&pair.old)), &side(&pair.new), &options, &mut ()));
        let (made, time) = (made?, start.elapsed());
        results.push(Measure {
            tool: format!("d4c {name}"),
            bytes: made.bytes(),
            time,
            memory: Some(memory),
        });
        if name == DEFAULT {
            default = Some(made);
        }
    }
    Ok((results, default))
}

const DEFAULT: &str = "default";

/// Digests of documents do not matter here.
fn side(image: &Image) -> Side<'_> {
    let none = Digest([0; 32]);
    Side { manifest: none, config: none, layers: &image.layers, contents: &image.contents }
}
