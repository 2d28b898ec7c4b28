//! `d4c diff OLD NEW OUT.cdimg`: the delta from one image to another.

use std::path::PathBuf;

use super::build::{self, MakeOptions};
use crate::config::Config;
use crate::failure::Failure;
use crate::image::Opener;
use crate::progress::Progress;

/// Options of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image that nodes have
    old: String,
    /// The image that they are to get
    new: String,
    /// The file to write; - is standard output
    #[arg(value_name = "OUT.cdimg")]
    out: PathBuf,
    #[command(flatten)]
    make: MakeOptions,
}

/// Writes the file.
///
/// # Errors
/// An image cannot be read, or the file not be written.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.make.image, config, &progress)?;
    let old = opener.open(&options.old)?;
    let new = opener.open(&options.new)?;
    build::write(Some(&old), (&options.new, &new), &options.out, &options.make, &opener, config)
}
