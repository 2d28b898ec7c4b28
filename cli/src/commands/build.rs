//! What `convert` and `diff` share: their options, and the file that they write.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use d4c_image::source::Source;
use dimg::build::{self, BuildOptions};
use dimg::engine::compress::Level;
use dimg::format::write_cdimg;

use crate::beside::parent;
use crate::config::Config;
use crate::failure::Failure;
use crate::files::OutFile;
use crate::image::{Delta, Image, ImageOptions, Opener};
use crate::progress::{Progress, Unit};
use crate::report;
use crate::units::counted;

/// How to make a file.
#[derive(Debug, clap::Args)]
pub(super) struct MakeOptions {
    /// How hard to compress
    #[arg(long, value_enum, default_value_t = LevelChoice::Default)]
    level: LevelChoice,
    /// How changed files are patched
    #[arg(long, value_enum, default_value_t = CodecChoice::Auto)]
    codec: CodecChoice,
    /// Name for the image that load takes; by default the one that the source has for it
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    #[command(flatten)]
    pub(super) image: ImageOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LevelChoice {
    /// Seconds count more than bytes
    Fast,
    /// Small, at a few megabytes per second
    Default,
    /// As small as it gets
    Best,
}

impl LevelChoice {
    /// The engine's name for it.
    pub(super) fn level(self) -> Level {
        match self {
            Self::Fast => Level::Fast,
            Self::Default => Level::Default,
            Self::Best => Level::Best,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecChoice {
    /// Programs of our own; of executables with addresses moved, of archives opened, where that is smaller
    Auto,
    /// Programs of our own
    Plain,
    /// Those of bsdiff
    Bsdiff,
    /// None: every new content is stored whole
    Store,
}

/// The file at `out` that makes `target`, which came from `source`, from `base` or from nothing: to be given its name by [`finish`].
///
/// # Errors
/// A content cannot be read, or the file not be written; nothing is left then.
pub(super) fn write(
    base: Option<&Image>,
    (source, target): (&str, &Image),
    out: &Path,
    options: &MakeOptions,
    opener: &Opener<'_>,
    config: &Config,
) -> Result<OutFile, Failure> {
    let mut file = OutFile::create(out, &config.tmpdir)?;
    let dir = if file.is_file() { parent(out).to_owned() } else { config.tmpdir.clone() };
    make(base, target, options.make(source, dir), (file.file(), out), opener)?;
    Ok(file)
}

impl MakeOptions {
    /// How to make a file of the image that came from `source`, with what is too large for memory in `dir`.
    pub(super) fn make(&self, source: &str, dir: PathBuf) -> Make {
        Make {
            level: self.level.level(),
            codec: match self.codec {
                CodecChoice::Auto => build::Codec::Auto,
                CodecChoice::Plain => build::Codec::Plain,
                CodecChoice::Bsdiff => build::Codec::Bsdiff,
                CodecChoice::Store => build::Codec::Store,
            },
            memory_bytes: self.image.memory.bytes(),
            name: match &self.name {
                Some(name) => name.clone(),
                None => Source::parse(source).ok().and_then(|source| source.image_name()).unwrap_or_default(),
            },
            dir,
        }
    }
}

/// How to make a file, decided.
pub(crate) struct Make {
    pub(crate) level: Level,
    pub(crate) codec: build::Codec,
    pub(crate) memory_bytes: u64,
    /// Suggested to whoever loads the image.
    pub(crate) name: String,
    /// Where large temporary files go.
    pub(crate) dir: PathBuf,
}

/// Writes into `file`, which is at `out` or will be, what makes `target`, from `base` or from nothing.
///
/// # Errors
/// A content cannot be read, or the file not be written.
pub(crate) fn make(
    base: Option<&Image>,
    target: &Image,
    how: Make,
    (file, out): (&mut File, &Path),
    opener: &Opener<'_>,
) -> Result<(), Failure> {
    let documents = target.documents()?;
    let Make { level, codec, memory_bytes, name, dir } = how;
    let build_options = BuildOptions { level, codec, threads: opener.threads, memory_bytes, name, dir };
    let failed = Failure::delta(out);
    let base = base.map(Image::side);
    let mut told = Told(opener.progress);
    let mut made = build::build(base.as_ref(), &target.side(), &build_options, &mut told).map_err(&failed)?;
    opener.progress.stage("write file", Unit::Bytes, 0);
    let mut writer = BufWriter::with_capacity(256 << 10, file);
    write_cdimg(&documents.manifest, &documents.config, &mut made, level, &mut writer).map_err(&failed)?;
    writer.flush().map_err(Failure::io("write file", out))
}

/// Reads what was written once more, as every reader will, gives it its name and reports it.
///
/// # Errors
/// It cannot be read or named.
pub(super) fn finish(mut file: OutFile, out: &Path, config: &Config) -> Result<(), Failure> {
    let delta = Delta::of(file.file(), out)?;
    let stat = report::stat(&delta)?;
    let streamed = file.is_stdout();
    file.finish()?;
    if streamed {
        return Ok(());
    }
    config.output.report(&report::json(out, &stat)?, || report::line(out, &stat))
}

/// Passes the builder's progress on.
pub(crate) struct Told<'a>(pub(crate) &'a Progress);

impl build::Progress for Told<'_> {
    fn start(&mut self, contents: u64, bytes: u64) {
        self.0.stage(format!("make {}", counted(contents, "content")), Unit::Bytes, bytes);
    }

    fn advance(&mut self, _: u64, bytes: u64) {
        self.0.add(bytes);
    }
}
