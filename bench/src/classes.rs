//! Where the bytes of our deltas are, by what the contents are.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use dimg::content::{Bytes, ContentSource, open_exact};
use dimg::format::{Assembled, Dimg, Share};

/// What a content is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// ELF files.
    Executables,
    /// gzip, zip, xz, zstd, PNG.
    Compressed,
    /// UTF-8 without control characters: scripts, sources, documents.
    Text,
    /// Whatever else.
    Other,
    /// The columns of the index, recipes and frames.
    Metadata,
    /// Of new contents, 32 bytes each, which nothing compresses.
    Digests,
}

impl Class {
    fn of(bytes: &[u8]) -> Self {
        const COMPRESSED: [&[u8]; 5] =
            [&[0x1f, 0x8b], b"PK\x03\x04", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x89PNG"];
        let head = &bytes[..bytes.len().min(4096)];
        if head.starts_with(b"\x7fELF") {
            Self::Executables
        } else if COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
            Self::Compressed
        } else if !head.iter().any(|&byte| byte < b' ' && !b"\t\n\r\x0c\x1b".contains(&byte)) {
            Self::Text
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Executables => "ELF",
            Self::Compressed => "compressed",
            Self::Text => "text and scripts",
            Self::Other => "other contents",
            Self::Metadata => "metadata",
            Self::Digests => "digests",
        })
    }
}

/// The shares of a delta. A frame that several contents use is shared by their sizes.
pub fn shares(made: &mut Assembled, target: &dyn ContentSource) -> Result<BTreeMap<Class, Share>> {
    let mut file = Vec::new();
    made.write_to(&mut file)?;
    let dimg = Dimg::open(Bytes::from(file))?;
    let mut shares = dimg.shares(|content, _| anyhow::Ok(Class::of(&open_exact(target, content)?)))?;
    let digests = 32 * shares.values().map(|share| share.contents).sum::<u64>();
    let metadata = dimg.bytes().saturating_sub(dimg.data_bytes());
    shares.insert(Class::Digests, Share { bytes: digests, ..Share::default() });
    shares.insert(Class::Metadata, Share { bytes: metadata.saturating_sub(digests), ..Share::default() });
    Ok(shares)
}
