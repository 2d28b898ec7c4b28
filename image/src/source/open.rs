//! From the root of an image to its manifest, config and layers, the same way for every store.

use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use dimg::Digest;

use super::blob::{Blob, MappedBytes};
use super::spool::{Expect, Spool, same};
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::{Config, Descriptor, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, choose};

/// Indexes that may lie above a manifest.
const MAX_INDEX_DEPTH: usize = 4;

/// A layer of an open image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// Media type of the blob, as the manifest says.
    pub media_type: String,
    /// Digest of the uncompressed tar, as the config says.
    pub diff_id: Digest,
}

/// An image whose manifest and config have been read and verified.
pub struct OpenImage {
    name: String,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    manifest_digest: Digest,
    manifest: Manifest,
    config: Config,
    layers: Vec<Layer>,
    backend: Box<dyn Backend>,
    spool: Spool,
    synthesized: bool,
}

impl std::fmt::Debug for OpenImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenImage({}, {})", self.name, self.manifest_digest)
    }
}

/// The uncompressed tar of a layer, in mapped memory; its digest has been compared with the diff ID.
#[derive(Debug, Clone)]
pub struct LayerFile {
    bytes: MappedBytes,
    diff_id: Digest,
}

impl LayerFile {
    /// The digest of the tar.
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// The tar, as a share of the mapping.
    pub fn bytes(&self) -> &MappedBytes {
        &self.bytes
    }
}

impl Deref for LayerFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for LayerFile {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl OpenImage {
    /// Opens the image whose manifest or index is `root`, already verified against whatever led to it.
    pub(super) fn new(
        backend: Box<dyn Backend>,
        root: Vec<u8>,
        options: &Options,
        name: String,
    ) -> Result<Self, SourceError> {
        let (bytes, manifest) = choose_image(&*backend, root, options, &name)?;
        Self::of_manifest(backend, bytes, manifest, options, name)
    }

    /// Opens the image with this manifest, already verified.
    pub(super) fn of_manifest(
        backend: Box<dyn Backend>,
        bytes: Vec<u8>,
        manifest: Manifest,
        options: &Options,
        name: String,
    ) -> Result<Self, SourceError> {
        let config = &manifest.config;
        let config_name = backend.blob_name(config);
        let config_bytes =
            read_small(backend.blob(config)?, config, MAX_CONFIG_BYTES, "read config", &config_name)?;
        Self::from_parts(backend, bytes, manifest, config_bytes, options, name)
    }

    /// An image whose manifest d4c made, because its source has none.
    pub(super) fn synthesized(
        backend: Box<dyn Backend>,
        manifest_bytes: Vec<u8>,
        config_bytes: Vec<u8>,
        options: &Options,
        name: String,
    ) -> Result<Self, SourceError> {
        let Document::Image(manifest) = Document::parse(&manifest_bytes, &name)? else {
            return Err(SourceError::corrupt("read manifest", name, "is an index"));
        };
        let image = Self::from_parts(backend, manifest_bytes, *manifest, config_bytes, options, name)?;
        Ok(Self { synthesized: true, ..image })
    }

    fn from_parts(
        backend: Box<dyn Backend>,
        manifest_bytes: Vec<u8>,
        manifest: Manifest,
        config_bytes: Vec<u8>,
        options: &Options,
        name: String,
    ) -> Result<Self, SourceError> {
        let config = Config::parse(&config_bytes, &backend.blob_name(&manifest.config))?;
        if config.diff_ids.len() != manifest.layers.len() {
            let (ids, layers) = (config.diff_ids.len(), manifest.layers.len());
            let why = format!("the config has {ids} diff IDs, the manifest {layers} layers");
            return Err(SourceError::corrupt("open image", name, why));
        }
        if let Some(wanted) = &options.platform
            && wanted.fitness(&config.platform).is_none()
        {
            let why = format!("no image for {wanted}; present: {}", config.platform);
            return Err(SourceError::NotFound { what: "choose platform", on: name, why });
        }
        let layers = std::iter::zip(&manifest.layers, &config.diff_ids)
            .map(|(layer, &diff_id)| Layer {
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id,
            })
            .collect();
        Ok(Self {
            name,
            manifest_digest: Digest::of(&manifest_bytes),
            manifest_bytes,
            config_bytes,
            manifest,
            config,
            layers,
            backend,
            spool: options.spool(),
            synthesized: false,
        })
    }

    /// The image's name, as a source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The manifest, byte for byte as its digest has it.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The config, byte for byte as its digest has it.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// The digest of the manifest.
    pub fn manifest_digest(&self) -> Digest {
        self.manifest_digest
    }

    /// The digest of the config: the image ID.
    pub fn config_digest(&self) -> Digest {
        self.manifest.config.digest
    }

    /// The manifest, parsed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The config, parsed.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether d4c made the manifest because the source has none (`docker-archive:`, `dir:`).
    pub fn is_synthesized(&self) -> bool {
        self.synthesized
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The uncompressed tar of layer `number`, verified against blob digest and diff ID.
    ///
    /// Costs a pass over the layer each time it is called: a compressed layer is unpacked into a file without
    /// a name that lives as long as the result. Several layers may be opened by several threads at once.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] for a number that is none of [`OpenImage::layers`]; corrupt, missing or too
    /// large layers; I/O errors.
    pub fn layer(&self, number: usize) -> Result<LayerFile, SourceError> {
        let (Some(layer), Some(descriptor)) = (self.layers.get(number), self.manifest.layers.get(number))
        else {
            let why = format!("no layer {number}; it has {}", self.layers.len());
            return Err(SourceError::NotFound { what: "open layer", on: self.name.clone(), why });
        };
        let expect = Expect { blob: Some((layer.size, layer.digest)), diff_id: Some(layer.diff_id) };
        let blob = self.backend.blob(descriptor)?;
        let bytes = self.spool.unpack(blob, expect, &self.backend.blob_name(descriptor))?;
        Ok(LayerFile { bytes, diff_id: layer.diff_id })
    }
}

/// The manifest that `root`, a manifest or an index, leads to on the platform of `options`: its bytes, and what they say.
pub(super) fn choose_image(
    backend: &dyn Backend,
    root: Vec<u8>,
    options: &Options,
    name: &str,
) -> Result<(Vec<u8>, Manifest), SourceError> {
    let mut bytes = root;
    for _ in 0..=MAX_INDEX_DEPTH {
        match Document::parse(&bytes, name)? {
            Document::Image(found) => return Ok((bytes, *found)),
            Document::Index(entries) => {
                let chosen = choose(&entries, &options.platform(), name)?;
                bytes = read_manifest(backend, chosen)?;
            }
        }
    }
    let why = format!("more than {MAX_INDEX_DEPTH} indexes in one another");
    Err(SourceError::corrupt("read manifest", name, why))
}

/// The bytes of the manifest or index that `descriptor` names, verified.
pub(super) fn read_manifest(backend: &dyn Backend, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
    let name = backend.blob_name(descriptor);
    read_small(backend.manifest(descriptor)?, descriptor, MAX_MANIFEST_BYTES, "read manifest", &name)
}

/// Reads a blob of at most `max_bytes` into memory and verifies it.
pub(super) fn read_small(
    blob: Blob,
    descriptor: &Descriptor,
    max_bytes: u64,
    what: &'static str,
    on: &str,
) -> Result<Vec<u8>, SourceError> {
    if descriptor.size > max_bytes {
        return Err(SourceError::Limit { what, on: on.to_owned(), limit_bytes: max_bytes });
    }
    let bytes = match blob {
        Blob::Mapped(bytes) | Blob::Verified(bytes) => {
            // One byte more than there should be shows that there is more.
            let wanted = usize::try_from(descriptor.size.saturating_add(1)).unwrap_or(usize::MAX);
            bytes[..bytes.len().min(wanted)].to_vec()
        }
        Blob::Stream(stream) => {
            let mut bytes = Vec::new();
            stream
                .take(descriptor.size + 1)
                .read_to_end(&mut bytes)
                .map_err(SourceError::io("read blob", Path::new(on)))?;
            bytes
        }
    };
    if bytes.len() as u64 != descriptor.size {
        let (expected, actual) = (descriptor.size, bytes.len() as u64);
        return Err(SourceError::Size { what, on: on.to_owned(), expected, actual });
    }
    same(what, on, descriptor.digest, Digest::of(&bytes))?;
    Ok(bytes)
}
