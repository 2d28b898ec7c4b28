//! From an image to others, by deltas applied one after the other.
//!
//! First all layers are made, which needs no contents; then it is known which contents the last image has and which
//! bases they need on the way: only those are made.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::ContentSource;
use dimg::format::{self, DimgError, Unchecked};
use dimg::index::LayerIndex;

use super::made::make;
use super::{Delta, Documents, Image, Opener};
use crate::failure::{Failure, Kind};

/// Which contents are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Those of the last image, and what they are made from.
    Last,
    /// All of them, to see that they can be.
    All,
}

/// The image that `deltas` make from `base`, or from nothing.
///
/// # Errors
/// As for [`apply_all`].
pub(crate) fn apply(base: Option<Image>, deltas: &[Delta], opener: &Opener<'_>) -> Result<Image, Failure> {
    apply_all(base, deltas, opener, Want::Last)
}

/// As [`apply`], and says which contents are made.
///
/// # Errors
/// A delta is damaged, or made against another image than the one before it; a content cannot be made.
pub(crate) fn apply_all(
    base: Option<Image>,
    deltas: &[Delta],
    opener: &Opener<'_>,
    want: Want,
) -> Result<Image, Failure> {
    let Some(last) = deltas.last() else {
        return base.ok_or_else(|| Failure::usage("image", "neither a base nor a delta is given"));
    };
    let images = resolve(base.as_ref(), deltas)?;
    let wanted = wanted(&images, want);

    let (mut contents, verified) = base.map(|base| (base.contents, base.verified)).unwrap_or_default();
    for ((delta, image), wanted) in deltas.iter().zip(&images).zip(&wanted) {
        let made = make(delta, &image.recipes, wanted, &contents, opener)?;
        contents.push(Arc::new(made) as Arc<dyn ContentSource>);
    }
    let target = last.file.dimg().target();
    let layers = images.last().map(|image| image.layers.as_slice()).unwrap_or_default();
    let layers = target.layers.iter().zip(layers).map(|(layer, index)| SideLayer {
        diff_id: layer.diff_id,
        tar_bytes: layer.tar_bytes,
        index: Arc::clone(index),
    });
    Ok(Image {
        name: last.path.display().to_string(),
        manifest_digest: target.manifest,
        config_digest: target.config,
        documents: last
            .file
            .cdimg()
            .map(|cdimg| Documents { manifest: cdimg.manifest().to_vec(), config: cdimg.config().to_vec() }),
        layers: layers.collect(),
        contents,
        verified,
    })
}

/// The image that each delta makes.
///
/// # Errors
/// A delta is damaged, or made against another image than the one before it.
pub(crate) fn resolve(base: Option<&Image>, deltas: &[Delta]) -> Result<Vec<format::Image>, Failure> {
    let (images, checks) = resolve_meanwhile(base, deltas)?;
    checks.join()?;
    Ok(images)
}

/// As [`resolve`], but that the layers are those that the files name is still being checked, on other threads: nothing may
/// come of the images before the end of that.
///
/// # Errors
/// As for [`resolve`].
pub(crate) fn resolve_meanwhile(
    base: Option<&Image>,
    deltas: &[Delta],
) -> Result<(Vec<format::Image>, Checks), Failure> {
    let mut images = Vec::with_capacity(deltas.len());
    let mut checks = Checks::default();
    let mut before: Option<(Vec<Digest>, Vec<Arc<LayerIndex>>)> =
        base.map(|base| (base.diff_ids(), base.indexes()));
    for delta in deltas {
        let resolved = match resolve_one(delta, before.as_ref()) {
            Ok(resolved) => resolved,
            // A wrong layer before it is the reason.
            Err(failure) => return Err(checks.join().err().unwrap_or(failure)),
        };
        let (image, check) = resolved;
        checks.start(&delta.path, check);
        before = Some((delta.file.dimg().target().diff_ids().collect(), image.layers.clone()));
        images.push(image);
    }
    Ok((images, checks))
}

fn resolve_one(
    delta: &Delta,
    before: Option<&(Vec<Digest>, Vec<Arc<LayerIndex>>)>,
) -> Result<(format::Image, Unchecked), Failure> {
    let dimg = delta.file.dimg();
    let failed = Failure::delta(&delta.path);
    match (before, dimg.parent()) {
        (Some((diff_ids, indexes)), Some(_)) => {
            dimg.check_parent(diff_ids).map_err(&failed)?;
            dimg.resolve_unchecked(Some(indexes)).map_err(&failed)
        }
        (None, Some(parent)) => {
            let why = format!("a delta from {}, which is not given", parent.manifest);
            Err(Failure::new(Kind::NotFound, "find base", delta.path.display(), why))
        }
        (_, None) => dimg.resolve_unchecked(None).map_err(&failed),
    }
}

/// Checks under way.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

/// One of a file. Without a thread it is yet to be done.
#[derive(Debug)]
struct Check {
    path: PathBuf,
    what: Arc<Unchecked>,
    thread: Option<JoinHandle<Result<(), DimgError>>>,
}

impl Checks {
    fn start(&mut self, path: &Path, check: Unchecked) {
        let what = Arc::new(check);
        let there = Arc::clone(&what);
        // A thread that is refused is done without.
        let thread = thread::Builder::new().spawn(move || there.run()).ok();
        self.0.push(Check { path: path.to_owned(), what, thread });
    }

    /// Waits for their end.
    ///
    /// # Errors
    /// Layers are not those that a file names.
    pub(crate) fn join(self) -> Result<(), Failure> {
        for check in self.0 {
            let came = match check.thread.map(JoinHandle::join) {
                Some(Ok(came)) => came,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => check.what.run(),
            };
            came.map_err(Failure::delta(&check.path))?;
        }
        Ok(())
    }
}

/// The contents that each delta has to make.
fn wanted(images: &[format::Image], want: Want) -> Vec<HashSet<Digest>> {
    if want == Want::All {
        return images.iter().map(|image| image.recipes.keys().copied().collect()).collect();
    }
    let layers = images.last().map(|image| image.layers.as_slice()).unwrap_or_default();
    let mut needed: HashSet<Digest> =
        layers.iter().flat_map(|layer| layer.contents()).map(|content| content.digest).collect();
    let mut wanted = Vec::with_capacity(images.len());
    for image in images.iter().rev() {
        let made: HashSet<Digest> =
            needed.iter().copied().filter(|digest| image.recipes.contains_key(digest)).collect();
        for digest in &made {
            needed.remove(digest);
        }
        let bases = made.iter().filter_map(|digest| image.recipes.get(digest)?.base);
        needed.extend(bases.map(|content| content.digest));
        wanted.push(made);
    }
    wanted.reverse();
    wanted
}
