//! Small contents that are made together with one that somebody opens.
//!
//! Programs open small files one after the other, in the order in which they lie side by side; each time the kernel has to ask us, which
//! costs as much as making one. Patches of small contents lie together, too, in the order of their paths, and are decoded as one. So
//! whoever asks for one after the other has the next ones made at once, twice as many each time, while he waits. Who opens one here and
//! one there has nothing else made.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use dimg::Digest;
use dimg::format::Recipe;

/// As many are made at once, at most: that takes about a millisecond.
const MOST: usize = 16;
/// Contents up to this size are small.
const SMALL_BYTES: u64 = 64 << 10;

/// The small patched contents of one file.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// As they lie in the file.
    order: OnceLock<Vec<((u32, u64), Digest)>>,
    row: Mutex<Row>,
}

/// What was asked for one after the other.
#[derive(Debug, Default)]
struct Row {
    /// The place in the order behind all of it.
    end: usize,
    /// As many were made ahead last.
    count: usize,
}

fn is_small(recipe: &Recipe) -> bool {
    recipe.base.is_some() && recipe.content.size <= SMALL_BYTES
}

impl Ahead {
    /// Of `recipes`, those of the contents to be made together with `asked`.
    pub(super) fn behind<'a>(
        &self,
        asked: &Recipe,
        recipes: &'a HashMap<Digest, Recipe>,
    ) -> impl Iterator<Item = &'a Recipe> {
        let next = if is_small(asked) { self.next(asked, recipes) } else { &[] };
        next.iter().filter_map(|(_, digest)| recipes.get(digest))
    }

    fn next(&self, asked: &Recipe, recipes: &HashMap<Digest, Recipe>) -> &[((u32, u64), Digest)] {
        let order = self.order.get_or_init(|| {
            let small = recipes.values().filter(|recipe| is_small(recipe));
            let mut order: Vec<_> = small.map(|recipe| (recipe.place(), recipe.content.digest)).collect();
            order.sort_unstable();
            order
        });
        let place = asked.place();
        let Ok(at) = order.binary_search(&(place, asked.content.digest)) else { return &[] };
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        if at < row.end && at + MOST >= row.end {
            // Another reader of the same row was faster.
            return &[];
        }
        let goes_on = row.end > 0 && (row.end..row.end + MOST).contains(&at);
        row.count = if goes_on { (2 * row.count).clamp(1, MOST) } else { 0 };
        let behind = &order[at + 1..];
        let group = behind.iter().take(row.count).take_while(|((frame, _), _)| *frame == place.0).count();
        row.end = at + 1 + group;
        &behind[..group]
    }
}
