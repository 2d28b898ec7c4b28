//! The contents of an image being imported: made, and their tars checked.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Cursor};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use d4c_image::tar::diff_id;
use d4c_sys::on_threads;
use di3fs::store::{Job, ObjectStore, Output, StoreError};
use dimg::Digest;
use dimg::content::open_exact;
use dimg::format::{Cdimg, DimgError, Image, Recipe};
use dimg::index::{Content, LayerIndex};

/// Makes every content that `image` has a recipe for and the store lacks.
pub(super) fn make(
    objects: &ObjectStore,
    file: &Cdimg,
    image: &Image,
    workers: NonZeroUsize,
) -> Result<(), StoreError> {
    file.dimg().share_memory(Arc::clone(objects.memory()));
    let mut recipes: Vec<&Recipe> = image.recipes.values().collect();
    // Along the file, so that a group of small ones is decoded once.
    recipes.sort_unstable_by_key(|recipe| (recipe.place(), recipe.content.digest));
    let jobs: Vec<Make<'_>> =
        recipes.into_iter().map(|recipe| Make { objects, file, recipe, made: [recipe.content] }).collect();
    let jobs: Vec<&dyn Job> = jobs.iter().map(|job| job as &dyn Job).collect();
    objects.make(&jobs, workers)
}

struct Make<'a> {
    objects: &'a ObjectStore,
    file: &'a Cdimg,
    recipe: &'a Recipe,
    made: [Content; 1],
}

impl Job for Make<'_> {
    fn contents(&self) -> &[Content] {
        &self.made
    }

    fn make(&self, output: &mut Output<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let content = self.recipe.content;
        if !output.begin(&content)? {
            return Ok(());
        }
        let open = |base: &Content| {
            open_exact(self.objects, base).map_err(|error| DimgError::Make {
                content: content.digest,
                reason: format!("read its base: {error}"),
            })
        };
        let base = self.recipe.base.as_ref().map(open).transpose()?;
        let scratch_dir = self.objects.root().to_owned();
        let scratch = || tempfile::tempfile_in(&scratch_dir);
        // The output verifies what it gets.
        match self.file.dimg().make_unverified(1, self.recipe, base.as_deref(), output, &scratch) {
            // The output knows better what it could not write.
            Err(DimgError::Output(error)) => Err(error.into()),
            made => Ok(made?),
        }
    }
}

/// Why a layer's tar did not come back.
#[derive(Debug)]
pub(super) struct WrongLayer {
    why: String,
    /// A content could not be read now, which is no fault of the image.
    pub(super) is_unread: bool,
}

impl fmt::Display for WrongLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Rebuilds the tar of every layer that is `wanted` and compares it with its diff ID.
pub(super) fn check_diff_ids(
    objects: &ObjectStore,
    layers: &[Arc<LayerIndex>],
    diff_ids: &[Digest],
    wanted: &[bool],
    workers: NonZeroUsize,
) -> Result<(), WrongLayer> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (Some(layer), Some(expected)) = (layers.get(number), diff_ids.get(number)) else { break };
            if wanted.get(number) == Some(&true)
                && let Err(why) = check_diff_id(objects, layer, *expected)
            {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            }
        }
    };
    on_threads(workers.get().min(layers.len()), work);
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn check_diff_id(objects: &ObjectStore, layer: &LayerIndex, expected: Digest) -> Result<(), WrongLayer> {
    let is_unread = Cell::new(false);
    let mut open = |content: &Content| -> io::Result<Box<dyn io::Read>> {
        let opened = open_exact(objects, content).inspect_err(|_| is_unread.set(true))?;
        Ok(Box::new(Cursor::new(opened)))
    };
    let found = diff_id(layer, &mut open);
    let wrong = |why: String| WrongLayer {
        why: format!("rebuild layer {expected}: {why}"),
        is_unread: is_unread.get(),
    };
    match found {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(wrong(format!("the tar has the digest {found}"))),
        Err(error) => Err(wrong(error.to_string())),
    }
}
