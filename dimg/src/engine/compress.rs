//! Codecs for a blob of bytes whose raw length is known, and their streaming decoder.
//!
//! | tag | codec | stored bytes |
//! |---|---|---|
//! | 0 | raw | the bytes |
//! | 1 | zstd | one zstd frame |
//! | 2 | LZMA2 | one byte with the dictionary size as in `.xz` (at most 24: 16 MiB), then raw LZMA2 chunks and their end mark |
//! | 3 | LZMA | the one chunk of such a stream without what its length tells: one byte (pb * 5 + lp) * 9 + lc, then the chunk without its first byte, 0 |
//!
//! lc, lp and pb stand in the LZMA2 chunks, so an encoder chooses them freely. A decoder needs memory for the dictionary or window,
//! which the caller caps, and a fixed rest. The raw length is a promise: one byte more or less is an error.

use super::error::EngineError;
use d4c_sys::{Lzma2, lzma2_after};
use liblzma::stream::{Action, Filters, LzmaOptions, MatchFinder, Mode, Status, Stream};
use std::fmt;
use std::io::{self, Read, Write};
use zstd::stream::raw::{CParameter, DParameter, InBuffer, Operation, OutBuffer};

/// The largest dictionary or window of any blob, as a power of two: 16 MiB.
pub const MAX_WINDOW_LOG: u32 = 24;

const MIN_WINDOW_LOG: u32 = 12;

/// Up to this length the default level tries both zstd and LZMA2.
const TRY_BOTH_BYTES: u64 = 16 << 10;

/// From this length on zstd looks first whether there is anything for LZMA2 to do.
const LOOK_BYTES: u64 = 64 << 10;

/// Bytes of which zstd saves less than this part are compressed already.
const DENSE_PART: u64 = 256;

/// Bytes of a stored chunk of LZMA2, at most.
const BASE_CHUNK_BYTES: usize = 64 << 10;

/// How hard to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Seconds count more than bytes.
    Fast,
    /// Small, at a few megabytes per second.
    #[default]
    Default,
    /// As small as it gets.
    Best,
}

/// How a blob is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
    /// A dictionary size byte and raw LZMA2.
    Lzma2,
    /// The only chunk of LZMA2, bare.
    Lzma,
}

impl Codec {
    /// The tag in the format.
    #[must_use]
    pub fn tag(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Lzma2 => 2,
            Self::Lzma => 3,
        }
    }

    /// The codec of a tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lzma2),
            3 => Some(Self::Lzma),
            _ => None,
        }
    }

    /// The name that listings show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Lzma2 => "lzma2",
            Self::Lzma => "lzma",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A compressed blob, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// How it is stored.
    pub codec: Codec,
    /// The length of what it decodes to.
    pub raw_bytes: u64,
    /// The stored bytes.
    pub stored: Vec<u8>,
}

/// What the bytes are like, for the parameters of LZMA2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers as varints: no alignment, little context.
    Numbers,
    /// Bytes with no alignment: differences, text.
    Bytes,
    /// Contents of files, which may be executables and tables.
    Content,
}

/// Compresses the concatenation of `parts` with a window of at most `2^window_log` bytes.
///
/// # Errors
/// [`EngineError::Compress`] when a compressor fails; a lack of memory ends the process ([`d4c_sys::exhausted`]).
pub fn pack(parts: &[&[u8]], kind: Kind, level: Level, window_log: u32) -> Result<Packed, EngineError> {
    pack_trying(kind.contexts(), parts, kind, level, window_log)
}

/// As [`pack`]; the best level tries these contexts.
fn pack_trying(
    contexts: &[(u32, u32, u32)],
    parts: &[&[u8]],
    kind: Kind,
    level: Level,
    window_log: u32,
) -> Result<Packed, EngineError> {
    let raw_bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let window_log = window_log.min(MAX_WINDOW_LOG).min(log_of(raw_bytes)).max(MIN_WINDOW_LOG);
    let mut best: Option<(Codec, Vec<u8>)> = None;
    let mut offer = |mut codec: Codec, mut stored: Vec<u8>| {
        if codec == Codec::Lzma2
            && let Some(bare) = bare(&stored, 0xe0)
        {
            (codec, stored) = (Codec::Lzma, bare);
        }
        let smallest = best.as_ref().map_or(raw_bytes, |(_, bytes)| bytes.len() as u64);
        if (stored.len() as u64) < smallest {
            best = Some((codec, stored));
        }
    };
    if raw_bytes > 4 {
        match level {
            Level::Fast => offer(Codec::Zstd, zstd_pack(parts, raw_bytes, 3, window_log)?),
            Level::Default => {
                if raw_bytes <= TRY_BOTH_BYTES {
                    offer(Codec::Zstd, zstd_pack(parts, raw_bytes, 19, window_log)?);
                }
                if kind != Kind::Content || !is_dense(&[], parts, raw_bytes)? {
                    let options = lzma_options(kind, level, window_log, kind.usual_contexts(parts))?;
                    offer(Codec::Lzma2, lzma_pack(parts, &options, window_log)?);
                }
            }
            Level::Best => {
                offer(Codec::Zstd, zstd_pack(parts, raw_bytes, 22, window_log)?);
                for &contexts in contexts {
                    offer(
                        Codec::Lzma2,
                        lzma_pack(parts, &lzma_options(kind, level, window_log, contexts)?, window_log)?,
                    );
                }
            }
        }
    }
    let (codec, stored) = best.unwrap_or_else(|| (Codec::Raw, parts.concat()));
    Ok(Packed { codec, raw_bytes, stored })
}

/// Compresses some bytes of unknown kind, a few KiB, with all that there is: the smallest.
///
/// # Errors
/// As for [`pack`].
pub fn pack_smallest(bytes: &[u8], window_log: u32) -> Result<Packed, EngineError> {
    // Those of numbers, then those of bytes that are not among them: for the best level, kinds differ in nothing else.
    const CONTEXTS: [(u32, u32, u32); 5] = [(1, 0, 0), (3, 0, 0), (0, 0, 0), (0, 2, 2), (4, 0, 0)];
    pack_trying(&CONTEXTS, &[bytes], Kind::Numbers, Level::Best, window_log)
}

/// An upper bound of the memory that [`pack`] takes beside its output.
#[must_use]
pub fn pack_memory(raw_bytes: u64, level: Level, window_log: u32) -> u64 {
    let window = 1u64 << window_log.min(MAX_WINDOW_LOG).min(log_of(raw_bytes)).max(MIN_WINDOW_LOG);
    match level {
        Level::Fast => (4 << 20) + 2 * window.min(4 << 20),
        Level::Default | Level::Best => (2 << 20) + 12 * window,
    }
}

fn log_of(bytes: u64) -> u32 {
    64 - bytes.saturating_sub(1).leading_zeros()
}

/// (lc, lp, pb) for text.
const TEXT_CONTEXTS: (u32, u32, u32) = (3, 0, 0);

/// Bytes by which text is told.
const TEXT_LOOK_BYTES: usize = 64 << 10;

/// Whether the first bytes of the parts, taken together, have no zero among them: nothing in them is aligned.
fn is_text(parts: &[&[u8]]) -> bool {
    let mut left = TEXT_LOOK_BYTES;
    parts.iter().all(|part| {
        let looked = &part[..part.len().min(left)];
        left -= looked.len();
        !looked.contains(&0)
    })
}

impl Kind {
    /// (lc, lp, pb) for these bytes when only one is tried.
    fn usual_contexts(self, parts: &[&[u8]]) -> (u32, u32, u32) {
        match self {
            Self::Content if is_text(parts) => TEXT_CONTEXTS,
            _ => self.contexts()[0],
        }
    }

    /// (lc, lp, pb) to try, the usual best first.
    fn contexts(self) -> &'static [(u32, u32, u32)] {
        match self {
            Self::Numbers => &[(1, 0, 0), (3, 0, 0), (0, 0, 0), (0, 2, 2)],
            Self::Bytes => &[(3, 0, 0), (0, 0, 0), (4, 0, 0), (1, 0, 0)],
            Self::Content => &[(3, 0, 2), TEXT_CONTEXTS, (4, 0, 0), (1, 2, 2)],
        }
    }
}

fn lzma_options(
    kind: Kind,
    level: Level,
    window_log: u32,
    (lc, lp, pb): (u32, u32, u32),
) -> Result<LzmaOptions, EngineError> {
    let mut options = LzmaOptions::new_preset(6).map_err(liblzma_error)?;
    options
        .dict_size(1 << window_log)
        .mode(Mode::Normal)
        .match_finder(MatchFinder::BinaryTree4)
        .literal_context_bits(lc)
        .literal_position_bits(lp)
        .position_bits(pb)
        .nice_len(nice_length(kind, level))
        .depth(depth(level));
    Ok(options)
}

/// A match of so many bytes is taken as it is.
fn nice_length(kind: Kind, level: Level) -> u32 {
    match (level, kind) {
        (Level::Best, _) => 273,
        // 64 takes more time; bytes differ by -0.03 to +0.09 % (uv, node, postgres, scientific wheels).
        (_, Kind::Content) => 32,
        (_, Kind::Numbers | Kind::Bytes) => 128,
    }
}

/// How far a match is looked for; 0: as liblzma finds good.
fn depth(level: Level) -> u32 {
    if level == Level::Best { 1024 } else { 0 }
}

fn lzma_pack(parts: &[&[u8]], options: &LzmaOptions, window_log: u32) -> Result<Vec<u8>, EngineError> {
    let mut filters = Filters::new();
    filters.lzma2(options);
    let mut stream = Stream::new_raw_encoder(&filters).map_err(liblzma_error)?;
    let mut out = vec![dictionary_property(window_log)?];
    for &part in parts {
        lzma_feed(&mut stream, part, &mut out)?;
    }
    lzma_flush(&mut stream, Action::Finish, &mut out)?;
    Ok(out)
}

/// What the stream `lzma2` of one chunk that starts with `control` is without its frame; none of any other.
fn bare(lzma2: &[u8], control: u8) -> Option<Vec<u8>> {
    let [_, first, _, _, high, low, property, 0, rest @ .., 0] = lzma2 else { return None };
    let chunk_bytes = (usize::from(*high) << 8 | usize::from(*low)) + 1;
    (first & 0xe0 == control && chunk_bytes == rest.len() + 1).then(|| [&[*property], rest].concat())
}

/// What [`bare`] took away in front of a chunk of `stored_bytes` bytes that makes `raw_bytes`; none of one that LZMA2 cannot have.
fn chunk_head(raw_bytes: u64, stored: &[u8], control: u8) -> Option<[u8; 7]> {
    let raw = u32::try_from(raw_bytes.checked_sub(1)?).ok().filter(|raw| raw >> 21 == 0)?;
    let [bottom, middle, top, _] = raw.to_le_bytes();
    let [low, high] = u16::try_from(stored.len().checked_sub(1)?).ok()?.to_le_bytes();
    Some([control | top, middle, bottom, high, low, *stored.first()?, 0])
}

/// An even dictionary size property d means 2^(d / 2 + 12) bytes.
fn dictionary_property(window_log: u32) -> Result<u8, EngineError> {
    u8::try_from(2 * (window_log - MIN_WINDOW_LOG)).map_err(|_| lzma_error("dictionary size"))
}

fn lzma_feed(stream: &mut Stream, part: &[u8], out: &mut Vec<u8>) -> Result<(), EngineError> {
    let start = stream.total_in();
    loop {
        let done = usize::try_from(stream.total_in() - start).map_err(lzma_error)?;
        if done == part.len() {
            return Ok(());
        }
        out.reserve(32 << 10);
        stream.process_vec(&part[done..], out, Action::Run).map_err(liblzma_error)?;
    }
}

fn lzma_flush(stream: &mut Stream, action: Action, out: &mut Vec<u8>) -> Result<(), EngineError> {
    loop {
        out.reserve(32 << 10);
        if stream.process_vec(&[], out, action).map_err(liblzma_error)? == Status::StreamEnd {
            return Ok(());
        }
    }
}

/// The window that holds `base` and `content` both; none when there is no such.
fn window_after(base_bytes: u64, raw_bytes: u64) -> Option<u32> {
    let log = log_of(base_bytes.checked_add(raw_bytes)?).max(MIN_WINDOW_LOG);
    (log <= MAX_WINDOW_LOG).then_some(log)
}

/// A base that has so many times the bytes of the content is most of the work: what liblzma does for each of its bytes has to be cheap.
const CHAINED_RATIO: usize = 8;
/// Looks for a match then: more than liblzma finds good, as only the content's bytes are looked for.
const CHAINED_DEPTH: u32 = 96;

/// Compresses `content` with LZMA2 whose dictionary holds `base` already, for [`Decoder::after`]; none when there is no window
/// for both, or nothing to compress. Goes through the base once, which takes a third of what compressing it would.
///
/// # Errors
/// As [`pack`].
pub fn pack_after(base: &[u8], content: &[u8], level: Level) -> Result<Option<Packed>, EngineError> {
    let raw_bytes = content.len() as u64;
    let Some(window_log) = window_after(base.len() as u64, raw_bytes) else { return Ok(None) };
    if base.is_empty() || content.is_empty() {
        return Ok(None);
    }
    if level != Level::Best && is_dense(base, &[content], raw_bytes)? {
        return Ok(None);
    }
    let chains = level != Level::Best && base.len() / CHAINED_RATIO >= content.len();
    let how = Lzma2 {
        dictionary_bytes: 1 << window_log,
        contexts: Kind::Content.usual_contexts(&[content]),
        nice_length: nice_length(Kind::Content, level),
        depth: if chains { CHAINED_DEPTH } else { depth(level) },
        chains,
    };
    let mut out = lzma2_after(base, content, &how).map_err(lzma_error)?;
    // Stored chunks alone say no more than the content itself.
    let mut at = 0;
    while let [1 | 2, high, low, ..] = out[at..] {
        at += 4 + (usize::from(high) << 8 | usize::from(low));
    }
    if !matches!(out.get(at), Some(0xc0..=0xdf)) {
        return Ok(None);
    }
    out.insert(0, dictionary_property(window_log)?);
    Ok(Some(Packed { codec: Codec::Lzma2, raw_bytes, stored: out }))
}

/// As [`pack_after`], the only chunk bare, for [`Decoder::bare_after`]; none also when there are several.
///
/// # Errors
/// As for [`pack_after`].
pub fn pack_bare_after(base: &[u8], content: &[u8], level: Level) -> Result<Option<Packed>, EngineError> {
    let Some(packed) = pack_after(base, content, level)? else { return Ok(None) };
    let stored = bare(&packed.stored, 0xc0);
    Ok(stored.map(|stored| Packed { codec: Codec::Lzma, stored, ..packed }))
}

/// Whether all values of bytes are about as frequent in the parts, as in what is compressed: two bytes taken at random are the same one time
/// in 252 at most.
fn is_even(parts: &[&[u8]], raw_bytes: u64) -> bool {
    let mut counts = [0u64; 256];
    parts.iter().flat_map(|part| part.iter()).for_each(|byte| counts[usize::from(*byte)] += 1);
    let same: u128 = counts.iter().map(|count| u128::from(*count) * u128::from(*count)).sum();
    same * 252 <= u128::from(raw_bytes) * u128::from(raw_bytes)
}

/// Whether zstd at its fastest makes next to nothing of the parts behind `base`: LZMA2 would go through all of them in vain.
fn is_dense(base: &[u8], parts: &[&[u8]], raw_bytes: u64) -> Result<bool, EngineError> {
    if raw_bytes < LOOK_BYTES || !is_even(parts, raw_bytes) {
        return Ok(false);
    }
    let run = || -> io::Result<u64> {
        let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Count(0), 1, base)?;
        encoder.long_distance_matching(true)?;
        encoder.set_parameter(CParameter::WindowLog(MAX_WINDOW_LOG))?;
        encoder.set_pledged_src_size(Some(raw_bytes))?;
        for part in parts {
            encoder.write_all(part)?;
        }
        Ok(encoder.finish()?.0)
    };
    Ok(run().map_err(zstd_error)? > raw_bytes - raw_bytes / DENSE_PART)
}

/// Counts what is written to it.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn zstd_pack(parts: &[&[u8]], raw_bytes: u64, level: i32, window_log: u32) -> Result<Vec<u8>, EngineError> {
    let run = || -> io::Result<Vec<u8>> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
        encoder.set_parameter(CParameter::WindowLog(window_log))?;
        encoder.set_parameter(CParameter::ContentSizeFlag(false))?;
        encoder.set_parameter(CParameter::ChecksumFlag(false))?;
        encoder.set_pledged_src_size(Some(raw_bytes))?;
        for part in parts {
            encoder.write_all(part)?;
        }
        encoder.finish()
    };
    run().map_err(zstd_error)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn zstd_error(error: io::Error) -> EngineError {
    EngineError::Compress { codec: "zstd", reason: zstd_reason(&error) }
}

/// What zstd says, unless that is a lack of memory, which ends the process as any other.
fn zstd_reason(error: &io::Error) -> String {
    const MEMORY_ALLOCATION: usize = 64;
    let reason = error.to_string();
    if reason == zstd::zstd_safe::get_error_name(MEMORY_ALLOCATION.wrapping_neg()) {
        d4c_sys::exhausted("zstd");
    }
    reason
}

fn liblzma_error(error: liblzma::stream::Error) -> EngineError {
    lzma_error(or_exhausted(error))
}

/// What liblzma says, unless that is a lack of memory, which ends the process as any other.
fn or_exhausted(error: liblzma::stream::Error) -> liblzma::stream::Error {
    if error == liblzma::stream::Error::Mem {
        d4c_sys::exhausted("liblzma");
    }
    error
}

fn lzma_error(error: impl fmt::Display) -> EngineError {
    EngineError::Compress { codec: "lzma2", reason: error.to_string() }
}

/// Decodes a blob: reads give exactly the promised number of bytes, or an error of kind [`io::ErrorKind::InvalidData`].
pub struct Decoder<'a> {
    input: &'a [u8],
    remaining: u64,
    engine: Engine,
}

enum Engine {
    Raw,
    Zstd(Box<zstd::stream::raw::Decoder<'static>>),
    Lzma2(Box<Stream>),
    /// A chunk whose head was read; the end mark comes when the input has ended.
    Lzma(Box<Stream>),
    /// Everything was read and the end checked, or decoding failed.
    Done(Option<&'static str>),
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

impl<'a> Decoder<'a> {
    /// Starts decoding `stored` to `raw_bytes` bytes with a dictionary or window of at most `2^window_log` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the first bytes already show that it cannot be decoded within the limit.
    pub fn new(codec: Codec, stored: &'a [u8], raw_bytes: u64, window_log: u32) -> io::Result<Self> {
        let window_log = window_log.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG);
        let (engine, input) = match codec {
            Codec::Raw => {
                if stored.len() as u64 != raw_bytes {
                    return Err(invalid("stored and raw length of raw bytes differ"));
                }
                (Engine::Raw, stored)
            }
            Codec::Zstd => {
                let mut decoder = zstd::stream::raw::Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
                (Engine::Zstd(Box::new(decoder)), stored)
            }
            Codec::Lzma2 => {
                let (&property, input) = stored.split_first().ok_or_else(|| invalid("no dictionary size"))?;
                if u32::from(property) > 2 * (window_log - 12) {
                    return Err(invalid("the dictionary is over its limit"));
                }
                (Engine::Lzma2(Box::new(lzma_decoder(property)?)), input)
            }
            Codec::Lzma => {
                // No distance is more than all there is; a writer kept to the cap.
                let log = log_of(raw_bytes).clamp(MIN_WINDOW_LOG, window_log);
                let property = dictionary_property(log).map_err(|_| invalid("bad dictionary size"))?;
                let mut stream = lzma_decoder(property)?;
                start_chunk(&mut stream, stored, raw_bytes, 0xe0)?;
                (Engine::Lzma(Box::new(stream)), &stored[1..])
            }
        };
        let mut decoder = Self { input, remaining: raw_bytes, engine };
        if raw_bytes == 0 {
            decoder.finish()?;
        }
        Ok(decoder)
    }

    /// Starts decoding what [`pack_after`] made: LZMA2 whose dictionary holds `base` from the start.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn after(base: &[u8], stored: &'a [u8], raw_bytes: u64) -> io::Result<Self> {
        if window_after(base.len() as u64, raw_bytes).is_none() {
            return Err(invalid("no window for the base and the content"));
        }
        // The end is checked when all bytes are there; none is no content.
        let mut decoder = Self::new(Codec::Lzma2, stored, raw_bytes.max(1), MAX_WINDOW_LOG)?;
        decoder.remaining = raw_bytes;
        if let Engine::Lzma2(stream) = &mut decoder.engine {
            fill_dictionary(stream, base)?;
        }
        if raw_bytes == 0 {
            decoder.finish()?;
        }
        Ok(decoder)
    }

    /// Starts decoding what [`pack_bare_after`] made: a bare chunk of LZMA2 whose dictionary holds `base` from the start.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn bare_after(base: &[u8], stored: &'a [u8], raw_bytes: u64) -> io::Result<Self> {
        let log = window_after(base.len() as u64, raw_bytes);
        let log = log.ok_or_else(|| invalid("no window for the base and the content"))?;
        let mut stream = lzma_decoder(dictionary_property(log).map_err(|_| invalid("bad dictionary size"))?)?;
        fill_dictionary(&mut stream, base)?;
        start_chunk(&mut stream, stored, raw_bytes, 0xc0)?;
        Ok(Self { input: &stored[1..], remaining: raw_bytes, engine: Engine::Lzma(Box::new(stream)) })
    }

    /// The bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// One step of the codec into `out`: the bytes written, and whether the codec is at its end.
    fn step(&mut self, out: &mut [u8]) -> Result<(usize, bool), &'static str> {
        let bare = matches!(self.engine, Engine::Lzma(_));
        match &mut self.engine {
            Engine::Raw => {
                let count = out.len().min(self.input.len());
                out[..count].copy_from_slice(&self.input[..count]);
                self.input = &self.input[count..];
                Ok((count, self.input.is_empty()))
            }
            Engine::Zstd(decoder) => {
                let mut input = InBuffer::around(self.input);
                let mut output = OutBuffer::around(out);
                let hint = decoder
                    .run(&mut input, &mut output)
                    .inspect_err(|error| drop(zstd_reason(error)))
                    .map_err(|_| "zstd: the data is damaged or over its limits")?;
                let (used, count) = (input.pos(), output.pos());
                self.input = &self.input[used..];
                if count == 0 && used == 0 && hint != 0 {
                    return Err("zstd: the data ends too early");
                }
                Ok((count, hint == 0))
            }
            Engine::Lzma2(stream) | Engine::Lzma(stream) => {
                let (total_in, total_out) = (stream.total_in(), stream.total_out());
                let input = if bare && self.input.is_empty() { &[0][..] } else { self.input };
                let status = stream
                    .process(input, out, Action::Run)
                    .map_err(or_exhausted)
                    .map_err(|_| "lzma2: the data is damaged or ends too early")?;
                let used = usize::try_from(stream.total_in() - total_in).unwrap_or(0);
                let count = usize::try_from(stream.total_out() - total_out).unwrap_or(0);
                self.input = self.input.get(used..).unwrap_or_default();
                if count == 0 && used == 0 && status != Status::StreamEnd {
                    return Err("lzma2: the data ends too early");
                }
                Ok((count, status == Status::StreamEnd))
            }
            Engine::Done(Some(reason)) => Err(reason),
            Engine::Done(None) => Ok((0, true)),
        }
    }

    /// Checks that the codec ends here and used all of its input.
    fn finish(&mut self) -> io::Result<()> {
        let mut extra = [0u8; 1];
        let result = loop {
            if let Engine::Raw = self.engine {
                break Ok(());
            }
            match self.step(&mut extra) {
                Err(reason) => break Err(reason),
                Ok((0, false)) => {}
                Ok((0, true)) if self.input.is_empty() => break Ok(()),
                Ok((0, true)) => break Err("bytes after the end of the compressed data"),
                Ok(_) => break Err("more data than its length says"),
            }
        };
        self.engine = Engine::Done(result.err());
        result.map_err(invalid)
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining).map_or(buf.len(), |remaining| remaining.min(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        loop {
            let (count, end) = match self.step(&mut buf[..want]) {
                Ok(done) => done,
                Err(reason) => {
                    self.engine = Engine::Done(Some(reason));
                    return Err(invalid(reason));
                }
            };
            self.remaining -= count as u64;
            if self.remaining == 0 {
                if end {
                    // The codec says that it is at its end; asking it again would start another frame.
                    let reason =
                        (!self.input.is_empty()).then_some("bytes after the end of the compressed data");
                    self.engine = Engine::Done(reason);
                    reason.map_or(Ok(()), |reason| Err(invalid(reason)))?;
                } else {
                    self.finish()?;
                }
                return Ok(count);
            }
            if end {
                let reason = "less data than its length says";
                self.engine = Engine::Done(Some(reason));
                return Err(invalid(reason));
            }
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

/// A decoder of raw LZMA2 with a dictionary of so many bytes as `.xz` says it.
fn lzma_decoder(property: u8) -> io::Result<Stream> {
    let mut filters = Filters::new();
    filters.lzma2_properties(&[property]).map_err(|_| invalid("bad dictionary size"))?;
    Stream::new_raw_decoder(&filters).map_err(or_exhausted).map_err(|_| invalid("bad dictionary size"))
}

/// Reads `base` into the dictionary of a decoder that has read nothing: stored chunks, the first one starts a dictionary.
fn fill_dictionary(stream: &mut Stream, base: &[u8]) -> io::Result<()> {
    let mut decoded = vec![0; BASE_CHUNK_BYTES];
    for (number, chunk) in base.chunks(BASE_CHUNK_BYTES).enumerate() {
        let [low, high] = u16::try_from(chunk.len() - 1).unwrap_or(u16::MAX).to_le_bytes();
        for part in [&[if number == 0 { 1 } else { 2 }, high, low][..], chunk] {
            read_in(stream, part, &mut decoded)?;
        }
    }
    Ok(())
}

/// Reads the head of the chunk whose bare form `stored` is.
fn start_chunk(stream: &mut Stream, stored: &[u8], raw_bytes: u64, control: u8) -> io::Result<()> {
    let head = chunk_head(raw_bytes, stored, control);
    read_in(stream, &head.ok_or_else(|| invalid("lzma: no chunk has such lengths"))?, &mut [0])
}

fn read_in(stream: &mut Stream, mut part: &[u8], out: &mut [u8]) -> io::Result<()> {
    while !part.is_empty() {
        let before = stream.total_in();
        let status = stream.process(part, out, Action::Run).map_err(or_exhausted);
        status.map_err(|_| invalid("lzma2: the head of a chunk is damaged"))?;
        let used = usize::try_from(stream.total_in() - before).unwrap_or(0);
        if used == 0 {
            return Err(invalid("lzma2: a chunk does not fit the dictionary"));
        }
        part = &part[used..];
    }
    Ok(())
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

mod raw;
pub use raw::{Lzma2Data, lzma2_by_preset};

#[cfg(test)]
mod tests;
