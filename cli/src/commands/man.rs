//! `d4c man DIR`: `d4c.1` and a page for each command.

use std::path::PathBuf;

use crate::args::shown;
use crate::failure::Failure;

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory to write into
    dir: PathBuf,
}

/// Writes the pages.
///
/// # Errors
/// The directory cannot be made or written.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(Failure::io("make directory", dir))?;
    clap_mangen::generate_to(shown(), dir).map_err(Failure::io("write man pages", dir))
}
