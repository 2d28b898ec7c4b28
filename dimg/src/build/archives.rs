//! Archives of which only what changed is opened: what is the same in old and new stays deflated in both opened forms, so that nobody has to
//! inflate it, compare it and deflate it again.

use super::encode;
use super::names::Found;
use super::opened::{self, Pack, Packing, Unpacking};
use super::{BuildOptions, Codec};
use crate::content::{Bytes, ContentSource};
use crate::engine::compress::Level;
use crate::engine::member::{self, Deflated, Plan, Sums};
use crate::format::{DimgError, StageCodec};
use crate::index::Content;
use d4c_sys::spawn_scoped;
use std::collections::HashSet;
use std::iter;
use std::ops::Range;

/// An archive is opened in part if at least this part of its deflated bytes is the same as before: patches of archives that were opened as a
/// whole become one when they are merged.
const SAME_PART: u64 = 2;
/// At the fast level any is, as others are not opened, if what is new inflates to no more than the archive has, or to so many bytes: finding
/// out who deflated it takes as long as deflating it.
const FAST_BYTES: u64 = 256 << 10;

/// One of two contents, opened so far.
struct Side {
    /// The opened form; none: as it is.
    form: Option<Bytes>,
    /// Where zip files stand in it.
    archives: Vec<Range<usize>>,
}

/// The streams of both sides that the other has not.
struct Choice {
    new: Vec<Deflated>,
    old: Vec<Deflated>,
    /// Deflated bytes of the new side, and those of them that the old one has, too.
    deflated: u64,
    same: u64,
}

/// `content`, a zip file, as a patch of its likeliest base, of both only opened what is not in the other. None where that is not possible, or
/// promises nothing.
pub(super) fn encode(
    content: &Content,
    new: &[u8],
    found: &Found,
    source: &dyn ContentSource,
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<(encode::Way, Packing)>, DimgError> {
    let Some(base) = found.bases.first().filter(|_| options.codec == Codec::Auto) else { return Ok(None) };
    if !member::may_hold_members(new) || new.len() as u64 > opened::MAX_FORM_BYTES {
        return Ok(None);
    }
    let old = encode::open(source, &base.content)?;
    let Some((new_form, packing, old_form)) = open(new, &old, options, threads)? else { return Ok(None) };
    let inside = Content { digest: content.digest, size: new_form.len() as u64 };
    let old_form = old_form.unwrap_or(old);
    let found = Found { bases: vec![*base], relative: None };
    let way = encode::encode(&inside, &new_form, &found, &|_| Ok(old_form.clone()), options, threads)?;
    Ok(way.kept.base().is_some().then_some((way, packing)))
}

/// The opened forms of both, and how they come about.
fn open(
    new: &[u8],
    old: &[u8],
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<(Bytes, Packing, Option<Bytes>)>, DimgError> {
    let whole = |content: &[u8]| Side { form: None, archives: iter::once(0..content.len()).collect() };
    let (mut above, mut below) = (whole(new), whole(old));
    let mut packing = Packing::default();
    for depth in 0..member::MAX_DEPTH {
        let new = above.form.as_deref().unwrap_or(new);
        let old = below.form.as_deref().unwrap_or(old);
        let choice = Choice::of(new, &above, old, &below);
        if !choice.is_worth_it(new, depth, options.level) {
            break;
        }
        let (opened_new, opened_old) = std::thread::scope(|scope| {
            let thread = (threads > 1).then(|| spawn_scoped(scope, || open_old(old, &choice.old, options)));
            let opened_new = open_new(new, &choice.new, options, threads);
            let opened_old = thread.flatten().and_then(|thread| thread.join().ok());
            (opened_new, opened_old.unwrap_or_else(|| open_old(old, &choice.old, options)))
        });
        let (Some((side, pack)), Some(opened_old)) = (opened_new?, opened_old?) else { break };
        packing.packs.insert(0, pack);
        above = side;
        if let Some((side, unpacking)) = opened_old {
            packing.unpacked.push(unpacking);
            below = side;
        } else {
            below.archives.clear();
        }
    }
    let Some(form) = above.form else { return Ok(None) };
    packing.opened_bytes = form.len() as u64;
    Ok(Some((form, packing, below.form)))
}

impl Choice {
    fn of(new: &[u8], above: &Side, old: &[u8], below: &Side) -> Self {
        let mut new = member::deflated(new, above.archives.clone());
        let mut old = member::deflated(old, below.archives.clone());
        let sums = |members: &[Deflated]| members.iter().map(|member| member.sums).collect::<HashSet<Sums>>();
        let (in_new, in_old) = (sums(&new), sums(&old));
        let bytes = |members: &[Deflated]| members.iter().map(|member| u64::from(member.sums.1)).sum::<u64>();
        let deflated = bytes(&new);
        new.retain(|member| !in_old.contains(&member.sums));
        old.retain(|member| !in_new.contains(&member.sums));
        let same = deflated - bytes(&new);
        Self { new, old, deflated, same }
    }

    fn is_worth_it(&self, new: &[u8], depth: usize, level: Level) -> bool {
        if self.new.is_empty() {
            return false;
        }
        let inflated = self.new.iter().map(|member| u64::from(member.sums.2)).sum::<u64>();
        match level {
            Level::Fast => inflated <= FAST_BYTES.max(new.len() as u64),
            _ => depth > 0 || self.same.saturating_mul(SAME_PART) >= self.deflated,
        }
    }
}

/// A content opened, and how it is packed again, if that is known.
fn open_new(
    new: &[u8],
    streams: &[Deflated],
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<(Side, Pack)>, DimgError> {
    let places = member::places(new, streams.iter());
    let Some((plan, form)) = open_some(new, &places, options)? else { return Ok(None) };
    let Some(parameters) = opened::find(&plan, &form, new, threads)? else { return Ok(None) };
    let pack = Pack { parameters, version: StageCodec::PACK_SOME, out_bytes: new.len() as u64 };
    Ok(Some((Side { archives: plan.archives(&form), form: Some(form) }, pack)))
}

/// A base opened; nothing within where there is nothing to open, none where it does not open.
fn open_old(
    old: &[u8],
    streams: &[Deflated],
    options: &BuildOptions,
) -> Result<Option<Option<(Side, Unpacking)>>, DimgError> {
    if streams.is_empty() {
        return Ok(Some(None));
    }
    let places = member::places(old, streams.iter());
    let Some((plan, form)) = open_some(old, &places, options)? else { return Ok(None) };
    let unpacking = Unpacking { opened_bytes: form.len() as u64, version: 1, places: Some(places) };
    Ok(Some(Some((Side { archives: plan.archives(&form), form: Some(form) }, unpacking))))
}

fn open_some(
    content: &[u8],
    places: &[u8],
    options: &BuildOptions,
) -> Result<Option<(Plan, Bytes)>, DimgError> {
    opened::in_memory_or_file(options, |out| Plan::open_some(content, places, opened::MAX_FORM_BYTES, out))
}
