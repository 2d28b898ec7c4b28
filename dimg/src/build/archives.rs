//! Archives of which only what changed is opened: what is the same in old and new stays deflated in both opened forms, so that nobody has to
//! inflate it, compare it and deflate it again.

use super::encode;
use super::names::{Candidate, Found};
use super::opened::{self, Pack, Packing, Unpacking};
use super::{BuildOptions, Codec};
use crate::content::{Bytes, ContentSource};
use crate::engine::compress::Level;
use crate::engine::member::{self, Deflated, Plan, Sums};
use crate::format::{DimgError, StageCodec};
use crate::index::Content;
use d4c_sys::spawn_scoped;
use std::collections::HashSet;
use std::ops::Range;

/// An archive that could be opened as a whole is opened in part if at least this part of its deflated bytes is the same as before: patches of
/// archives that were opened as a whole become one when they are merged.
const SAME_PART: u64 = 2;
/// At the fast level any is, as others are not opened, if what is new inflates to no more than the archive has, or to so many bytes: finding
/// out who deflated it takes as long as deflating it.
const FAST_BYTES: u64 = 256 << 10;

/// One of two contents, opened so far.
#[derive(Default)]
struct Side {
    /// The opened form; none: as it is.
    form: Option<Bytes>,
    /// Where zip files stand in it.
    archives: Vec<Range<usize>>,
}

/// What comes of a content.
pub(super) enum Archive {
    /// It is none, or opening it in part promises nothing.
    Other,
    /// All that is deflated is the same as before.
    Same,
    Opened(encode::Way, Packing),
}

/// Opened forms of both, and how they come about; none of the old one where nothing of it is opened.
struct Forms {
    new: Bytes,
    old: Option<Bytes>,
    packing: Packing,
}

/// The streams of both sides that the other has not.
struct Choice {
    new: Vec<Deflated>,
    old: Vec<Deflated>,
    /// Deflated bytes of the new side, and those of them that the old one has, too.
    deflated: u64,
    same: u64,
}

/// `content`, if it is a zip file, as a patch of its likeliest base, of both only opened what is not in the other.
pub(super) fn encode(
    content: &Content,
    new: &[u8],
    found: &Found,
    source: &dyn ContentSource,
    options: &BuildOptions,
    threads: usize,
) -> Result<Archive, DimgError> {
    let base = found.bases.first().filter(|_| options.codec == Codec::Auto);
    let Some(base) = base.filter(|_| member::may_hold_members(new) && content.size <= opened::MAX_FORM_BYTES)
    else {
        return Ok(Archive::Other);
    };
    let old = encode::open(source, &base.content)?;
    let choice = Choice::between(members(new), members(&old));
    if choice.new.is_empty() {
        return Ok(if choice.same > 0 { Archive::Same } else { Archive::Other });
    }
    if !choice.is_worth_it(new, options.level) {
        return Ok(Archive::Other);
    }
    let patched = patch(content, new, base, old, choice, options, threads)?;
    Ok(patched.map_or(Archive::Other, |(way, packing)| Archive::Opened(way, packing)))
}

/// What is deflated in a content that is a zip file, as far as it says so.
fn members(content: &[u8]) -> Vec<Deflated> {
    member::deflated(content, Some(0..content.len()))
}

/// The same of a content of any kind, where deflate streams are found in it and its likeliest base.
pub(super) fn search(
    content: &Content,
    new: &[u8],
    found: &Found,
    source: &dyn ContentSource,
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<(encode::Way, Packing)>, DimgError> {
    let Some(base) = found.bases.first().filter(|_| options.codec == Codec::Auto) else { return Ok(None) };
    // A program may have a zip file behind it.
    let streams = |content: &[u8]| match members(content) {
        members if members.is_empty() => member::find_streams(content),
        members => members,
    };
    let new_streams = streams(new);
    if new_streams.is_empty() {
        return Ok(None);
    }
    let old = encode::open(source, &base.content)?;
    let choice = Choice::between(new_streams, streams(&old));
    match choice.new.is_empty() || choice.old.is_empty() {
        true => Ok(None),
        false => patch(content, new, base, old, choice, options, threads),
    }
}

/// `content` as a patch of `base`, both opened by `choice`; none where one does not open, or no patch is smaller than the content.
fn patch(
    content: &Content,
    new: &[u8],
    base: &Candidate,
    old: Bytes,
    choice: Choice,
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<(encode::Way, Packing)>, DimgError> {
    let Some(forms) = open(new, &old, choice, options, threads)? else { return Ok(None) };
    let inside = Content { digest: content.digest, size: forms.new.len() as u64 };
    let old = forms.old.unwrap_or(old);
    let found = Found { bases: vec![*base], relative: None };
    let way = encode::encode(&inside, &forms.new, &found, &|_| Ok(old.clone()), &|| None, options, threads)?;
    Ok(way.kept.base().is_some().then_some((way, forms.packing)))
}

/// Opens both by `first`, and then as often as there is something to open; none if one of them does not open.
fn open(
    new: &[u8],
    old: &[u8],
    first: Choice,
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<Forms>, DimgError> {
    let (mut above, mut below, mut packing) = (Side::default(), Side::default(), Packing::default());
    let mut next = Some(first);
    while let Some(choice) = next {
        let old_form = below.form.as_deref().unwrap_or(old);
        let new_form = above.form.as_deref().unwrap_or(new);
        let Some(step) = step(new_form, old_form, &choice, options, threads)? else { break };
        packing.packs.insert(0, step.pack);
        above = step.above;
        match step.below {
            Some((side, unpacking)) => {
                packing.unpacked.push(unpacking);
                below = side;
            }
            None => below.archives.clear(),
        }
        let old_form = below.form.as_deref().unwrap_or(old);
        let new_form = above.form.as_deref().unwrap_or(new);
        next = (packing.packs.len() < member::MAX_DEPTH)
            .then(|| Choice::between(above.members(new_form), below.members(old_form)))
            .filter(|choice| choice.is_cheap(new, options.level));
    }
    packing.opened_bytes = above.form.as_ref().map_or(0, |form| form.len() as u64);
    Ok(above.form.map(|new| Forms { new, old: below.form, packing }))
}

/// Both opened once: the new one, and the old one if there is something to open in it.
struct Step {
    above: Side,
    pack: Pack,
    below: Option<(Side, Unpacking)>,
}

fn step(
    new: &[u8],
    old: &[u8],
    choice: &Choice,
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<Step>, DimgError> {
    let (opened_new, opened_old) = std::thread::scope(|scope| {
        let thread = (threads > 1).then(|| spawn_scoped(scope, || open_old(old, &choice.old, options)));
        let opened_new = open_new(new, &choice.new, options, threads);
        let opened_old = thread.flatten().and_then(|thread| thread.join().ok());
        (opened_new, opened_old.unwrap_or_else(|| open_old(old, &choice.old, options)))
    });
    Ok(match (opened_new?, opened_old?) {
        (Some((above, pack)), Some(below)) => Some(Step { above, pack, below }),
        _ => None,
    })
}

impl Side {
    /// What is deflated in its archives.
    fn members(&self, form: &[u8]) -> Vec<Deflated> {
        member::deflated(form, self.archives.iter().cloned())
    }
}

impl Choice {
    fn between(mut new: Vec<Deflated>, mut old: Vec<Deflated>) -> Self {
        let sums = |members: &[Deflated]| members.iter().map(|member| member.sums).collect::<HashSet<Sums>>();
        let (in_new, in_old) = (sums(&new), sums(&old));
        let bytes = |members: &[Deflated]| members.iter().map(|member| u64::from(member.sums.1)).sum::<u64>();
        let deflated = bytes(&new);
        new.retain(|member| !in_old.contains(&member.sums));
        old.retain(|member| !in_new.contains(&member.sums));
        let same = deflated - bytes(&new);
        Self { new, old, deflated, same }
    }

    /// Whether to open `content` by it rather than as a whole, or not at all.
    fn is_worth_it(&self, content: &[u8], level: Level) -> bool {
        let has_whole = level != Level::Fast && opened::may_open_whole(content);
        self.is_cheap(content, level) && (!has_whole || self.same.saturating_mul(SAME_PART) >= self.deflated)
    }

    /// Whether it has something for `content` that does not take too long at this level.
    fn is_cheap(&self, content: &[u8], level: Level) -> bool {
        let inflated = self.new.iter().map(|member| u64::from(member.sums.2)).sum::<u64>();
        let is_short = level != Level::Fast || inflated <= FAST_BYTES.max(content.len() as u64);
        !self.new.is_empty() && is_short
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
