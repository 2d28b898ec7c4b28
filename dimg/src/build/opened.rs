//! Contents with compressed members, bitcode and WebAssembly: kept by their opened forms where that takes less.

use super::alike::Alike;
use super::archives::{self, Archive};
use super::encode::{self, Kept, STORED_TRIAL_BYTES, Way};
use super::groups::Class;
use super::names::{Candidate, Found};
use super::{BuildOptions, Codec};
use crate::content::{Bytes, ContentSource};
use crate::engine::EngineError;
use crate::engine::compress::Level;
use crate::engine::frame::PARAMETER_GROUP_BYTES;
use crate::engine::member::{self, Plan};
use crate::format::DimgError;
use crate::index::Content;
use crate::index::edit::Place;
use d4c_sys::{Map, spawn_scoped};
use std::cell::RefCell;
use std::io::{BufWriter, Write};
use tempfile::SpooledData;

/// Contents up to this size are opened.
const MAX_CONTENT_BYTES: u64 = 64 << 20;
/// The same at the fast level: finding out who deflated a content takes as long as deflating it.
const MAX_FAST_CONTENT_BYTES: u64 = 256 << 10;
/// Opened forms up to this size are patched.
pub(super) const MAX_FORM_BYTES: u64 = 512 << 20;
/// Opened forms up to this size are held in memory, others in files without a name.
const MEMORY_FORM_BYTES: u64 = 4 << 20;
/// In contents from this size on, and of which a patch takes more than this part, deflate streams are looked for.
const LEAST_SEARCHED_BYTES: u64 = 16 << 10;
const SEARCHED_PART: u64 = 512;
/// A patch of this part of the content, or less, is not held against patching the content as it is.
const CLEARLY_SMALLER: u64 = 8;
/// The same for bitcode and `.xz`, of which two files have next to nothing in common as they are.
const CLEARLY_SMALLER_OTHERS: u64 = 2;

/// Modules up to this part of the memory are opened.
const WASM_PART: u64 = 12;
/// No patch of a module is worth looking for a smaller one.
const SMALL_PATCH_BYTES: u64 = 512;

/// How a kept opened form becomes the content.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Bytes of the opened form.
    pub(super) opened_bytes: u64,
    /// How it is packed, and what comes of that: the content comes of the last.
    pub(super) packs: Vec<Pack>,
    /// How the base is unpacked, when it is an opened form of it that is patched.
    pub(super) unpacked: Unpackings,
}

/// Each opens what the one before makes.
type Unpackings = Vec<Unpacking>;

/// An unpacking of a base, or of an opened form of it.
#[derive(Debug, Clone)]
pub(super) struct Unpacking {
    /// Bytes of the opened form.
    pub(super) opened_bytes: u64,
    pub(super) version: u32,
    /// What of it is opened, as [`Plan::open_some`] takes it; none: all.
    pub(super) places: Option<Vec<u8>>,
}

impl Packing {
    /// Bytes of all parameters.
    fn bytes(&self) -> u64 {
        let packs = self.packs.iter().map(|pack| pack.parameters.len());
        let places = self.unpacked.iter().filter_map(|unpacked| unpacked.places.as_ref()).map(Vec::len);
        packs.chain(places).sum::<usize>() as u64
    }
}

/// A packing of an opened form.
#[derive(Debug)]
pub(super) struct Pack {
    /// Who deflated what comes of it.
    pub(super) parameters: Vec<u8>,
    pub(super) version: u32,
    /// Bytes of what comes of it.
    pub(super) out_bytes: u64,
}

/// How a content is kept: itself, or its opened form.
pub(super) struct Encoded {
    pub(super) class: Class,
    pub(super) kept: Kept,
    pub(super) packing: Option<Packing>,
}

/// A content that was opened, maybe more than once.
struct Opened {
    form: Bytes,
    /// The last way of opening it first.
    packs: Vec<Pack>,
}

/// Memory that opening takes, roughly: a small form and an encoder's tables.
pub(super) const MEMORY: u64 = 2 * MEMORY_FORM_BYTES + (1 << 20);

/// Finds the smallest way to keep `content`, of which `new` are the bytes, opened or not; as [`encode::encode`].
pub(super) fn encode(
    content: &Content,
    path: &[u8],
    new: &[u8],
    found: &Found,
    parent: &Alike<'_>,
    options: &BuildOptions,
    threads: usize,
) -> Result<Encoded, DimgError> {
    let source = parent.contents;
    let as_is = || -> Result<Way, DimgError> {
        let open = |base: &Candidate| encode::open(source, &base.content);
        let like = || parent.to(path, new, &found.bases);
        encode::encode(content, new, found, &open, &like, options, threads)
    };
    let unopened = |way: Way| Encoded { class: Class::of(path, new), kept: way.kept, packing: None };
    match archives::encode(content, new, found, source, options, threads)? {
        Archive::Other => {}
        Archive::Same => return Ok(unopened(as_is()?)),
        Archive::Opened(way, packing) => {
            let bytes = way.bytes + packing.bytes();
            if bytes > content.size / CLEARLY_SMALLER {
                let rival = as_is()?;
                if rival.bytes <= bytes {
                    return Ok(unopened(rival));
                }
            }
            return Ok(Encoded { class: Class::of(path, new), kept: way.kept, packing: Some(packing) });
        }
    }
    let Some(first) = form(new, MAX_FORM_BYTES, options)? else {
        let way = as_is()?;
        if may_hide_streams(content, &way, options)
            && let Some((opened, packing)) = archives::search(content, new, found, source, options, threads)?
            && opened.bytes + packing.bytes() < way.bytes
        {
            return Ok(Encoded { class: Class::of(path, new), kept: opened.kept, packing: Some(packing) });
        }
        return Ok(unopened(way));
    };
    // The base is opened meanwhile; it is in vain where nobody is found who deflated the content.
    let (opened, first_base) = std::thread::scope(|scope| {
        let base = (threads > 1).then_some(found.bases.first()).flatten();
        let base = base
            .and_then(|base| spawn_scoped(scope, || (base.place, open_base_forms(source, base, options))));
        let opened = open_new(new, first, options, threads);
        (opened, base.and_then(|thread| thread.join().ok()))
    });
    let Some(opened) = opened? else { return Ok(unopened(as_is()?)) };
    let inside = Content { digest: content.digest, size: opened.form.len() as u64 };
    let unpacked: RefCell<Vec<(Place, Unpackings)>> = RefCell::default();
    let first_base = RefCell::new(first_base);
    let open_base = |base: &Candidate| {
        let known = first_base.take().filter(|(place, _)| *place == base.place);
        let BaseForms { mut bytes, forms } =
            known.map_or_else(|| open_base_forms(source, base, options), |(_, forms)| forms)?;
        let mut stages = Vec::new();
        for form in forms.into_iter().take(opened.packs.len()) {
            let version = member::version(&bytes);
            stages.push(Unpacking { opened_bytes: form.len() as u64, version, places: None });
            bytes = form;
        }
        unpacked.borrow_mut().push((base.place, stages));
        Ok(bytes)
    };
    let version = member::version(new);
    let mut way = encode::encode(&inside, &opened.form, found, &open_base, &|| None, options, threads)?;
    if matches!(way.kept, Kept::Stored) {
        if inside.size > STORED_TRIAL_BYTES || version == member::WASM_VERSION {
            return Ok(unopened(as_is()?));
        }
        // In a group and at a better level it takes less.
        let fast = encode::stored(&inside, &opened.form, content.size.saturating_mul(2), Level::Fast)?;
        way.bytes = fast.bytes - fast.bytes / 8;
    }
    let bytes = way.bytes + opened.packs.iter().map(|pack| pack.parameters.len() as u64).sum::<u64>();
    let is_clear = match version {
        1 => bytes <= content.size / CLEARLY_SMALLER,
        // As it is, a module is patched about as well as its opened form without moving what shifts.
        member::WASM_VERSION => way.kept.is_clear() || bytes <= SMALL_PATCH_BYTES,
        _ => bytes <= content.size / CLEARLY_SMALLER_OTHERS,
    };
    if !is_clear {
        let rival = as_is()?;
        if rival.bytes <= bytes {
            return Ok(unopened(rival));
        }
    }
    let unpacked = way.kept.base().and_then(|place| {
        unpacked.borrow().iter().find(|(known, _)| *known == place).map(|(_, stages)| stages.clone())
    });
    let unpacked = unpacked.unwrap_or_default();
    let packing = Packing { opened_bytes: inside.size, packs: opened.packs, unpacked };
    Ok(Encoded { class: class(path, &opened.form), kept: way.kept, packing: Some(packing) })
}

/// The kind of an opened content: that of what is in it.
fn class(path: &[u8], form: &[u8]) -> Class {
    if form.starts_with(b"\x7fELF") {
        return Class::of(path, form);
    }
    // Behind a header, that of gzip with a name.
    let (ending, head) =
        if member::version(form) == 3 { (".xz", member::XZ_HEAD_BYTES) } else { (".gz", 64) };
    let path = path.strip_suffix(ending.as_bytes()).unwrap_or(path);
    Class::of(path, form.get(head..).unwrap_or_default())
}

/// A base, its opened form, that one's, and so on.
struct BaseForms {
    bytes: Bytes,
    forms: Vec<Bytes>,
}

fn open_base_forms(
    source: &dyn ContentSource,
    base: &Candidate,
    options: &BuildOptions,
) -> Result<BaseForms, DimgError> {
    let bytes = encode::open(source, &base.content)?;
    let (mut forms, mut left) = (Vec::<Bytes>::new(), MAX_FORM_BYTES);
    while forms.len() < member::MAX_DEPTH
        && let Some((_, form)) = form(forms.last().unwrap_or(&bytes), left, options)?
    {
        left = left.saturating_sub(form.len() as u64);
        forms.push(form);
    }
    Ok(BaseForms { bytes, forms })
}

/// Opens a content as often as it can be packed again, from its opened form on.
fn open_new(
    new: &[u8],
    first: (Plan, Bytes),
    options: &BuildOptions,
    threads: usize,
) -> Result<Option<Opened>, DimgError> {
    let (mut opened, mut next, mut left) = (None::<Opened>, Some(first), MAX_FORM_BYTES);
    while let Some((plan, opens_to)) = next {
        let content = opened.as_ref().map_or(new, |opened| &opened.form);
        let Some(parameters) = find(&plan, &opens_to, content, threads)? else { break };
        let (version, out_bytes) = (member::version(content), content.len() as u64);
        let mut packs = opened.map(|opened| opened.packs).unwrap_or_default();
        packs.insert(0, Pack { parameters, version, out_bytes });
        left = left.saturating_sub(opens_to.len() as u64);
        next = if packs.len() < member::MAX_DEPTH { form(&opens_to, left, options)? } else { None };
        opened = Some(Opened { form: opens_to, packs });
    }
    Ok(opened)
}

/// Finds who deflated a content, if it can be packed again: that is tried.
pub(super) fn find(
    plan: &Plan,
    form: &[u8],
    content: &[u8],
    threads: usize,
) -> Result<Option<Vec<u8>>, DimgError> {
    let parameters = member::find_parameters(plan, content, form, threads)?.encode();
    let fits = parameters.len() as u64 <= PARAMETER_GROUP_BYTES / 2
        && parameters.len() < content.len() / 2
        && member::comes_back(plan, form, content);
    Ok(fits.then_some(parameters))
}

/// Whether a content that is patched so badly may have something deflated in it.
fn may_hide_streams(content: &Content, way: &Way, options: &BuildOptions) -> bool {
    options.level != Level::Fast
        && (LEAST_SEARCHED_BYTES..=MAX_CONTENT_BYTES).contains(&content.size)
        && way.bytes > content.size / SEARCHED_PART
}

/// Whether all of a zip file would be opened.
pub(super) fn may_open_whole(content: &[u8]) -> bool {
    member::may_open(content) && content.len() as u64 <= MAX_CONTENT_BYTES
}

/// The opened form of a content that is worth it, of at most so many bytes.
fn form(content: &[u8], limit: u64, options: &BuildOptions) -> Result<Option<(Plan, Bytes)>, DimgError> {
    let is_fast = options.level == Level::Fast;
    let (most, most_form) = match member::version(content) {
        1 if is_fast => (MAX_FAST_CONTENT_BYTES, limit),
        // A hundred times slower than deflating; and once more for what was deflated twice.
        3 | 5 if is_fast => (0, 0),
        3 => (MAX_CONTENT_BYTES, most_of_xz(options).min(limit)),
        // Bases are opened at a time, and each is closed once to be sure.
        member::WASM_VERSION => (MAX_CONTENT_BYTES.min(options.memory_bytes / WASM_PART), limit),
        // The opened form of a content that is not too large itself.
        5 => (limit, limit),
        _ => (MAX_CONTENT_BYTES, limit),
    };
    if options.codec != Codec::Auto || content.len() as u64 > most {
        return Ok(None);
    }
    open(content, most_form, options)
}

/// Bytes of the opened form of a `.xz` file that can be packed in a quarter of the memory.
fn most_of_xz(options: &BuildOptions) -> u64 {
    let left = (options.memory_bytes / 4).saturating_sub(member::xz_memory(0));
    left / (member::xz_memory(1) - member::xz_memory(0))
}

/// The opened form of a content, unless it has none or it is longer than `limit` bytes.
fn open(content: &[u8], limit: u64, options: &BuildOptions) -> Result<Option<(Plan, Bytes)>, DimgError> {
    if !member::may_open(content) {
        return Ok(None);
    }
    in_memory_or_file(options, |out| Plan::open(content, limit, out))
}

/// The opened form that `open` writes, which may be large.
pub(super) fn in_memory_or_file(
    options: &BuildOptions,
    open: impl FnOnce(&mut dyn Write) -> Result<Option<Plan>, EngineError>,
) -> Result<Option<(Plan, Bytes)>, DimgError> {
    let failed = |error| DimgError::io("write temporary file", &options.dir)(error);
    let memory = usize::try_from(MEMORY_FORM_BYTES).unwrap_or(0);
    let form = tempfile::spooled_tempfile_in(memory, &options.dir);
    let mut writer = BufWriter::with_capacity(256 << 10, form);
    let Some(plan) = open(&mut writer)? else { return Ok(None) };
    let form = writer.into_inner().map_err(|error| failed(error.into_error()))?;
    let form = match form.into_inner() {
        SpooledData::InMemory(form) => Bytes::from(form.into_inner()),
        SpooledData::OnDisk(file) => Bytes::new(Map::file(&file).map_err(failed)?),
    };
    Ok(Some((plan, form)))
}

/// The opened form of a content that was kept by it, after so many openings.
pub(super) fn reopen(content: &[u8], depth: usize, options: &BuildOptions) -> Result<Bytes, DimgError> {
    let mut opened: Option<Bytes> = None;
    for _ in 0..depth {
        let (_, form) = open(opened.as_deref().unwrap_or(content), MAX_FORM_BYTES, options)?
            .ok_or_else(|| DimgError::Refused("a content does not open any more".to_owned()))?;
        opened = Some(form);
    }
    opened.ok_or_else(|| DimgError::Refused("a content was not opened".to_owned()))
}
