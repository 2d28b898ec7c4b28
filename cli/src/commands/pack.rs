//! `d4c pack`: a dimg, a manifest and a config as one cdimg.

use std::io::Write;
use std::path::PathBuf;

use dimg::engine::compress::Level;
use dimg::limits::MAX_DOCUMENT_BYTES;

use super::build::finish;
use crate::config::Config;
use crate::failure::Failure;
use crate::files::{InFile, OutFile};
use crate::image::Delta;

/// Options of `pack`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The delta
    #[arg(long, value_name = "FILE")]
    dimg: PathBuf,
    /// The image's manifest, as the dimg names it
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// The image's config, as the manifest names it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The file to write; - is standard output
    #[arg(value_name = "OUT.cdimg")]
    out: PathBuf,
}

/// Writes the file.
///
/// # Errors
/// The parts do not belong together, or a file cannot be read or written.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let dimg = Delta::open(&options.dimg, &config.tmpdir)?;
    let [manifest, image_config] = [&options.manifest, &options.config]
        .map(|path| InFile::open(path, &config.tmpdir, &|_| Ok(MAX_DOCUMENT_BYTES)));
    let (manifest, image_config) = (manifest?.map, image_config?.map);
    let (head, data) = dimg
        .file
        .dimg()
        .with_documents(&manifest, &image_config, Level::Best)
        .map_err(Failure::delta(&options.out))?;
    let mut out = OutFile::create(&options.out, &config.tmpdir)?;
    for part in [&head[..], data] {
        out.file().write_all(part).map_err(Failure::io("write file", &options.out))?;
    }
    finish(out, &options.out, config)
}
