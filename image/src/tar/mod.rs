//! A layer's tar ↔ [`LayerIndex`](dimg::index::LayerIndex), bit for bit.
//!
//! [`parse`] reads a mapped tar: every member becomes an entry (what it says) and a shape (how its writer said it), and
//! every content is named and stays where it is. [`write`] gives the same bytes again from the index and the contents.
//! What a member means is what Go's `archive/tar` makes of it, because containerd unpacks layers with that; a tar that
//! Go refuses is refused.
//!
//! - `block`, `pax`, `sparse`, `overrides`, `member`: reading headers;
//! - `style` (its bytes: `FORMAT.md`, "Styles"), `number`, `text`: how headers are written; `derive` finds a style,
//!   `build` applies one;
//! - `indexer`, `parse`, `contents`, `write`: whole layers.
//!
//! Nothing is believed: whatever [`write`] makes of an entry it reads again as the parser would, and an index whose
//! headers say something else than its entries is refused.

pub(crate) mod block;
mod build;
mod contents;
mod derive;
mod error;
mod indexer;
mod member;
mod number;
mod overrides;
mod parse;
mod pax;
mod sparse;
mod style;
mod text;
mod write;

pub use contents::{ContentBytes, ContentPlace, ContentReader};
pub use error::{TarError, WriteError};
pub use parse::{MAX_HOLE_BYTES, ParseOptions, ParsedLayer, parse};
pub use write::{OpenContent, diff_id, tar_bytes, write};
