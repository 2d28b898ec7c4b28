//! What can be wrong with a layer index or an edit.

use crate::engine::EngineError;
use crate::wire::WireError;

/// An error about layer indexes and edits.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Bytes that are not what the format allows.
    #[error("decode index: {0}")]
    Wire(#[from] WireError),
    /// An edit that does not fit the parent's layers.
    #[error("apply edit: entry {entry} of layer {layer}: {why}")]
    Apply {
        /// The target's layer.
        layer: usize,
        /// The entry in it.
        entry: usize,
        /// What is wrong.
        why: String,
    },
    /// An entry that no tar gives.
    #[error("check index: entry {entry} of layer {layer}: {why}")]
    Entry {
        /// The layer.
        layer: usize,
        /// The entry in it.
        entry: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// An edit whose parts do not agree.
    #[error("encode edit: layer {layer}: {why}")]
    Contradiction {
        /// The target's layer.
        layer: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// More than a named limit allows.
    #[error("check index: {what}: more than the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The compressor failed.
    #[error("compress index: {0}")]
    Pack(#[from] EngineError),
}
