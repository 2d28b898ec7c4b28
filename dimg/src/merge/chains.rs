//! What the files say together: the edit from the first one's parent to the last one's target, and for every content that
//! is new the stages that make it, one file's after the other's. No frame is looked at.

use super::MergeError;
use crate::format::{
    Dimg, DimgError, FrameKind, LayerSource, Meta, RecipeRow, StageCodec, StageRow, TargetLayer,
};
use crate::index::edit::{ContentRef, LayerEdit, Lookup, Named, Place};
use crate::index::{Edit, IndexError};
use crate::limits::MAX_STAGES;
use std::collections::HashMap;

/// A stage of one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The file.
    pub file: usize,
    /// The stage in it.
    pub row: StageRow,
    /// What kind of frame it uses.
    pub kind: FrameKind,
}

/// How a content is made from what the first file's parent has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// The entry of the first file's parent that the first stage patches; none when it is stored.
    pub base: Option<Place>,
    /// At least one.
    pub links: Vec<Link>,
}

/// Stages that a chain may have before it is reduced: so many files in a row may each patch a content as often as a recipe can.
const MAX_LINKS: usize = 64 * MAX_STAGES;

/// All files as one.
pub(super) struct Joined {
    pub meta: Meta,
    pub edit: Edit,
    /// For each new content of the edit.
    pub chains: Vec<Chain>,
}

/// Joins what `files` say, which follow each other.
pub(super) fn join(files: &[&Dimg]) -> Result<Joined, MergeError> {
    let (first, rest) = files.split_first().ok_or(MergeError::Nothing)?;
    let failed = MergeError::file(0);
    let chains = own_chains(first, 0).map_err(&failed)?;
    let mut joined =
        Joined { meta: first.meta().clone(), edit: first.edit().map_err(&failed)?.clone(), chains };
    for (number, file) in (1..).zip(rest) {
        if file.parent().is_none() {
            return Err(MergeError::Base { number });
        }
        joined = follow(joined, file, number)?;
    }
    Ok(joined)
}

/// The recipes of a file as chains of its own stages.
fn own_chains(file: &Dimg, number: usize) -> Result<Vec<Chain>, DimgError> {
    let frames = file.frames()?;
    let chain = |recipe: &RecipeRow| {
        let links = recipe.stages.iter().map(|&row| {
            // That the frame is there was checked when the recipes were read.
            let kind = frames.get(row.frame as usize).map_or(FrameKind::Program, |frame| frame.kind);
            Link { file: number, row, kind }
        });
        Chain { base: recipe.base, links: links.collect() }
    };
    Ok(file.recipes()?.iter().map(chain).collect())
}

/// What was joined so far, and then `file`.
fn follow(before: Joined, file: &Dimg, number: usize) -> Result<Joined, MergeError> {
    let failed = MergeError::file(number);
    let diff_ids: Vec<_> = before.meta.target.diff_ids().collect();
    file.check_parent(&diff_ids).map_err(&failed)?;
    let edit = file.edit().map_err(&failed)?;
    // A layer that comes back is the parent's: its diff ID says so.
    let parents: HashMap<_, u32> = match &before.meta.parent {
        Some(parent) => {
            parent.layers.iter().copied().zip(0..).collect::<Vec<_>>().into_iter().rev().collect()
        }
        None => HashMap::new(),
    };
    let kept: Vec<_> = file.target().diff_ids().map(|diff_id| parents.get(&diff_id).copied()).collect();
    let index = |error: IndexError| failed(error.into());
    let composed = Edit::compose(&before.edit, edit, &kept).map_err(index)?;
    let lookup = before.edit.lookup().map_err(index)?;
    let own = own_chains(file, number).map_err(&failed)?;
    let chain = |named: Named| match named {
        Named::First(number) => before.chains.get(number as usize).cloned().ok_or("its recipe is not there"),
        Named::Second(number) => {
            let chain = own.get(number as usize).ok_or("its recipe is not there");
            chain.and_then(|chain| behind(chain, &before, &lookup))
        }
    };
    let mut chains = Vec::with_capacity(composed.named.len());
    for (named, content) in composed.named.iter().zip(&composed.edit.new_contents) {
        let made = chain(*named);
        let refused = |why: &str| failed(DimgError::Make { content: content.digest, reason: why.to_owned() });
        chains.push(made.map_err(refused)?);
    }
    let meta = meta(&before, file, &composed.edit).map_err(&failed)?;
    Ok(Joined { meta, edit: composed.edit, chains })
}

/// Two lists of stages that follow each other, without packing at the end of the first and unpacking at the start of the second: what was
/// packed has the opened form that it was packed from, and that may have been packed itself.
fn without_repacking<'a>(mut first: &'a [Link], mut second: &'a [Link]) -> (&'a [Link], &'a [Link]) {
    while let ([kept @ .., packed], [unpacked, rest @ ..]) = (first, second)
        && let Some(opened) = kept.last()
        && packed.row.codec == StageCodec::Pack
        && unpacked.row.codec == StageCodec::Unpack
        && packed.row.version == unpacked.row.version
        && opened.row.out_bytes == unpacked.row.out_bytes
    {
        (first, second) = (kept, rest);
    }
    (first, second)
}

/// A chain that starts from the middle image, from what stands before.
fn behind(chain: &Chain, before: &Joined, lookup: &Lookup<'_>) -> Result<Chain, &'static str> {
    let Some(base) = chain.base else { return Ok(chain.clone()) };
    match lookup.content(base) {
        None | Some(ContentRef::None) => Err("its base is not there"),
        Some(ContentRef::Parent(place)) => Ok(Chain { base: Some(place), links: chain.links.clone() }),
        Some(ContentRef::New(number)) => {
            let below = before.chains.get(number as usize).ok_or("its base is not there")?;
            let (first, second) = without_repacking(&below.links, &chain.links);
            if first.len() + second.len() > MAX_LINKS {
                return Err("it is patched too often; a direct delta is smaller");
            }
            Ok(Chain { base: below.base, links: [first, second].concat() })
        }
    }
}

/// Names the target of `file` as made by `edit` from the parent of what stands before.
fn meta(before: &Joined, file: &Dimg, edit: &Edit) -> Result<Meta, DimgError> {
    let corrupt =
        |number: usize, why: &str| DimgError::corrupt("section META", 0, format!("layer {number}: {why}"));
    let mut target = file.target().clone();
    for (number, (layer, made)) in target.layers.iter_mut().zip(&edit.layers).enumerate() {
        layer.source = match (made, layer.source) {
            (LayerEdit::Same(same), _) => LayerSource::Parent(*same),
            (LayerEdit::Edited(edited), source) => {
                if edited.entries() as u64 != layer.entries {
                    return Err(corrupt(number, "it has another number of entries"));
                }
                match source {
                    LayerSource::Made { .. } => source,
                    LayerSource::Parent(same) => match before.meta.target.layers.get(same as usize) {
                        Some(TargetLayer { source: made @ LayerSource::Made { .. }, .. }) => *made,
                        _ => return Err(corrupt(number, "it is another one than the parent's")),
                    },
                }
            }
        };
    }
    Ok(Meta { target, parent: before.meta.parent.clone() })
}
