//! `d4c diff OLD NEW OUT.cdimg`: the delta from one image to another.

use std::path::{Path, PathBuf};

use d4c_image::delta::{self, Published};
use d4c_image::registry::Repository;

use super::build::{self, MakeOptions};
use super::publish::{self, SCHEME};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::Opener;
use crate::progress::{Progress, Unit};

/// Options of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image that nodes have
    old: String,
    /// The image that they are to get
    new: String,
    /// The file to write; - is standard output; docker:// pushes into the repository of NEW, docker://REF into that one
    #[arg(value_name = "OUT.cdimg")]
    out: PathBuf,
    #[command(flatten)]
    make: MakeOptions,
}

/// Writes the file, or pushes the delta.
///
/// # Errors
/// An image cannot be read, or the file not be written.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.make.image, config, &progress)?;
    if let Some(rest) = options.out.to_str().and_then(|out| out.strip_prefix(SCHEME)) {
        let (repository, published, pushed) = push(rest, options, &opener, config)?;
        drop(progress);
        return publish::report(&repository, &published, pushed, config);
    }
    let (old, new) = opener.open_both(&options.old, &options.new)?;
    let new = (options.new.as_str(), &new);
    let file = build::write(Some(&old), new, &options.out, &options.make, &opener, config)?;
    drop(progress);
    build::finish(file, &options.out, config)
}

/// Makes the delta and publishes it in the repository `to`, or in that of the new image; not where the pair is there already. What the
/// repository has then, and whether it was put there now.
fn push(
    to: &str,
    options: &Options,
    opener: &Opener<'_>,
    config: &Config,
) -> Result<(Repository, Published, bool), Failure> {
    let to = match (to, options.new.strip_prefix(SCHEME)) {
        ("", Some(new)) => new,
        ("", None) => {
            return Err(Failure::usage(SCHEME, "names no repository, and the new image is not in one"));
        }
        (to, _) => to,
    };
    let repository = publish::repository(to, &options.make.image.registry)?;
    opener.progress.stage("look for deltas", Unit::Bytes, 0);
    let (source, target) = (opener.manifest_digest(&options.old)?, opener.manifest_digest(&options.new)?);
    delta::require(&repository, target)?;
    if let Some(there) = delta::find(&repository, target, Some(source))? {
        return Ok((repository, there, false));
    }
    let (old, new) = opener.open_both(&options.old, &options.new)?;
    if (old.manifest_digest, new.manifest_digest) != (source, target) {
        let why = "it became another image meanwhile";
        return Err(Failure::new(Kind::Failed, "make delta", &options.new, why));
    }
    let tmpdir = &config.tmpdir;
    let mut file = tempfile::tempfile_in(tmpdir).map_err(Failure::io("make temporary file", tmpdir))?;
    let path = Path::new("delta");
    let how = options.make.make(&options.new, tmpdir.clone());
    build::make(Some(&old), &new, how, (&mut file, path), opener)?;
    let (published, pushed) = publish::put(&repository, (file, path), opener.progress)?;
    Ok((repository, published, pushed))
}
