//! `d4c convert SRC OUT.cdimg`: a base image, every layer kept, no parent.

use std::path::PathBuf;

use super::build::{self, MakeOptions};
use crate::config::Config;
use crate::failure::Failure;
use crate::image::Opener;
use crate::progress::Progress;

/// Options of `convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, docker://REF, containerd:REF, dir:ROOTFS
    #[arg(value_name = "SRC")]
    source: String,
    /// The file to write; - is standard output
    #[arg(value_name = "OUT.cdimg")]
    out: PathBuf,
    #[command(flatten)]
    make: MakeOptions,
}

/// Writes the file.
///
/// # Errors
/// The image cannot be read, or the file not be written.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.make.image, config, &progress)?;
    let image = opener.open(&options.source)?;
    let file = build::write(None, (&options.source, &image), &options.out, &options.make, &opener, config)?;
    drop(progress);
    build::finish(file, &options.out, config)
}
