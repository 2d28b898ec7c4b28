//! `d4c patch BASE [DELTA…] DEST`: the image that deltas make, or a base file, as a root file system or an OCI layout.
//!
//! Every content is made with its digest, every diff ID is recomputed before the destination gets its name, and the
//! config is the one that the manifest names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use di3fs::checkout::{self, checkout_root};
use di3fs::tree::Tree;
use serde_json::json;

use crate::beside::{new_dir, parent};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::files::Directory;
use crate::image::{Delta, Image, ImageOptions, Opener, Place, chain, write_layout};
use crate::progress::{Progress, Unit};
use crate::units::{Bytes, counted};

/// Options of `patch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image that the first delta starts from: any source
    base: String,
    /// The deltas, if any, then the destination
    #[arg(value_names = ["DELTA", "DEST"], num_args = 1.., required = true)]
    deltas_and_dest: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
}

/// Where the image goes.
enum Dest {
    Dir(PathBuf),
    Layout(Place),
}

impl Dest {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once(':') {
            Some(("dir", "")) => Err(Failure::usage(text, "the destination has no path")),
            Some(("dir", path)) => Ok(Self::Dir(path.into())),
            Some(("oci" | "oci-archive", _)) => Place::parse(text).map(Self::Layout),
            _ => {
                let why = "not a destination; known: dir:PATH, oci:DIR[:TAG], oci-archive:FILE[:TAG]";
                Err(Failure::usage(text, why))
            }
        }
    }
}

/// Applies the deltas.
///
/// # Errors
/// The base is not the one that the first delta was made against, something is damaged, or the destination cannot be
/// written; nothing is left there then.
pub(crate) fn run(options: Options, config: &Config) -> Result<(), Failure> {
    let mut deltas = options.deltas_and_dest;
    let dest = Dest::parse(&deltas.pop().unwrap_or_default())?;
    if let Dest::Dir(path) = &dest {
        check_free(path)?;
    }
    let deltas: Vec<Delta> =
        deltas.iter().map(|path| Delta::open(Path::new(path), &config.tmpdir)).collect::<Result<_, _>>()?;
    let progress = Progress::new(config.progress);
    let opener = Opener::new(&options.image, config, &progress)?;
    let base = opener.open(&options.base)?;
    let mut image = chain::apply(Some(base), &deltas, &opener)?;
    let (mut value, text) = match dest {
        Dest::Dir(path) => {
            image.verify(&opener)?;
            let written = write_dir(&image, &path, &opener)?;
            let (entries, bytes) = (counted(written.entries, "entry"), Bytes(written.bytes));
            let value = json!({"dest": path.display().to_string(), "entries": written.entries, "bytes": written.bytes});
            (value, format!("{}: {entries}, {bytes}\n", path.display()))
        }
        Dest::Layout(place) => {
            let manifest = write_layout(&image, &place, &opener)?;
            let path = place.path;
            let value = json!({"dest": path.display().to_string(), "written_manifest": manifest.to_string()});
            (value, format!("{}: manifest {manifest}\n", path.display()))
        }
    };
    drop(progress);
    value["manifest"] = image.manifest_digest.to_string().into();
    value["config"] = image.config_digest.to_string().into();
    value["diff_ids"] = image.diff_ids().iter().map(ToString::to_string).collect::<Vec<_>>().into();
    config.output.report(&value, || text)
}

/// That nothing would be overwritten.
fn check_free(path: &Path) -> Result<(), Failure> {
    const WHAT: &str = "write tree";
    match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = parent(path);
            let meta = fs::metadata(above).map_err(Failure::io(WHAT, above))?;
            let not_dir = || Failure::new(Kind::NotFound, WHAT, above.display(), "not a directory");
            if meta.is_dir() { Ok(()) } else { Err(not_dir()) }
        }
        Err(error) => Err(Failure::io(WHAT, path)(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                let why = "there already, and not an empty directory";
                Err(Failure::new(Kind::Failed, WHAT, path.display(), why))
            }
        },
    }
}

/// Writes the root file system beside `path` and renames it there; a mount's root is written to in place.
fn write_dir(image: &Image, path: &Path, opener: &Opener<'_>) -> Result<checkout::Written, Failure> {
    opener.progress.stage("write tree", Unit::Bytes, 0);
    let tree = Tree::merge(&image.indexes())
        .map_err(|error| Failure::new(Kind::Corrupt, "lay out tree", &image.name, error))?;
    let options = checkout::Options { workers: opener.threads, sync: true };
    let device = |path| fs::metadata(path).map(|meta| meta.dev()).ok();
    if path.exists() && device(path) != device(&path.join("..")) {
        return Ok(checkout_root(&tree, &image.contents, path, &options)?);
    }
    let target = if path.exists() {
        fs::canonicalize(path).map_err(Failure::io("write tree", path))?
    } else {
        path.to_owned()
    };
    let (pending, _lock) = new_dir(&target).map_err(Failure::io("make directory", path))?;
    let whole = pending.path().join("root");
    let written = checkout_root(&tree, &image.contents, &whole, &options)?;
    let directory = Directory::open(parent(&target))?;
    fs::rename(&whole, &target).map_err(Failure::io("write tree", path))?;
    directory.sync()?;
    Ok(written)
}
