//! `docker-archive:`: what `docker save` writes, in its old form too.
//!
//! Such an archive has configs and uncompressed layers, named by `manifest.json`, but no manifest with a digest.
//! d4c makes one from config and diff IDs, always the same for the same image: an OCI manifest of
//! uncompressed layers, compact JSON in a fixed order of fields (as skopeo makes one of Docker's schema 2).
//! Its digest is not the one by which any registry knows the image; the config's digest is the original.
//! In old archives a layer shared by two images is a symbolic link to the other's `layer.tar`.

use std::collections::{BTreeSet, HashMap};

use dimg::Digest;
use serde::Deserialize;

use super::archive::ArchiveFiles;
use super::blob::{Blob, MappedBytes};
use super::open::OpenImage;
use super::parse::normalised;
use super::spool::{Compression, Expect};
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::{Config, Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, write_manifest};

const WHAT: &str = "open image";

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Saved {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

pub(super) fn open(
    path: &std::path::Path,
    reference: Option<&str>,
    options: &Options,
    name: String,
) -> Result<OpenImage, SourceError> {
    let files = ArchiveFiles::open(path, options)?;
    let manifest_name = files.name("manifest.json");
    let file = files.get("manifest.json")?.ok_or_else(|| {
        SourceError::corrupt(WHAT, path.display().to_string(), "not a docker archive: no manifest.json")
    })?;
    if file.len() as u64 > MAX_MANIFEST_BYTES {
        let limit_bytes = MAX_MANIFEST_BYTES;
        return Err(SourceError::Limit { what: "read manifest", on: manifest_name, limit_bytes });
    }
    let images: Vec<Saved> = serde_json::from_slice(&file)
        .map_err(|error| SourceError::corrupt("read manifest", manifest_name, error.to_string()))?;
    let image = choose(&images, reference, &name)?;

    let config_name = files.name(&image.config);
    let config = member(&files, &image.config)?;
    if config.len() as u64 > MAX_CONFIG_BYTES {
        return Err(SourceError::Limit {
            what: "read config",
            on: config_name,
            limit_bytes: MAX_CONFIG_BYTES,
        });
    }
    let config_bytes = config.to_vec();
    let diff_ids = Config::parse(&config_bytes, &config_name)?.diff_ids;
    let layer_paths = image.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != layer_paths.len() {
        let why =
            format!("the config has {} diff IDs, the archive {} layers", diff_ids.len(), layer_paths.len());
        return Err(SourceError::corrupt(WHAT, name, why));
    }
    let mut layers = HashMap::new();
    let mut descriptors = Vec::new();
    for (path, diff_id) in std::iter::zip(layer_paths, diff_ids) {
        let layer = SavedLayer::open(&files, path, diff_id, options)?;
        descriptors.push((diff_id, layer.bytes.len() as u64));
        layers.insert(diff_id, layer);
    }
    let manifest = write_manifest((Digest::of(&config_bytes), config_bytes.len() as u64), &descriptors);
    let backend = SavedImage { layers, name: name.clone() };
    OpenImage::synthesized(Box::new(backend), manifest, config_bytes, options, name)
}

/// The image that `reference` names, or the only one there is.
fn choose<'a>(images: &'a [Saved], reference: Option<&str>, on: &str) -> Result<&'a Saved, SourceError> {
    let present = || {
        let tags: BTreeSet<_> = images.iter().flat_map(Saved::tags).map(String::as_str).collect();
        if tags.is_empty() { "none".to_owned() } else { tags.into_iter().collect::<Vec<_>>().join(", ") }
    };
    let not_found = |why| SourceError::NotFound { what: WHAT, on: on.to_owned(), why };
    match (reference, images) {
        (Some(text), _) => {
            let wanted = normalised(text).map_err(|why| SourceError::usage(on, why))?;
            let is_wanted = |tag: &String| tag == text || normalised(tag).as_ref() == Ok(&wanted);
            images
                .iter()
                .find(|image| image.tags().iter().any(is_wanted))
                .ok_or_else(|| not_found(format!("no image named {text:?}; names present: {}", present())))
        }
        (None, [only]) => Ok(only),
        (None, []) => Err(not_found("the archive has no image".to_owned())),
        (None, _) => {
            let why = format!("the archive has several images; add :REF; names present: {}", present());
            Err(SourceError::usage(on, why))
        }
    }
}

fn member(files: &ArchiveFiles, path: &str) -> Result<MappedBytes, SourceError> {
    files
        .get(path)?
        .ok_or_else(|| SourceError::corrupt("open blob", files.name(path), "missing from the archive"))
}

/// A layer of an archive.
struct SavedLayer {
    bytes: MappedBytes,
    /// Whether it was compressed, and so is unpacked and verified already.
    verified: bool,
    name: String,
}

impl SavedLayer {
    fn open(
        files: &ArchiveFiles,
        path: &str,
        diff_id: Digest,
        options: &Options,
    ) -> Result<Self, SourceError> {
        let bytes = member(files, path)?;
        let name = files.name(path);
        if Compression::detect(&bytes) == Compression::None {
            return Ok(Self { bytes, verified: false, name });
        }
        let expect = Expect { blob: None, diff_id: Some(diff_id) };
        let bytes = options.spool().unpack(Blob::Mapped(bytes), expect, &name)?;
        Ok(Self { bytes, verified: true, name })
    }
}

/// The layers of one image of an archive, by diff ID.
struct SavedImage {
    layers: HashMap<Digest, SavedLayer>,
    name: String,
}

impl Backend for SavedImage {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let layer = self.layers.get(&descriptor.digest).ok_or_else(|| {
            SourceError::corrupt("open blob", self.blob_name(descriptor), "missing from the archive")
        })?;
        let bytes = layer.bytes.clone();
        Ok(if layer.verified { Blob::Verified(bytes) } else { Blob::Mapped(bytes) })
    }

    fn blob_name(&self, descriptor: &Descriptor) -> String {
        let layer = self.layers.get(&descriptor.digest).map(|layer| layer.name.clone());
        layer.unwrap_or_else(|| format!("{} blob {}", self.name, descriptor.digest))
    }
}
