//! What can go wrong in the delta engine.

use super::program::StreamKind;
use std::borrow::Cow;
use std::io;

/// An error of the delta engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Bytes that are not what the format allows.
    #[error("decode frame: {part} at byte {offset}: {reason}")]
    Corrupt {
        /// Where in the frame: the first byte of the field or of the compressed stream that is wrong.
        offset: u64,
        /// The part of the frame.
        part: &'static str,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// A length or count above its limit.
    #[error("decode frame: {part} at byte {offset}: {value} is over the limit of {limit}")]
    Limit {
        /// Where in the frame the number stands.
        offset: u64,
        /// What the number counts.
        part: &'static str,
        /// The number.
        value: u64,
        /// Its limit.
        limit: u64,
    },
    /// A program that does not fit the contents it is applied to or composed with.
    #[error("apply program: operation {op}: {reason}")]
    Program {
        /// The operation, counted from zero within its program.
        op: u64,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// A stream of a program that is damaged, or ends too early.
    #[error("read program: {stream}: {reason}")]
    Stream {
        /// The stream.
        stream: StreamKind,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// A slot that the frame does not have.
    #[error("apply program: slot {slot}: the frame has {slots}")]
    NoSlot {
        /// The slot asked for.
        slot: u64,
        /// The slots of the frame.
        slots: u64,
    },
    /// A content that cannot be opened, or an opened form that cannot be packed.
    #[error("pack member: at byte {offset}: {reason}")]
    Member {
        /// Where in the opened form, or in the parameters.
        offset: u64,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// The compressor failed.
    #[error("compress: {codec}: {reason}")]
    Compress {
        /// The codec's name.
        codec: &'static str,
        /// What it said.
        reason: String,
    },
    /// The output could not be written.
    #[error("write output: {0}")]
    Output(#[source] io::Error),
}

impl EngineError {
    pub(crate) fn corrupt(offset: u64, part: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt { offset, part, reason: reason.into() }
    }

    pub(crate) fn member(offset: u64, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Member { offset, reason: reason.into() }
    }

    pub(crate) fn program(op: u64, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Program { op, reason: reason.into() }
    }

    /// Fails with [`EngineError::Limit`] when `value` is above `limit`.
    pub(crate) fn check_limit(offset: u64, part: &'static str, value: u64, limit: u64) -> Result<(), Self> {
        if value > limit { Err(Self::Limit { offset, part, value, limit }) } else { Ok(()) }
    }
}
