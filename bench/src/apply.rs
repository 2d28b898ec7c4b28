//! How fast contents are made from mapped bases, in process, by one thread; hashing apart.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use d4c_sys::Map;
use dimg::Hasher;
use dimg::build::Codec;
use dimg::content::{Bytes, open_exact};
use dimg::engine::compress::Level;
use dimg::format::{Dimg, Recipe, StageCodec};

use crate::clock;
use crate::ours;
use crate::pair::Pair;

/// The fastest of so many runs counts. The first one also reads the base.
const RUNS: usize = 4;
/// A run is made again until it has taken so much processor time, since clocks are coarse.
const LEAST: Duration = Duration::from_millis(200);

/// How contents are made from their bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// By programs alone, in the default delta.
    Plain,
    /// With addresses moved.
    Relocated,
    /// Opened, or behind its base.
    Other,
    /// By programs alone, in a delta that has nothing else.
    AllPlain,
    /// Nothing is made: SHA-256 of what was.
    Hashed,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Relocated => "relocated",
            Self::Other => "other patches",
            Self::AllPlain => "all plain (codec plain)",
            Self::Hashed => "SHA-256 of it all",
        })
    }
}

impl How {
    fn of(recipe: &Recipe) -> Self {
        let has = |codec| recipe.stages.iter().any(|stage| stage.codec == codec);
        if recipe.stages.iter().all(|stage| stage.codec == StageCodec::Program) {
            Self::Plain
        } else if has(StageCodec::Elf) && !has(StageCodec::Pack) {
            Self::Relocated
        } else {
            Self::Other
        }
    }
}

/// Contents made, their bytes, and processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speed {
    pub contents: u64,
    pub bytes: u64,
    pub processor: Duration,
}

/// Counts and forgets what is made.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += std::hint::black_box(bytes).len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes all patched contents of two deltas of a pair, the default one and one of programs alone. Deltas are kept in `keep`, and
/// taken from there when they are there already.
///
/// # Errors
/// A delta cannot be made, or makes something else.
pub fn measure(pair: &Pair, threads: NonZeroUsize, keep: Option<&Path>) -> Result<BTreeMap<How, Speed>> {
    let mut speeds = made(pair, &delta(pair, Codec::Auto, threads, keep)?)?;
    if let Some(speed) = made(pair, &delta(pair, Codec::Plain, threads, keep)?)?.get(&How::Plain) {
        speeds.insert(How::AllPlain, *speed);
    }
    let all: Vec<_> = pair.files.iter().map(|(_, new)| new).collect();
    let processor = fastest(|| {
        for bytes in &all {
            std::hint::black_box(digest(bytes));
        }
        Ok(())
    })?;
    let bytes = all.iter().map(|bytes| bytes.len() as u64).sum();
    speeds.insert(How::Hashed, Speed { contents: all.len() as u64, bytes, processor });
    Ok(speeds)
}

/// The delta of a pair, kept or made.
fn delta(pair: &Pair, codec: Codec, threads: NonZeroUsize, keep: Option<&Path>) -> Result<Bytes> {
    let name: String = pair.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let path = keep.map(|dir| dir.join(format!("{name}-{codec:?}.dimg")));
    if let Some(path) = path.as_ref().filter(|path| path.exists()) {
        let map = Map::path(path).with_context(|| format!("read delta: {}", path.display()))?;
        return Ok(Bytes::new(map));
    }
    let mut file = Vec::new();
    ours::delta(pair, Level::Default, codec, threads)?.write_to(&mut file)?;
    if let Some(path) = path {
        std::fs::write(&path, &file).with_context(|| format!("write delta: {}", path.display()))?;
    }
    Ok(Bytes::from(file))
}

fn made(pair: &Pair, file: &Bytes) -> Result<BTreeMap<How, Speed>> {
    let dimg = Dimg::open(file.clone())?;
    let parent: Vec<_> = pair.old.layers.iter().map(|layer| layer.index.clone()).collect();
    let image = dimg.resolve(Some(&parent))?;
    let mut recipes: BTreeMap<How, Vec<&Recipe>> = BTreeMap::new();
    for recipe in image.recipes.values().filter(|recipe| recipe.base.is_some()) {
        recipes.entry(How::of(recipe)).or_default().push(recipe);
    }
    let mut speeds: BTreeMap<How, Speed> = BTreeMap::new();
    for (how, mut chosen) in recipes {
        chosen.sort_by_key(|recipe| (recipe.place(), recipe.content.digest));
        let bytes = chosen.iter().map(|recipe| recipe.content.size).sum();
        let processor = fastest(|| {
            // Frames are decoded anew each time.
            dimg.forget_groups();
            let mut sink = Sink(0);
            for recipe in &chosen {
                let base = recipe.base.map(|base| open_exact(&pair.old.contents, &base)).transpose()?;
                dimg.make_unverified(1, recipe, base.as_deref(), &mut sink, &tempfile::tempfile)?;
            }
            anyhow::ensure!(sink.0 == bytes, "make contents: {} bytes instead of {bytes}", sink.0);
            Ok(())
        })?;
        speeds.insert(how, Speed { contents: chosen.len() as u64, bytes, processor });
    }
    Ok(speeds)
}

/// The least processor time of `work` over several runs.
fn fastest(mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let (mut times, mut all) = (0, Duration::ZERO);
        while all < LEAST {
            let (done, _, time) = clock::timed(&mut work);
            done?;
            all += time;
            times += 1;
        }
        least = least.min(all / times);
    }
    Ok(least)
}

fn digest(bytes: &[u8]) -> dimg::Digest {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// A table of them.
pub fn markdown(pairs: &[(String, BTreeMap<How, Speed>)]) -> String {
    let mut text =
        String::from("| pair | made | contents | bytes | cpu s | MB/s |\n|---|---|--:|--:|--:|--:|\n");
    for (pair, speeds) in pairs {
        for (how, Speed { contents, bytes, processor }) in speeds.iter().filter(|(_, speed)| speed.bytes > 0)
        {
            let seconds = processor.as_secs_f64();
            let rate = *bytes as f64 / 1e6 / seconds.max(1e-6);
            text += &format!("| {pair} | {how} | {contents} | {bytes} | {seconds:.3} | {rate:.0} |\n");
        }
    }
    text
}
