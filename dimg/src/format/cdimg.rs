//! A cdimg: a dimg with the original manifest and config of its image (`FORMAT.md`, section 1).

use super::header::{Fixed, VERSION, check8};
use super::{Assembled, DIMG_MAGIC, Dimg, DimgError, Target, blob};
use crate::Digest;
use crate::content::Bytes;
use crate::engine::compress::{Codec, Kind, Level, pack};
use crate::limits::MAX_DOCUMENT_BYTES;
use serde::Deserialize;
use std::io::Write;

/// First bytes of a cdimg.
pub const CDIMG_MAGIC: [u8; 8] = *b"\x89CDIMG\r\n";

const HEADER_BYTES: usize = 48;
const NAME: &str = "cdimg header";

/// A cdimg: what is signed, and how to make it.
#[derive(Debug)]
pub struct Cdimg {
    manifest: Vec<u8>,
    config: Vec<u8>,
    dimg_bytes: Bytes,
    dimg: Dimg,
}

impl Cdimg {
    /// Opens the cdimg that `bytes` are. Manifest and config have the digests that the dimg names, the manifest names the
    /// config, and the config has the layers' diff IDs.
    ///
    /// # Errors
    /// One of these does not hold, or a header, table or META is not what the format allows.
    pub fn open(bytes: Bytes) -> Result<Self, DimgError> {
        let corrupt = |at: u64, reason: String| DimgError::corrupt(NAME, at, reason);
        if !bytes.starts_with(&CDIMG_MAGIC) {
            return Err(corrupt(0, "not a cdimg".to_owned()));
        }
        if bytes.len() < HEADER_BYTES {
            let reason = format!("the file ends within the first {HEADER_BYTES} bytes");
            return Err(corrupt(bytes.len() as u64, reason));
        }
        let fixed = Fixed(&bytes);
        let version = fixed.u16(8);
        if version != VERSION {
            let (what, value) = ("format version", u64::from(version));
            return Err(DimgError::Unsupported { section: NAME, offset: 8, what, value });
        }
        if fixed.u64(40) != check8(&bytes[..40]) {
            return Err(corrupt(40, "the checksum of the header is wrong".to_owned()));
        }
        if fixed.u16(10) != 0 {
            return Err(corrupt(10, format!("flags {:#x} are not known", fixed.u16(10))));
        }
        if fixed.u16(30) != 0 {
            return Err(corrupt(30, "padding is not zero".to_owned()));
        }
        let mut next = HEADER_BYTES as u64;
        let [manifest_tag, config_tag] = fixed.bytes(28);
        let manifest = document("manifest", &bytes, 12, &mut next, (28, manifest_tag))?;
        let config_at = next;
        let config = document("config", &bytes, 20, &mut next, (29, config_tag))?;
        let dimg_bytes = fixed.u64(32);
        let rest = usize::try_from(next).ok().and_then(|next| bytes.slice(next..)).unwrap_or_default();
        if rest.len() as u64 != dimg_bytes {
            return Err(corrupt(32, format!("the dimg has {} bytes, not {dimg_bytes}", rest.len())));
        }
        let dimg = Dimg::open_at(rest.clone(), next)?;
        let target = dimg.target();
        let documents = [
            ("manifest", HEADER_BYTES as u64, target.manifest, &manifest),
            ("config", config_at, target.config, &config),
        ];
        for (section, offset, expected, document) in documents {
            let found = Digest::of(document);
            if found != expected {
                return Err(DimgError::WrongDocument { section, offset, expected, found });
            }
        }
        check_documents(&manifest, &config, target)
            .map_err(|(section, reason)| DimgError::corrupt(section, HEADER_BYTES as u64, reason))?;
        Ok(Self { manifest, config, dimg_bytes: rest, dimg })
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

    /// The dimg's bytes.
    pub fn dimg_bytes(&self) -> &Bytes {
        &self.dimg_bytes
    }
}

/// One of the two documents: `at` is where its sizes stand, `codec` where its codec stands and which it is.
fn document(
    section: &'static str,
    bytes: &[u8],
    at: usize,
    next: &mut u64,
    (tag_at, tag): (u64, u8),
) -> Result<Vec<u8>, DimgError> {
    let fixed = Fixed(bytes);
    let (stored_bytes, raw_bytes) = (u64::from(fixed.u32(at)), u64::from(fixed.u32(at + 4)));
    let codec = Codec::from_tag(tag).ok_or(DimgError::Unsupported {
        section: NAME,
        offset: tag_at,
        what: "codec",
        value: u64::from(tag),
    })?;
    for (at, count) in [(at, stored_bytes), (at + 4, raw_bytes)] {
        if count > MAX_DOCUMENT_BYTES {
            let reason = format!("a {section} of {count} bytes exceeds the limit of {MAX_DOCUMENT_BYTES}");
            return Err(DimgError::corrupt(NAME, at as u64, reason));
        }
    }
    let start = usize::try_from(*next).unwrap_or(usize::MAX);
    let stored =
        usize::try_from(stored_bytes).ok().and_then(|count| bytes.get(start..start.checked_add(count)?));
    let stored = stored.ok_or_else(|| DimgError::corrupt(section, *next, "the file ends within it"))?;
    let raw = blob::unpack(codec, stored, raw_bytes)
        .map_err(|error| DimgError::corrupt(section, *next, error.to_string()))?;
    *next += stored_bytes;
    Ok(raw)
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

/// That the manifest names the config and the config the layers.
pub(super) fn check_documents(
    manifest: &[u8],
    config: &[u8],
    target: &Target,
) -> Result<(), (&'static str, String)> {
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|error| ("manifest", error.to_string()))?;
    if manifest.config.digest != target.config.to_string() {
        let reason = format!("it names the config {:?}, not {}", manifest.config.digest, target.config);
        return Err(("manifest", reason));
    }
    let config: Config = serde_json::from_slice(config).map_err(|error| ("config", error.to_string()))?;
    if !config.rootfs.diff_ids.iter().eq(target
        .diff_ids()
        .map(|diff_id| diff_id.to_string())
        .collect::<Vec<_>>()
        .iter())
    {
        return Err(("config", "its diff IDs are not those of the layers".to_owned()));
    }
    Ok(())
}

/// What stands before the dimg in a cdimg. The documents are not looked at; [`Cdimg::open`] does.
///
/// # Errors
/// A document exceeds its limit, or a compressor fails.
pub fn cdimg_head(
    manifest: &[u8],
    config: &[u8],
    dimg_bytes: u64,
    level: Level,
) -> Result<Vec<u8>, DimgError> {
    let mut sizes = Vec::with_capacity(4);
    let mut tags = Vec::with_capacity(2);
    let mut stored = Vec::new();
    for document in [manifest, config] {
        if document.len() as u64 > MAX_DOCUMENT_BYTES {
            let bytes = document.len();
            let reason =
                format!("a manifest or config of {bytes} bytes exceeds the limit of {MAX_DOCUMENT_BYTES}");
            return Err(DimgError::Refused(reason));
        }
        let packed = pack(&[document], Kind::Bytes, level, blob::WINDOW_LOG)?;
        for count in [packed.stored.len() as u64, packed.raw_bytes] {
            // Both are at most MAX_DOCUMENT_BYTES.
            sizes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        tags.push(packed.codec.tag());
        stored.extend_from_slice(&packed.stored);
    }
    let mut out = CDIMG_MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&sizes);
    out.extend_from_slice(&tags);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&dimg_bytes.to_le_bytes());
    let check = check8(&out);
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(&stored);
    Ok(out)
}

/// Writes a cdimg of a dimg just made.
///
/// # Errors
/// As for [`cdimg_head`] and [`Assembled::write_to`].
pub fn write_cdimg(
    manifest: &[u8],
    config: &[u8],
    dimg: &mut Assembled,
    level: Level,
    out: &mut dyn Write,
) -> Result<(), DimgError> {
    let head = cdimg_head(manifest, config, dimg.bytes(), level)?;
    out.write_all(&head).map_err(DimgError::Output)?;
    dimg.write_to(out)
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
        if bytes.starts_with(&CDIMG_MAGIC) {
            Ok(Self::Cdimg(Cdimg::open(bytes)?))
        } else if bytes.starts_with(&DIMG_MAGIC) {
            Ok(Self::Dimg(Dimg::open(bytes)?))
        } else {
            Err(DimgError::corrupt("file", 0, "neither a cdimg nor a dimg"))
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
