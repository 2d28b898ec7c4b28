//! What an index must be for the format to carry it.

use super::edit::heap_bytes;
use super::{Entry, IndexError, Kind, LayerIndex, Shape};
use crate::limits::{
    MAX_ENTRIES, MAX_INDEX_BYTES, MAX_LAYERS, MAX_NAME_BYTES, MAX_PAX_RECORDS, MAX_PAX_VALUE_BYTES,
    MAX_RAW_HEADER_BYTES, MAX_SHAPES, MAX_SPARSE_EXTENTS, MAX_STYLE_BYTES, MAX_TAIL_BYTES,
    MAX_TAIL_ZERO_BYTES,
};
use std::sync::Arc;

impl Entry {
    /// Checks that the entry is one that `shape` can have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, shape: &Shape) -> Result<(), &'static str> {
        let content_fits = match shape.kind {
            Kind::Regular => self.content.is_some(),
            Kind::Other(_) => true,
            _ => self.content.is_none(),
        };
        if !content_fits {
            return Err("a regular file has no content, or another kind has one");
        }
        if self.pax.len() != shape.pax_keys.len() {
            return Err("the numbers of pax keys and values differ");
        }
        if self.mtime_nsec > 999_999_999 {
            return Err("the nanoseconds make a second");
        }
        if !shape.raw && !self.raw.is_empty() {
            return Err("headers are kept but the shape says not");
        }
        if !shape.sparse && !self.sparse.is_empty() {
            return Err("data runs are there but the shape is not sparse");
        }
        let mut end = 0;
        for extent in &self.sparse {
            if extent.offset < end {
                return Err("the data runs of a sparse file overlap");
            }
            end = extent.offset.checked_add(extent.bytes).ok_or("a data run ends above 2^64")?;
        }
        if end > self.size() {
            return Err("a data run is outside of the file");
        }
        Ok(())
    }
}

/// Checks an image's layers against the limits of the format.
///
/// # Errors
/// One is exceeded, or an entry is not one that a tar gives.
pub(crate) fn check_layers(layers: &[Arc<LayerIndex>]) -> Result<(), IndexError> {
    let limit = |what, count: usize, limit| match count <= limit {
        true => Ok(()),
        false => Err(IndexError::Limit { what, limit }),
    };
    limit("layers of an image", layers.len(), MAX_LAYERS)?;
    limit("entries of an image", layers.iter().map(|layer| layer.entries.len()).sum(), MAX_ENTRIES)?;
    let bytes = layers.iter().flat_map(|layer| &layer.entries).map(heap_bytes).fold(0, usize::saturating_add);
    limit("bytes of the names and values of an image", bytes, MAX_INDEX_BYTES)?;
    limit("shapes of an image", layers.iter().map(|layer| layer.shapes.len()).sum(), MAX_SHAPES)?;
    for (number, layer) in layers.iter().enumerate() {
        let of_zeros = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        limit("zero bytes of a layer's end", of_zeros(layer.tail.zero_bytes), of_zeros(MAX_TAIL_ZERO_BYTES))?;
        limit("bytes after a layer's end", layer.tail.rest.len(), MAX_TAIL_BYTES)?;
        for shape in &layer.shapes {
            limit("pax records of an entry", shape.pax_keys.len(), MAX_PAX_RECORDS)?;
            let key = shape.pax_keys.iter().map(|key| key.len()).max();
            limit("bytes of a pax key", key.unwrap_or(0), MAX_NAME_BYTES)?;
            limit("bytes of a style", shape.style.len(), MAX_STYLE_BYTES)?;
        }
        for (at, entry) in layer.entries.iter().enumerate() {
            let bad = |why| IndexError::Entry { layer: number, entry: at, why };
            let shape = layer.shapes.get(entry.shape as usize).ok_or_else(|| bad("it has no shape"))?;
            entry.check(shape).map_err(bad)?;
            for name in [&entry.path, &entry.link, &entry.uname, &entry.gname] {
                limit("bytes of a name", name.len(), MAX_NAME_BYTES)?;
            }
            let value = entry.pax.iter().map(|value| value.len()).max();
            limit("bytes of a pax value", value.unwrap_or(0), MAX_PAX_VALUE_BYTES)?;
            limit("extents of a sparse file", entry.sparse.len(), MAX_SPARSE_EXTENTS)?;
            limit("bytes of an entry's headers", entry.raw.len(), MAX_RAW_HEADER_BYTES)?;
        }
    }
    Ok(())
}
