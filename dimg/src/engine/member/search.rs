//! Finding who compressed the streams of a content.

use super::elf;
use super::pack::pack_by;
use super::parameters::{Method, Parameters, Reader};
use super::unpack::Plan;
use super::xz;
use crate::engine::EngineError;
use crate::engine::deflate::Encoder;
use crate::engine::parallel::map;
use std::io::{self, Write};

/// Streams of one content that no encoder makes before the others are not tried.
const HOPELESS: usize = 8;

/// Streams tried at a time by each thread, at most.
const BATCH: usize = 64;

/// The parameters that make the streams of `content` again. A stream that no known encoder makes is given as it is; so are the
/// others when that has happened often and nothing else has. With so many threads; the parameters are the same.
///
/// # Errors
/// [`EngineError::Member`] when `plan` is not that of `content`, or `form` not its opened form.
pub fn find_parameters(
    plan: &Plan,
    content: &[u8],
    form: &[u8],
    threads: usize,
) -> Result<Parameters, EngineError> {
    if plan.opened_bytes() != form.len() as u64 {
        return Err(EngineError::member(0, "the opened form is not that of the content"));
    }
    let streams: Vec<_> = plan.streams(content, form).collect();
    if let (Some(shape), &[(data, inside)]) = (xz::Shape::of_form(form), &streams[..]) {
        return Ok(Parameters(vec![preset(shape.dictionary, inside, data)]));
    }
    let mut methods = Vec::with_capacity(streams.len());
    let mut order = candidates(content);
    let (mut known, mut failed, mut batch) = (0, 0, threads);
    while let Some(rest) = streams.get(methods.len()..).filter(|rest| !rest.is_empty()) {
        if known == 0 && failed >= HOPELESS {
            methods.extend(rest.iter().map(|(stream, _)| Method::Verbatim(stream.to_vec())));
            break;
        }
        // The next streams are most likely of the same maker.
        let tried = &rest[..rest.len().min(if known == 0 { 1 } else { batch })];
        let by_first = map(threads, tried.len(), |at| {
            let (stream, inflated) = tried[at];
            makes(order[0], inflated, stream)
        });
        batch = (2 * batch).min(if threads == 1 { 1 } else { BATCH * threads });
        for (&(stream, inflated), by_first) in tried.iter().zip(by_first) {
            if by_first {
                known += 1;
                methods.push(Method::Encoder(order[0]));
                continue;
            }
            match order.iter().skip(1).position(|encoder| makes(*encoder, inflated, stream)) {
                Some(at) => {
                    known += 1;
                    order[..=at + 1].rotate_right(1);
                    methods.push(Method::Encoder(order[0]));
                    // What was tried of the others says nothing any more.
                    batch = threads;
                    break;
                }
                None => {
                    failed += 1;
                    methods.push(Method::Verbatim(stream.to_vec()));
                }
            }
        }
    }
    Ok(Parameters(methods))
}

/// How `data` come of what a `.xz` file holds.
fn preset(dictionary: u8, inside: &[u8], data: &[u8]) -> Method {
    let makes = |preset: &xz::Preset| {
        let mut expected = Expected(data);
        preset.encode(inside, dictionary, &mut expected).is_ok() && expected.0.is_empty()
    };
    let found = xz::Preset::candidates(dictionary).into_iter().find(makes);
    found.map_or_else(|| Method::Verbatim(data.to_vec()), Method::Preset)
}

/// All encoders worth trying, the likeliest first.
fn candidates(content: &[u8]) -> Vec<Encoder> {
    if content.starts_with(elf::MAGIC) {
        // Go's linker; those of GNU; others.
        let zlib = [6, 1, 9].into_iter().filter_map(|level| Encoder::zlib(level, 8));
        return std::iter::once(Encoder::go()).chain(zlib).collect();
    }
    let is_gzip = content.starts_with(&[0x1f, 0x8b]);
    // A gzip header tells whether it was the best or the fastest level.
    let levels: [u8; 9] = match content.get(8) {
        Some(2) if is_gzip => [9, 6, 8, 7, 5, 4, 3, 2, 1],
        Some(4) if is_gzip => [1, 6, 9, 2, 3, 4, 5, 7, 8],
        _ => [6, 9, 5, 4, 8, 7, 3, 2, 1],
    };
    let gnu = levels.into_iter().filter_map(Encoder::gnu);
    let zlib = levels.into_iter().flat_map(|level| [8, 9].map(|memory| Encoder::zlib(level, memory)));
    let zlib = zlib.flatten();
    if is_gzip { gnu.chain(zlib).collect() } else { zlib.chain(gnu).collect() }
}

/// Whether the encoder makes just this stream; given up at the first byte that differs.
fn makes(encoder: Encoder, inflated: &[u8], stream: &[u8]) -> bool {
    let mut expected = Expected(stream);
    encoder.encode(inflated, &mut expected).is_ok() && expected.0.is_empty()
}

/// Whether the opened form and the parameters make just this content.
#[must_use]
pub fn packs_to(opened: &[u8], parameters: &[u8], content: &[u8]) -> bool {
    let mut expected = Expected(content);
    super::pack(opened, parameters, content.len() as u64, &mut expected).is_ok() && expected.0.is_empty()
}

/// Whether the opened form and the streams of `content` as they are make just this content. Then so do the form and parameters that
/// make these streams, and nothing has to be deflated once more to know it.
#[must_use]
pub fn comes_back(plan: &Plan, opened: &[u8], content: &[u8]) -> bool {
    let streams: Vec<_> = plan.streams(content, opened).map(|(stream, _)| stream).collect();
    let mut expected = Expected(content);
    let packed = pack_by(opened, Reader::of_streams(&streams), content.len() as u64, &mut expected);
    packed.is_ok() && expected.0.is_empty()
}

/// Takes no other bytes than these.
struct Expected<'a>(&'a [u8]);

impl Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.strip_prefix(bytes) {
            Some(rest) => {
                self.0 = rest;
                Ok(bytes.len())
            }
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
