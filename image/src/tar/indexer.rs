//! Gives each member its entry and its shape.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use dimg::index::{Entry, Shape};
use dimg::limits::MAX_SHAPES;

use super::block::{BLOCK, FLAG, MAGIC};
use super::build::{Kept, build};
use super::derive::{KeptPair, derive, kept_values};
use super::error::TarError;
use super::member::Member;
use super::style::Style;

/// Styles of earlier members that are tried before one is derived. Real layers have a handful; the bound is for
/// hostile ones.
const MAX_TRIED: usize = 16;

/// Key of the value that holds a content's padding when that is not zeros to the end of the block.
pub const PADDING: &[u8] = b"=padding";

/// Shapes so far, and how to find the one for a member.
#[derive(Default)]
pub struct Indexer {
    pub shapes: Vec<Shape>,
    styles: Vec<Option<Style>>,
    by_shape: HashMap<Shape, u32>,
    /// Shapes by what can be told of a member at a glance, in order of first use. That the first one that explains a
    /// member is taken, not the latest, makes an entry's shape a matter of its own bytes, not of its neighbours'.
    by_look: HashMap<u64, Vec<u32>>,
    built: Vec<u8>,
}

impl Indexer {
    /// The member's entry, all but its content's digest; `padding` is given when it is not zeros.
    pub fn add(
        &mut self,
        tar: &[u8],
        mut member: Member<'_>,
        padding: Option<&[u8]>,
    ) -> Result<Entry, TarError> {
        let padding: Option<KeptPair> = padding.map(|padding| (PADDING.into(), padding.into()));
        let look = look(tar, &member);
        if member.plain {
            let tried = self.by_look.get(&look).map(|shapes| &shapes[..shapes.len().min(MAX_TRIED)]);
            for &number in tried.unwrap_or_default() {
                let shape = &self.shapes[number as usize];
                let Some(style) = &self.styles[number as usize] else { continue };
                let Some(mut kept) = kept_values(tar, &member, style) else { continue };
                kept.extend(padding.clone());
                let same_keys = kept.iter().map(|(key, _)| key).eq(&shape.pax_keys);
                if same_keys && gives(&mut self.built, tar, &member, style, &kept) {
                    member.entry.shape = number;
                    member.entry.pax = kept.into_iter().map(|(_, value)| value).collect();
                    return Ok(member.entry);
                }
            }
            if let Some(style) = derive(tar, &member)
                && let Some(mut kept) = kept_values(tar, &member, &style)
            {
                kept.extend(padding.clone());
                if gives(&mut self.built, tar, &member, &style, &kept) {
                    return self.shaped(member, Some(style), kept, look);
                }
            }
        }
        let xattrs = member.xattrs();
        let xattrs = xattrs.into_iter().map(|record| (record.key.into(), record.value.into()));
        let kept = xattrs.chain(padding).collect();
        member.entry.raw = tar[member.start..member.data_at].into();
        self.shaped(member, None, kept, look)
    }

    fn shaped(
        &mut self,
        member: Member<'_>,
        style: Option<Style>,
        kept: Vec<KeptPair>,
        look: u64,
    ) -> Result<Entry, TarError> {
        let (pax_keys, pax): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        let shape = Shape {
            kind: member.kind,
            raw: style.is_none(),
            sparse: member.sparse,
            pax_keys,
            style: style.as_ref().map_or_else(Box::default, Style::encode),
        };
        let mut entry = member.entry;
        entry.pax = pax.into();
        if let Some(&number) = self.by_shape.get(&shape) {
            entry.shape = number;
            return Ok(entry);
        }
        if self.shapes.len() >= MAX_SHAPES {
            return Err(TarError::limit(member.start, "number of header shapes", MAX_SHAPES as u64));
        }
        entry.shape = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        self.by_shape.insert(shape.clone(), entry.shape);
        // A style that keeps fields explains members that another explains better: it is found by deriving only.
        if style.is_some() && !shape.pax_keys.iter().any(|key| key.starts_with(b"=")) {
            self.by_look.entry(look).or_default().push(entry.shape);
        }
        self.shapes.push(shape);
        self.styles.push(style);
        Ok(entry)
    }
}

/// Whether the style gives the member's very header bytes.
fn gives(built: &mut Vec<u8>, tar: &[u8], member: &Member<'_>, style: &Style, kept: &[KeptPair]) -> bool {
    let (keys, values): (Vec<_>, Vec<_>) = kept
        .iter()
        .filter(|(key, _)| **key != *PADDING)
        .map(|(key, value)| (key.clone(), value.clone()))
        .unzip();
    built.clear();
    let mut kept = Kept::new(&keys, &values);
    build(style, &member.entry, &mut kept, built).is_ok() && **built == tar[member.start..member.data_at]
}

/// What members of the same shape have in common for sure.
fn look(tar: &[u8], member: &Member<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    member.kind.hash(&mut hasher);
    for block in &member.blocks {
        let block = &tar[block.at..block.at + BLOCK];
        block[FLAG].hash(&mut hasher);
        block[MAGIC].hash(&mut hasher);
    }
    for record in &member.records {
        record.key.hash(&mut hasher);
    }
    hasher.finish()
}
