//! Merging deltas that follow each other into one, without any of the images: A→B and B→C give A→C.
//!
//! The edits of the layers compose (`index::edit`), and so say which contents are new, and whose recipes make them (`chains`).
//! A recipe that starts from what an earlier file makes stands behind that one's: programs become one, patches on a stored
//! content are run where that makes something small (`plan`). Recipes that nothing needs any more are gone. Work is done by worker threads
//! (`work`) within a bound of memory, and written in an order that depends on the files alone (`schedule`). In the merged file frames stand in
//! the order in which the recipes use them.
//!
//! What cannot be composed: a relocation that follows a program. Which bytes of the middle content are fields is found by scanning it, and
//! it is not there; its map speaks of its addresses; so both patches of an executable stay, four stages, together as long as the two deltas.
//! Whoever made the second had the middle content, and may have put a *fill* before the relocation: a program that makes something cheap of what
//! the rest does not look at. It is composed with the program before, as long as that is not too long to be compressed anew.
//!
//! How merges are nested changes no byte: all that is decided depends on the stages, one file's after the other's, and never on what frames they
//! came in, on estimates of their length, or on what else an earlier merge knew.
//! - Edits and programs compose associatively. Programs become one when they make as much as each other, about (small or not), which composing
//!   does not change.
//! - A fill is composed only where nothing can come to stand before the programs that it follows: behind a stage of another kind. How long these are is
//!   then the same in every nesting.
//! - Small programs are decoded and put together anew in the order of their contents; those of one content that something stands between share a
//!   frame. A large program alone is copied, or encoded by itself.
//! - A group of stored contents is copied as long as all of it is kept and nothing is made from it; else what is left of it, in the order that it
//!   had there, is a group again, and what is made from one of them stands beside it.
//!   All other frames are copied, and parameters and relocations that nothing needs any more stay in theirs.
//! - A content that an image on the way had and the next one did not is made as the last file says.
//!
//! This is so for merges at one level, and when composing stays within its bounds: enough memory (`MergeOptions`), a result at most some times
//! as long as its parts, a group that gets no longer than a frame may be. It cannot be had for a *layer* that an image on the way has, a later one
//! replaces, and the last one has again. Merging the files in between shows it by its diff ID, and then the first file alone says how it is made; who
//! merged the first files before has lost that layer's diff ID and edit and has to make it as the later files do. What comes
//! out is the same layer.

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
    let plan = plan::plan(files, &joined.chains, options)?;
    let (mut writer, mut recipes) = schedule::run(files, contents, &joined.chains, &plan, options, progress)?;
    writer.order_by_use(&mut recipes);
    Ok(writer.finish(&joined.meta, &joined.edit, &recipes, options.level)?)
}
