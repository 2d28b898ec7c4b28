//! Who compressed the streams of a content.

use super::xz::Preset;
use crate::engine::EngineError;
use crate::engine::deflate::Encoder;
use crate::engine::varint;

/// The code of a stream that is given as it is.
const VERBATIM: u8 = 0;

/// How a stream comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Deflated by a known compressor.
    Encoder(Encoder),
    /// LZMA2 by options of liblzma, in a `.xz` file.
    Preset(Preset),
    /// These are its bytes: no known compressor makes them.
    Verbatim(Vec<u8>),
}

/// The methods of all streams of a content, in order.
///
/// Written as runs: `varint count`, not 0, and a byte: the number of an [`Encoder`] or a [`Preset`], or 0 with count 1 and then
/// `varint bytes` and the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(pub Vec<Method>);

impl Parameters {
    /// The bytes in a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = &self.0[..];
        while let Some((first, after)) = rest.split_first() {
            let code = match first {
                Method::Encoder(encoder) => encoder.code(),
                Method::Preset(preset) => preset.code(),
                Method::Verbatim(stream) => {
                    out.extend_from_slice(&[1, VERBATIM]);
                    varint::put(&mut out, stream.len() as u64);
                    out.extend_from_slice(stream);
                    rest = after;
                    continue;
                }
            };
            let more = after.iter().take_while(|method| *method == first).count();
            varint::put(&mut out, 1 + more as u64);
            out.push(code);
            rest = &after[more..];
        }
        out
    }
}

/// How the next stream comes about.
#[derive(Clone, Copy)]
pub(super) enum Next<'a> {
    Encoder(Encoder),
    Preset(Preset),
    Verbatim(&'a [u8]),
}

/// Takes methods from their bytes, one at a time: a count costs no memory.
pub(super) struct Reader<'a> {
    /// Streams that come before what the bytes say.
    given: &'a [&'a [u8]],
    bytes: &'a [u8],
    rest: &'a [u8],
    run: Option<(u64, Next<'a>)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { given: &[], bytes, rest: bytes, run: None }
    }

    /// As of parameters that give all these streams as they are.
    pub(super) fn of_streams(given: &'a [&'a [u8]]) -> Self {
        Self { given, ..Self::new(&[]) }
    }

    fn error(&self, reason: &'static str) -> EngineError {
        EngineError::member((self.bytes.len() - self.rest.len()) as u64, reason)
    }

    pub(super) fn next(&mut self) -> Result<Next<'a>, EngineError> {
        if let Some((stream, rest)) = self.given.split_first() {
            self.given = rest;
            return Ok(Next::Verbatim(stream));
        }
        if let Some((left, next)) = self.run.filter(|(left, _)| *left > 0) {
            self.run = Some((left - 1, next));
            return Ok(next);
        }
        let count = varint::take(&mut self.rest).filter(|count| *count > 0);
        let count = count.ok_or_else(|| self.error("parameters: no number of streams"))?;
        let (&code, rest) =
            self.rest.split_first().ok_or_else(|| self.error("parameters: they end too early"))?;
        self.rest = rest;
        if code != VERBATIM {
            let preset = Preset::from_code(code).map(Next::Preset);
            let next = preset.or_else(|| Encoder::from_code(code).map(Next::Encoder));
            let next = next.ok_or_else(|| self.error("parameters: an unknown encoder"))?;
            self.run = Some((count - 1, next));
            return Ok(next);
        }
        if count != 1 {
            return Err(self.error("parameters: several streams are one"));
        }
        let bytes = varint::take(&mut self.rest).and_then(|count| usize::try_from(count).ok());
        let (stream, rest) = bytes
            .and_then(|count| self.rest.split_at_checked(count))
            .ok_or_else(|| self.error("parameters: they end before a stream does"))?;
        self.rest = rest;
        Ok(Next::Verbatim(stream))
    }

    pub(super) fn finish(&self) -> Result<(), EngineError> {
        match self.given.is_empty() && self.rest.is_empty() && self.run.is_none_or(|(left, _)| left == 0) {
            true => Ok(()),
            false => Err(self.error("parameters: more than there are streams")),
        }
    }
}
