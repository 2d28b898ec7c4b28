//! `d4c merge D1 D2 [D3 …] OUT.cdimg`: deltas that follow each other as one, without any image.

use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use dimg::format::{Dimg, write_cdimg};
use dimg::merge::{MergeError, MergeOptions, merge};

use super::build::{LevelChoice, Told, finish};
use crate::beside::parent;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::OutFile;
use crate::image::Delta;
use crate::memory::MemoryArgs;
use crate::progress::{Progress, Unit};
use crate::units::parse_threads;

/// Options of `merge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The deltas, then the file to write
    #[arg(value_names = ["DELTA", "OUT.cdimg"], num_args = 1.., required = true)]
    deltas_and_out: Vec<PathBuf>,
    /// How hard to compress what is not copied
    #[arg(long, value_enum, default_value_t = LevelChoice::Default)]
    level: LevelChoice,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Worker threads; the result does not depend on it (default: all cores)
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
}

/// Writes the file: a cdimg with manifest and config of the last delta, or a dimg if that is one.
///
/// # Errors
/// The deltas do not follow each other or are damaged, or the file cannot be written; nothing is left then.
pub(crate) fn run(mut options: Options, config: &Config) -> Result<(), Failure> {
    if options.deltas_and_out.len() < 3 {
        return Err(Failure::usage("<DELTA> <DELTA>... <OUT.cdimg>", "needs more values"));
    }
    options.memory.apply();
    let out = options.deltas_and_out.pop().unwrap_or_default();
    let open = |path: &PathBuf| Delta::open(path, &config.tmpdir);
    let deltas = options.deltas_and_out.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<&Dimg> = deltas.iter().map(|delta| delta.file.dimg()).collect();
    let progress = Progress::new(config.progress);
    let mut file = OutFile::create(&out, &config.tmpdir)?;
    let merge_options = MergeOptions {
        level: options.level.level(),
        threads: options
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
        memory_bytes: options.memory.bytes(),
        dir: if file.is_file() { parent(&out).to_owned() } else { config.tmpdir.clone() },
    };
    let mut made = merge(&files, &merge_options, &mut Told(&progress))
        .map_err(|error| failure(error, &options.deltas_and_out, &out))?;
    progress.stage("write file", Unit::Bytes, 0);
    let failed = Failure::delta(&out);
    let mut writer = BufWriter::with_capacity(256 << 10, file.file());
    match deltas.last().and_then(|delta| delta.file.cdimg()) {
        Some(last) => {
            write_cdimg(last.manifest(), last.config(), &mut made, merge_options.level, &mut writer)
        }
        None => made.write_to(&mut writer),
    }
    .map_err(&failed)?;
    writer.flush().map_err(Failure::io("write file", &out))?;
    drop(writer);
    drop(progress);
    finish(file, &out, config)
}

/// Names the file that is wrong.
fn failure(error: MergeError, deltas: &[PathBuf], out: &Path) -> Failure {
    let name = |number: usize| deltas.get(number).map_or(Path::new(""), PathBuf::as_path);
    match error {
        MergeError::File { number, source } => Failure::delta(name(number))(source),
        MergeError::Base { number } => {
            let why = "a base image does not follow another file";
            Failure::new(Kind::Corrupt, "merge deltas", name(number).display(), why)
        }
        MergeError::Stages { content, stages, limit } => {
            let why = format!(
                "content {content} takes {stages} stages, above the limit of {limit}; a direct delta would be smaller"
            );
            Failure::new(Kind::NoSpace, "merge deltas", out.display(), why)
        }
        MergeError::Write(source) => Failure::delta(out)(source),
        error => Failure::new(Kind::Failed, "merge deltas", out.display(), error),
    }
}
