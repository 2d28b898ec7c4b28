//! `d4c push DELTA REF`: a delta into the registry that has the image that it makes.

use std::path::PathBuf;

use super::publish;
use crate::config::Config;
use crate::failure::Failure;
use crate::image::RegistryArgs;
use crate::progress::Progress;

/// Options of `push`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The delta
    #[arg(value_name = "DELTA")]
    file: PathBuf,
    /// The repository that has the image that the delta makes; a tag or digest does not matter
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pushes it, unless the repository has a delta between the two images.
///
/// # Errors
/// The file is no cdimg; the registry refuses it, or does not have the image that it makes.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let file = publish::open(&options.file)?;
    let repository = publish::repository(&options.reference, &options.registry)?;
    let progress = Progress::new(config.progress);
    let (published, pushed) = publish::put(&repository, (file, &options.file), &progress)?;
    drop(progress);
    publish::report(&repository, &published, pushed, config)
}
