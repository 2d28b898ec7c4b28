//! All layers of an image by themselves, without a file around them: what a node keeps of an image.
//!
//! Layout: SHA-256 of what follows, `varint number of layers`, `varint entries` of each, then the columns of an edit of
//! nothing (`FORMAT.md`, section 4), compressed.

use super::edit::LayerClaim;
use super::{Edit, IndexError, LayerIndex};
use crate::Digest;
use crate::engine::compress::Level;
use crate::limits::{MAX_ENTRIES, MAX_LAYERS};
use crate::wire::{Reader, put_usize};
use std::sync::Arc;

const DIGEST_BYTES: usize = 32;

/// The layers as bytes.
///
/// # Errors
/// A layer exceeds a limit, or the compressor fails.
pub fn encode_layers(layers: &[Arc<LayerIndex>]) -> Result<Vec<u8>, IndexError> {
    // Layers are told apart by number here; two equal ones are written twice.
    let edit = Edit::whole(layers)?;
    let mut out = Vec::new();
    put_usize(&mut out, layers.len());
    for layer in layers {
        put_usize(&mut out, layer.entries.len());
    }
    out.extend_from_slice(&edit.encode()?.to_packed(Level::Fast)?);
    Ok([&Digest::of(&out).0[..], &out].concat())
}

/// The layers that [`encode_layers`] wrote.
///
/// # Errors
/// The bytes are not what it writes.
pub fn decode_layers(bytes: &[u8]) -> Result<Vec<Arc<LayerIndex>>, IndexError> {
    let mut reader = Reader::new(bytes, "layers");
    let digest = reader.take(DIGEST_BYTES, "digest")?;
    let bytes = &bytes[DIGEST_BYTES..];
    if Digest::of(bytes).0 != digest {
        return Err(Reader::new(bytes, "layers").error("digest", "it is not that of the layers").into());
    }
    let mut reader = Reader::new(bytes, "layers");
    let count = reader.count(MAX_LAYERS, "number of layers")?;
    let mut claims = Vec::with_capacity(count);
    for _ in 0..count {
        claims.push(LayerClaim::Entries(reader.count(MAX_ENTRIES, "entries of a layer")? as u64));
    }
    Edit::decode(&bytes[reader.offset()..], &claims)?.apply(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_back_and_damage_is_told() {
        let layers = vec![Arc::new(LayerIndex::default()), Arc::new(LayerIndex::default())];
        let bytes = encode_layers(&layers).unwrap();
        assert_eq!(decode_layers(&bytes).unwrap(), layers);
        for cut in 0..bytes.len() {
            assert!(decode_layers(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(decode_layers(&bytes).is_err(), "{at}");
        }
    }
}
