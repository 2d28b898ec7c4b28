//! The section META: which image a file makes, and from which (`FORMAT.md`, section 3).

use crate::Digest;
use crate::index::edit::LayerClaim;
use crate::index::{LayerIndex, layer_id};
use crate::limits::{MAX_ENTRIES, MAX_IMAGE_NAME_BYTES, MAX_LAYERS};
use crate::wire::{Reader, WireError, put_bytes, put_u64, put_usize};
use std::fmt;

/// The first half of a [`layer_id`](crate::index::layer_id).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LayerCheck(pub [u8; 16]);

impl LayerCheck {
    /// That of the layer `layer`.
    pub fn of(layer: &LayerIndex) -> Self {
        let mut check = [0; 16];
        check.copy_from_slice(&layer_id(layer).0[..16]);
        Self(check)
    }
}

impl fmt::Display for LayerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LayerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the documents of a cdimg say, so that META need not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Where a layer of the target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerSource {
    /// It is this layer of the parent: same diff ID, same index.
    Parent(u32),
    /// The file makes it.
    Made {
        /// Of its index.
        id: LayerCheck,
    },
}

/// A layer of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetLayer {
    /// SHA-256 of its tar, uncompressed.
    pub diff_id: Digest,
    /// Its entries.
    pub entries: u64,
    /// Bytes of its tar, uncompressed.
    pub tar_bytes: u64,
    /// Where it comes from.
    pub source: LayerSource,
}

/// The image that a file makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its config.
    pub config: Digest,
    /// A name that the image may be given, such as `docker.io/library/nginx:1.27`: a suggestion, often empty, which
    /// nothing vouches for.
    pub name: String,
    /// Distinct contents of all its layers, those of the parent too.
    pub contents: u64,
    /// The lowest first.
    pub layers: Vec<TargetLayer>,
}

impl Target {
    /// The diff IDs, the lowest layer's first.
    pub fn diff_ids(&self) -> impl Iterator<Item = Digest> {
        self.layers.iter().map(|layer| layer.diff_id)
    }
}

/// The image that a delta starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Diff IDs of its layers, the lowest first.
    pub layers: Vec<Digest>,
}

/// What the section META says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The image made.
    pub target: Target,
    /// The image that it is made from; none for a base image.
    pub parent: Option<Parent>,
}

impl Meta {
    /// What the columns INDEX must agree with.
    pub(crate) fn claims(&self) -> Vec<LayerClaim> {
        let claim = |layer: &TargetLayer| match layer.source {
            LayerSource::Parent(same) => LayerClaim::Same(same),
            LayerSource::Made { .. } => LayerClaim::Entries(layer.entries),
        };
        self.target.layers.iter().map(claim).collect()
    }

    /// The section's bytes; without what the documents say in a file that has them.
    pub(crate) fn encode(&self, documents: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if !documents {
            out.extend_from_slice(&self.target.manifest.0);
            out.extend_from_slice(&self.target.config.0);
        }
        put_bytes(&mut out, self.target.name.as_bytes());
        put_u64(&mut out, self.target.contents);
        put_usize(&mut out, self.target.layers.len());
        for layer in &self.target.layers {
            if !documents {
                out.extend_from_slice(&layer.diff_id.0);
            }
            put_u64(&mut out, layer.entries);
            put_u64(&mut out, layer.tar_bytes);
            match layer.source {
                LayerSource::Parent(same) => put_u64(&mut out, u64::from(same) + 1),
                LayerSource::Made { id } => {
                    put_u64(&mut out, 0);
                    out.extend_from_slice(&id.0);
                }
            }
        }
        if let Some(parent) = &self.parent {
            out.extend_from_slice(&parent.manifest.0);
            put_usize(&mut out, parent.layers.len());
            for diff_id in &parent.layers {
                let same = self.target.diff_ids().position(|known| known == *diff_id);
                put_usize(&mut out, same.map_or(0, |same| same + 1));
                if same.is_none() {
                    out.extend_from_slice(&diff_id.0);
                }
            }
        }
        out
    }

    /// Reads what [`Meta::encode`] wrote; `named` is what the documents say of a file that has them.
    pub(crate) fn decode(bytes: &[u8], has_parent: bool, named: Option<&Named>) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, "section META");
        let (manifest, config) = match named {
            Some(named) => (named.manifest, named.config),
            None => (digest(&mut reader, "manifest digest")?, digest(&mut reader, "config digest")?),
        };
        let before = reader.clone();
        let name = reader.bytes(MAX_IMAGE_NAME_BYTES, "name of the image")?;
        let name = String::from_utf8(name.to_vec())
            .map_err(|error| before.error("name of the image", error.utf8_error().to_string()))?;
        let contents = reader.count(MAX_ENTRIES, "number of contents")? as u64;
        let before = reader.clone();
        let count = reader.count(MAX_LAYERS, "number of layers")?;
        if let Some(named) = named.map(|named| named.diff_ids.len()).filter(|named| *named != count) {
            return Err(before.error("number of layers", format!("{count}, the config has {named}")));
        }
        let mut layers = Vec::with_capacity(count);
        let mut places = Vec::with_capacity(count);
        let mut total = 0;
        for number in 0..count {
            places.push(reader.clone());
            let diff_id = match named.and_then(|named| named.diff_ids.get(number)) {
                Some(diff_id) => *diff_id,
                None => digest(&mut reader, "diff ID of a layer")?,
            };
            let before = reader.clone();
            let entries = reader.count(MAX_ENTRIES, "entries of a layer")?;
            total += entries;
            if total > MAX_ENTRIES {
                return Err(before.error("entries of a layer", format!("more than {MAX_ENTRIES} in all")));
            }
            let tar_bytes = reader.u64("bytes of a layer's tar")?;
            let before = reader.clone();
            let source = match reader.count(MAX_LAYERS, "source of a layer")? {
                0 => {
                    let mut id = LayerCheck([0; 16]);
                    id.0.copy_from_slice(reader.take(16, "id of a layer")?);
                    LayerSource::Made { id }
                }
                number => match u32::try_from(number - 1) {
                    Ok(same) => LayerSource::Parent(same),
                    Err(_) => return Err(before.error("source of a layer", "there is no such layer")),
                },
            };
            layers.push(TargetLayer { diff_id, entries: entries as u64, tar_bytes, source });
        }
        let parent = match has_parent {
            false => None,
            true => {
                let manifest = digest(&mut reader, "parent's manifest digest")?;
                let count = reader.count(MAX_LAYERS, "number of the parent's layers")?;
                let mut below = Vec::with_capacity(count);
                for _ in 0..count {
                    let before = reader.clone();
                    below.push(match reader.count(MAX_LAYERS, "layer of the parent")? {
                        0 => digest(&mut reader, "diff ID of a parent's layer")?,
                        same => match layers.get(same - 1) {
                            Some(layer) => layer.diff_id,
                            None => return Err(before.error("layer of the parent", "there is no such layer")),
                        },
                    });
                }
                Some(Parent { manifest, layers: below })
            }
        };
        reader.end()?;
        let parents = parent.as_ref().map_or(&[][..], |parent| &parent.layers);
        for (layer, place) in layers.iter().zip(&places) {
            if let LayerSource::Parent(same) = layer.source
                && parents.get(same as usize) != Some(&layer.diff_id)
            {
                let why = format!("layer {same} of the parent is not there or another one");
                return Err(place.error("source of a layer", why));
            }
        }
        Ok(Self { target: Target { manifest, config, name, contents, layers }, parent })
    }
}

fn digest(reader: &mut Reader<'_>, what: &'static str) -> Result<Digest, WireError> {
    let mut digest = [0; 32];
    digest.copy_from_slice(reader.take(32, what)?);
    Ok(Digest(digest))
}
