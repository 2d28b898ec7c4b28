//! From an image to others, by deltas applied one after the other.
//!
//! First all layers are made, which needs no contents; then it is known which contents the last image has and which
//! bases they need on the way: only those are made.

use std::collections::HashSet;
use std::sync::Arc;

use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::ContentSource;
use dimg::format;
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
    let mut images = Vec::with_capacity(deltas.len());
    let mut before: Option<(Vec<Digest>, Vec<Arc<LayerIndex>>)> =
        base.map(|base| (base.diff_ids(), base.indexes()));
    for delta in deltas {
        let dimg = delta.file.dimg();
        let failed = Failure::delta(&delta.path);
        let image = match (&before, dimg.parent()) {
            (Some((diff_ids, indexes)), Some(_)) => {
                dimg.check_parent(diff_ids).map_err(&failed)?;
                dimg.resolve(Some(indexes)).map_err(&failed)?
            }
            (None, Some(parent)) => {
                let why = format!("a delta from {}, which is not given", parent.manifest);
                return Err(Failure::new(Kind::NotFound, "find base", delta.path.display(), why));
            }
            (_, None) => dimg.resolve(None).map_err(&failed)?,
        };
        before = Some((dimg.target().diff_ids().collect(), image.layers.clone()));
        images.push(image);
    }
    Ok(images)
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
