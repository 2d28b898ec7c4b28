//! Which contents a file's bytes are for.

use super::{Dimg, DimgError, RecipeRow};
use crate::index::Content;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

/// Some contents that a file makes, and the bytes of frames that are for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many.
    pub contents: u64,
    /// Bytes of frames. A frame that serves several contents is shared by their sizes.
    pub bytes: u64,
    /// Bytes of the contents.
    pub made_bytes: u64,
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.contents += other.contents;
        self.bytes += other.bytes;
        self.made_bytes += other.made_bytes;
    }
}

impl Dimg {
    /// The contents that are made, by what `class` says of each. All shares together have the bytes of all frames that are named.
    ///
    /// # Errors
    /// The tables are damaged, or what `class` says.
    pub fn shares<K: Ord + Copy, E: From<DimgError>>(
        &self,
        mut class: impl FnMut(&Content, &RecipeRow) -> Result<K, E>,
    ) -> Result<BTreeMap<K, Share>, E> {
        let mut shares: BTreeMap<K, Share> = BTreeMap::new();
        let mut users: HashMap<u32, Vec<(K, u64)>> = HashMap::new();
        for (content, recipe) in self.contents()? {
            let class = class(&content, recipe)?;
            let share = shares.entry(class).or_default();
            share.contents += 1;
            share.made_bytes = share.made_bytes.saturating_add(content.size);
            for stage in recipe.stages.iter().filter(|stage| stage.codec.has_frame()) {
                users.entry(stage.frame).or_default().push((class, content.size.max(1)));
            }
        }
        // Only the first chunk of a large stored content is named by its stage.
        let mut sharing: &[(K, u64)] = &[];
        for (number, frame) in (0..).zip(self.frames()?) {
            sharing = users.get(&number).map_or(sharing, Vec::as_slice);
            let (mut sizes, mut bytes) =
                (sharing.iter().map(|&(_, size)| u128::from(size)).sum::<u128>(), frame.bytes);
            for &(class, size) in sharing {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "at most `bytes`: `size` is at most `sizes`"
                )]
                let part = (u128::from(bytes) * u128::from(size) / sizes) as u64;
                shares.entry(class).or_default().bytes += part;
                (sizes, bytes) = (sizes - u128::from(size), bytes - part);
            }
        }
        Ok(shares)
    }
}
