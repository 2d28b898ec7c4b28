//! `d4c show FILE`: what is in a file, for people; `--dump` as lines to compare.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use dimg::format::{DimgError, dump};

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::Delta;
use crate::output::not_written;
use crate::report;

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file; - is standard input
    file: PathBuf,
    /// Print everything, one line each, in a form that stays the same
    #[arg(long)]
    dump: bool,
}

/// Prints the listing.
///
/// # Errors
/// The file is damaged.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let delta = Delta::open(&options.file, &config.tmpdir)?;
    if options.dump {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = dump(&delta.file, &mut out);
        let written = written.and_then(|()| out.flush().map_err(DimgError::Output));
        return written.map_err(|error| match error {
            DimgError::Output(error) => not_written(Kind::Closed)(error),
            error => Failure::delta(&delta.path)(error),
        });
    }
    let stat = report::stat(&delta)?;
    let value = report::json(&options.file, &stat)?;
    config.output.result(&value, || report::listing(&delta.path, &stat))
}
