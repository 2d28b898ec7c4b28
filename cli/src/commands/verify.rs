//! `d4c verify FILE [--base SRC]`: structure and every checksum; where the base is there, or none is needed, every
//! content is made and every diff ID recomputed.

use std::path::PathBuf;

use serde_json::json;

use crate::config::Config;
use crate::failure::Failure;
use crate::image::chain::{Want, apply_all};
use crate::image::{Delta, ImageOptions, Opener};
use crate::progress::{Progress, Unit};
use crate::units::counted;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file; - is standard input
    file: PathBuf,
    /// The image that the file was made against: any source
    #[arg(long, value_name = "SRC")]
    base: Option<String>,
    #[command(flatten)]
    image: ImageOptions,
}

/// Checks the file.
///
/// # Errors
/// It is damaged, or not made against that base.
pub(crate) fn run(options: Options, config: &Config) -> Result<(), Failure> {
    let delta = Delta::open(&options.file, &config.tmpdir)?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.image, config, &progress)?;
    let dimg = delta.file.dimg();
    let shown = delta.path.as_path();
    let failed = Failure::delta(shown);
    let count = dimg.frames().map_err(&failed)?.len();
    dimg.recipes().map_err(&failed)?;
    progress.stage("check frames", Unit::Bytes, dimg.data_bytes());
    for number in 0..u32::try_from(count).unwrap_or(u32::MAX) {
        progress.add(dimg.frame(number).map_err(&failed)?.len() as u64);
    }
    let is_base = dimg.parent().is_none();
    let mut value = json!({"file": options.file.display().to_string(), "frames": count});
    let mut text = format!("{}: structure and {} are sound", shown.display(), counted(count, "frame"));
    if is_base || options.base.is_some() {
        let base = options.base.as_deref().map(|base| opener.open(base)).transpose()?;
        let mut image = apply_all(base, std::slice::from_ref(&delta), &opener, Want::All)?;
        image.verify(&opener)?;
        let contents = delta.file.dimg().contents().map_err(&failed)?.count();
        value["contents"] = contents.into();
        value["diff_ids"] = image.diff_ids().iter().map(ToString::to_string).collect::<Vec<_>>().into();
        let (contents, ids) = (counted(contents, "content"), counted(image.layers.len(), "diff ID"));
        text.push_str(&format!(", {contents} and {ids} are right"));
    } else {
        text.push_str("; contents are checked with --base");
    }
    text.push('\n');
    drop(progress);
    config.output.report(&value, || text)
}
