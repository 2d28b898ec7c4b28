//! `d4c stat FILE…`: files in numbers; with `--json` an object for each, one a line.

use std::path::PathBuf;

use crate::config::Config;
use crate::failure::Failure;
use crate::image::Delta;
use crate::report;

/// Options of `stat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The files; - is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Prints the numbers.
///
/// # Errors
/// A file is damaged; those before it have been printed.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    for path in &options.files {
        let delta = Delta::open(path, &config.tmpdir)?;
        let stat = report::stat(&delta)?;
        config.output.result(&report::json(path, &stat)?, || report::table(&delta.path, &stat))?;
    }
    Ok(())
}
