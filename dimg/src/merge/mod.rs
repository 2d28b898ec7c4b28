//! Merging deltas that follow each other into one, without any of the images: A→B and B→C give A→C.
//!
//! The edits of the layers compose (`index::edit`), and so say which contents are new, and whose recipes make them (`chains`).
//! A recipe that starts from what an earlier file makes stands behind that one's: programs become one, a patch on a stored
//! content is run, or stays as a further stage where that costs next to nothing or nothing else is possible (`plan`). Recipes that
//! nothing needs any more are gone. Frames are copied as they are unless something in them has to change, which is what makes
//! merging fast; the rest is done by worker threads (`work`) within a bound of memory, and written in an order that depends on
//! the files alone (`schedule`). In the merged file they stand in the order in which the recipes use them.
//!
//! What cannot be composed: a relocation that follows a program. Which bytes of the middle content are fields is found by scanning it, and
//! it is not there; its map speaks of its addresses; so both patches of an executable stay, four stages, together as long as the two deltas.
//!
//! Merges that are nested differently agree in layers, contents, bases and, as long as the same programs pay to be composed, in stages: edits
//! and programs compose associatively. They need not agree in every byte. A frame that nothing has to change is copied, which is why a
//! merge takes a part of a second and not minutes; so how small programs and contents are put together depends on the groups of the files
//! given, and a nested merge was given others. And a content that a middle image has and the last one has again is
//! made as for the middle one (`chains`), which only a merge that was given that delta can know.

mod chains;
mod error;
mod plan;
mod pool;
mod schedule;
#[cfg(test)]
pub(crate) mod tests;
mod work;

pub use crate::build::Progress;
pub use error::MergeError;

use crate::engine::compress::Level;
use crate::format::{Assembled, Dimg};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// How to merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// How hard to compress what is not copied.
    pub level: Level,
    /// Worker threads. The result does not depend on it.
    pub threads: NonZeroUsize,
    /// Own memory at most, in bytes, mapped files apart. Programs that cannot be composed within it stay stages.
    pub memory_bytes: u64,
    /// Where frames wait for the end, best the output's folder.
    pub dir: PathBuf,
}

/// Merges `files`, in order: each but the first starts from the image that the one before makes. Is the first a base image, so is the
/// result; else it starts from what the first starts from.
///
/// # Errors
/// A file does not follow the one before it or is damaged, a recipe would get too many stages, or the files aside cannot be written.
pub fn merge(
    files: &[&Dimg],
    options: &MergeOptions,
    progress: &mut dyn Progress,
) -> Result<Assembled, MergeError> {
    let joined = chains::join(files)?;
    let contents = &joined.edit.new_contents;
    let plan = plan::plan(files, contents, &joined.chains, options)?;
    let (mut writer, mut recipes) = schedule::run(files, contents, &joined.chains, &plan, options, progress)?;
    writer.order_by_use(&mut recipes);
    Ok(writer.finish(&joined.meta, &joined.edit, &recipes, options.level)?)
}
