//! The layer index: a layer's tar without its contents.
//!
//! An [`Entry`] holds what one tar member says, a [`Shape`] holds how its writer said it (header flavour, number forms,
//! order of pax records), shared by all members written alike. From both, and the contents, the tar comes back bit for
//! bit; where it would not, the entry keeps its header blocks raw. There is no second source of truth: file trees,
//! whiteouts and hard links are read from here too.

mod check;
pub(crate) mod columns;
pub mod edit;
mod entry;
mod error;
mod layer;
mod shape;
mod whole;

pub(crate) use check::check_layers;
pub use edit::{Edit, layer_id};
pub use entry::{Content, Entry, Extent, Kind};
pub use error::IndexError;
pub use layer::{LayerIndex, Tail};
pub use shape::Shape;
pub use whole::{decode_layers, encode_layers};
