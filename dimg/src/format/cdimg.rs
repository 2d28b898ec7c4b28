//! A cdimg: a dimg with the original manifest and config of its image (`FORMAT.md`, section 1).

use super::header::{CDIMG_MAGIC, Header, Section, slice};
use super::meta::Named;
use super::{Assembled, Dimg, DimgError, Meta, Target, documents};
use crate::Digest;
use crate::content::Bytes;
use crate::engine::compress::Level;
use serde::Deserialize;
use std::io::Write;

/// A cdimg: what is signed, and how to make it.
#[derive(Debug)]
pub struct Cdimg {
    manifest: Vec<u8>,
    config: Vec<u8>,
    dimg: Dimg,
}

impl Cdimg {
    /// Opens the cdimg that `bytes` are. The manifest names the config, the config as many layers as META.
    ///
    /// # Errors
    /// One of these does not hold, or header, documents or META are not what the format allows.
    pub fn open(bytes: Bytes) -> Result<Self, DimgError> {
        let header = Header::parse(&bytes)?;
        let place = header.place(Section::Documents);
        let corrupt = |reason: &str| DimgError::corrupt(Section::Documents.name(), place.start, reason);
        if !header.is_cdimg {
            return Err(DimgError::corrupt("header", 0, "not a cdimg"));
        }
        let stored = slice(&bytes, place).ok_or_else(|| corrupt("it is not there"))?;
        let (manifest, config) = documents::decode(stored)
            .map_err(|error| DimgError::wire(Section::Documents.name(), place.start, true, &error))?;
        let named =
            named(&manifest, &config).map_err(|(which, reason)| corrupt(&format!("{which}: {reason}")))?;
        let dimg = Dimg::of(bytes, header, Some(&named))?;
        Ok(Self { manifest, config, dimg })
    }

    /// The image's manifest, byte for byte.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The image's config, byte for byte.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The dimg.
    pub fn dimg(&self) -> &Dimg {
        &self.dimg
    }
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// What the documents name: the manifest has to name the config.
pub(super) fn named(manifest: &[u8], config: &[u8]) -> Result<Named, (&'static str, String)> {
    let digest = Digest::of(config);
    let read: Manifest = serde_json::from_slice(manifest).map_err(|error| ("manifest", error.to_string()))?;
    if read.config.digest != digest.to_string() {
        let reason = format!("it names the config {:?}, not {digest}", read.config.digest);
        return Err(("manifest", reason));
    }
    let read: Config = serde_json::from_slice(config).map_err(|error| ("config", error.to_string()))?;
    let diff_ids = read.rootfs.diff_ids.iter().map(|text| text.parse());
    let diff_ids = diff_ids.collect::<Result<_, _>>().map_err(|error| ("config", format!("{error}")))?;
    Ok(Named { manifest: Digest::of(manifest), config: digest, diff_ids })
}

/// That the documents are those of `target`.
///
/// # Errors
/// A document has another digest, or names other layers.
fn check_documents(manifest: &[u8], config: &[u8], target: &Target) -> Result<(), DimgError> {
    for (section, document, expected) in
        [("manifest", manifest, target.manifest), ("config", config, target.config)]
    {
        let found = Digest::of(document);
        if found != expected {
            return Err(DimgError::WrongDocument { section, expected, found });
        }
    }
    let named = named(manifest, config)
        .map_err(|(which, reason)| DimgError::Refused(format!("the {which}: {reason}")))?;
    match named.diff_ids.iter().copied().eq(target.diff_ids()) {
        true => Ok(()),
        false => Err(DimgError::Refused("the config's diff IDs are not those of the layers".to_owned())),
    }
}

/// The section DOCUMENTS and the section META for a cdimg of the image that `meta` names.
///
/// # Errors
/// The documents are others than the dimg names, or exceed a limit, or a compressor fails.
pub(super) fn with_documents(
    manifest: &[u8],
    config: &[u8],
    meta: &Meta,
    level: Level,
) -> Result<(Vec<u8>, Vec<u8>), DimgError> {
    check_documents(manifest, config, &meta.target)?;
    Ok((documents::encode(manifest, config, level)?, meta.encode(true)))
}

/// Writes a cdimg of a dimg just made.
///
/// # Errors
/// The documents are others than the dimg names, or exceed a limit; or as for [`Assembled::write_to`].
pub fn write_cdimg(
    manifest: &[u8],
    config: &[u8],
    dimg: &mut Assembled,
    level: Level,
    out: &mut dyn Write,
) -> Result<(), DimgError> {
    let head = dimg.cdimg_head(manifest, config, level)?;
    out.write_all(&head).map_err(DimgError::Output)?;
    dimg.write_data(out)
}

/// A file of either kind.
#[derive(Debug)]
pub enum DeltaFile {
    /// A dimg alone.
    Dimg(Dimg),
    /// A dimg with manifest and config.
    Cdimg(Cdimg),
}

impl DeltaFile {
    /// Opens what `bytes` are, by their first bytes.
    ///
    /// # Errors
    /// They are neither, or as for [`Dimg::open`] and [`Cdimg::open`].
    pub fn open(bytes: Bytes) -> Result<Self, DimgError> {
        match bytes.starts_with(&CDIMG_MAGIC) {
            true => Ok(Self::Cdimg(Cdimg::open(bytes)?)),
            false => Ok(Self::Dimg(Dimg::open(bytes)?)),
        }
    }

    /// [`Dimg::forget_edit`].
    pub fn forget_edit(&mut self) {
        match self {
            Self::Dimg(dimg) => dimg.forget_edit(),
            Self::Cdimg(cdimg) => cdimg.dimg.forget_edit(),
        }
    }

    /// The dimg.
    pub fn dimg(&self) -> &Dimg {
        match self {
            Self::Dimg(dimg) => dimg,
            Self::Cdimg(cdimg) => cdimg.dimg(),
        }
    }

    /// The cdimg, if it is one.
    pub fn cdimg(&self) -> Option<&Cdimg> {
        match self {
            Self::Dimg(_) => None,
            Self::Cdimg(cdimg) => Some(cdimg),
        }
    }

    /// The name of its kind.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Dimg(_) => "dimg",
            Self::Cdimg(_) => "cdimg",
        }
    }
}
