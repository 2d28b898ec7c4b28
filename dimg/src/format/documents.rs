//! A cdimg's manifest and config (`FORMAT.md`, section 2): compressed behind typical ones, each digest written once.

use super::DimgError;
use crate::Digest;
use crate::engine::compress::{Codec, Decoder, Kind, Level, pack, pack_bare_after};
use crate::format::blob;
use crate::limits::MAX_DOCUMENT_BYTES;
use crate::wire::{Reader, WireError, put_u64, put_usize};
use std::collections::HashMap;
use std::io::Read as _;

/// Pieces of manifests and configs as builders write them. Part of the format.
const DICTIONARY: &[u8] = include_bytes!("documents.dict");
/// The codec, in the head, of a bare chunk behind [`DICTIONARY`].
const BEHIND: u64 = 4;

/// Stands for the next digest of the list.
const NEXT: u8 = 0;
/// Stands, with a varint, for a digest that was there already.
const AGAIN: u8 = 1;
const DIGEST_BYTES: usize = 32;
/// Bytes of a digest as text.
const TEXT_BYTES: usize = 71;
const NAME: &str = "section DOCUMENTS";

/// Manifest and config as they are in a file.
///
/// # Errors
/// One is over its limit, or holds a byte that JSON cannot, or the compressor fails.
pub(super) fn encode(manifest: &[u8], config: &[u8], level: Level) -> Result<Vec<u8>, DimgError> {
    for document in [manifest, config] {
        if document.len() as u64 > MAX_DOCUMENT_BYTES {
            let bytes = document.len();
            let reason =
                format!("a manifest or config of {bytes} bytes exceeds the limit of {MAX_DOCUMENT_BYTES}");
            return Err(DimgError::Refused(reason));
        }
        if document.iter().any(|&byte| byte <= AGAIN) {
            return Err(DimgError::Refused("a manifest or config has a byte 0 or 1".to_owned()));
        }
    }
    let mut folding = Folding::default();
    let folded = folding.fold(config);
    folding.known(Digest::of(config));
    let mut raw = Vec::with_capacity(manifest.len() + config.len());
    put_usize(&mut raw, folded.len());
    raw.extend_from_slice(&folded);
    raw.extend_from_slice(&folding.fold(manifest));
    let mut packed = pack(&[&raw], Kind::Bytes, level, blob::WINDOW_LOG)?;
    let mut tag = u64::from(packed.codec.tag());
    if let Some(behind) = pack_bare_after(DICTIONARY, &raw, level.max(Level::Default))?
        && behind.stored.len() < packed.stored.len()
    {
        (packed, tag) = (behind, BEHIND);
    }
    let mut out = Vec::with_capacity(packed.stored.len() + folding.new.len() + 8);
    put_u64(&mut out, packed.raw_bytes << 3 | tag);
    put_usize(&mut out, packed.stored.len());
    out.extend_from_slice(&packed.stored);
    out.extend_from_slice(&folding.new);
    Ok(out)
}

/// The manifest and config that [`encode`] wrote.
///
/// # Errors
/// The bytes are not what the format allows.
pub(super) fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    let mut reader = Reader::new(bytes, NAME);
    let before = reader.clone();
    let head = reader.u64("head")?;
    let raw_bytes = head >> 3;
    if raw_bytes > 2 * MAX_DOCUMENT_BYTES + 10 {
        let limit = 2 * MAX_DOCUMENT_BYTES + 10;
        return Err(before.error("head", format!("{raw_bytes} bytes exceed the limit of {limit}")));
    }
    let stored_bytes = reader.count(bytes.len(), "stored bytes")?;
    let at = reader.clone();
    let stored = reader.take(stored_bytes, "texts")?;
    let raw = match u8::try_from(head & 7).ok().and_then(Codec::from_tag) {
        Some(codec) => blob::unpack(codec, stored, raw_bytes),
        None if head & 7 == BEHIND => {
            let mut raw = Vec::new();
            Decoder::bare_after(DICTIONARY, stored, raw_bytes)
                .and_then(|mut decoder| decoder.read_to_end(&mut raw))
                .map(|_| raw)
        }
        None => return Err(before.error("head", format!("codec {} is not known", head & 7))),
    };
    let raw = raw.map_err(|error| at.error("texts", error.to_string()))?;
    let mut texts = Reader::new(&raw, "documents, decompressed");
    let folded_bytes = texts.count(raw.len(), "bytes of the config")?;
    let mut list = Vec::new();
    let config = unfold(texts.take(folded_bytes, "config")?, &mut reader, &mut list)?;
    list.push(Digest::of(&config));
    let rest = texts.remaining();
    let manifest = unfold(texts.take(rest, "manifest")?, &mut reader, &mut list)?;
    reader.end()?;
    Ok((manifest, config))
}

/// The digests met, by their numbers, and the bytes of those that stand in the list.
#[derive(Default)]
struct Folding {
    numbers: HashMap<Digest, usize>,
    listed: usize,
    new: Vec<u8>,
}

impl Folding {
    fn known(&mut self, digest: Digest) {
        self.numbers.entry(digest).or_insert(self.listed);
        self.listed += 1;
    }

    /// The text with its digests replaced.
    fn fold(&mut self, text: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
        while let Some(&byte) = text.get(at) {
            let digest = text[at..].starts_with(b"sha256:").then(|| text.get(at..at + TEXT_BYTES)).flatten();
            let digest = digest.and_then(|text| std::str::from_utf8(text).ok()?.parse::<Digest>().ok());
            let Some(digest) = digest else {
                out.push(byte);
                at += 1;
                continue;
            };
            match self.numbers.get(&digest) {
                Some(&number) => {
                    out.push(AGAIN);
                    put_usize(&mut out, number);
                }
                None => {
                    out.push(NEXT);
                    self.new.extend_from_slice(&digest.0);
                    self.known(digest);
                }
            }
            at += TEXT_BYTES;
        }
        out
    }
}

/// The text whose digests were replaced; new ones are taken from `new`.
fn unfold(folded: &[u8], new: &mut Reader<'_>, list: &mut Vec<Digest>) -> Result<Vec<u8>, WireError> {
    let mut folded = Reader::new(folded, "documents, decompressed");
    let mut out = Vec::with_capacity(folded.remaining());
    while folded.remaining() > 0 {
        let before = folded.clone();
        let digest = match folded.byte("text")? {
            NEXT => {
                let mut digest = Digest([0; DIGEST_BYTES]);
                digest.0.copy_from_slice(new.take(DIGEST_BYTES, "digest")?);
                list.push(digest);
                digest
            }
            AGAIN => {
                let number = folded.count(list.len(), "number of a digest")?;
                *list.get(number).ok_or_else(|| before.error("number of a digest", "it is not there"))?
            }
            byte => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(digest.to_string().as_bytes());
        if out.len() as u64 > MAX_DOCUMENT_BYTES {
            break;
        }
    }
    if out.len() as u64 > MAX_DOCUMENT_BYTES {
        let why = format!("a manifest or config of more than {MAX_DOCUMENT_BYTES} bytes");
        return Err(folded.error("text", why));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(number: u8) -> String {
        Digest::of(&[number]).to_string()
    }

    proptest! {
        #[test]
        fn documents_come_back(
            parts in prop::collection::vec((".{0,9}", 0u8..4), 0..20),
            damage: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let text: String = parts.iter().map(|(text, number)| format!("{text}{}", digest(*number))).collect();
            let config: String = text.chars().filter(|char| *char > '\u{1}').collect();
            let manifest = format!("{} {} sha256:12", Digest::of(config.as_bytes()), digest(7));
            for level in [Level::Fast, Level::Default] {
                let mut bytes = encode(manifest.as_bytes(), config.as_bytes(), level).unwrap();
                let (read, read_config) = decode(&bytes).unwrap();
                prop_assert_eq!((read, read_config), (manifest.clone().into_bytes(), config.clone().into_bytes()));
                prop_assert!(decode(&bytes[..bytes.len() - 1]).is_err());
                let at = damage.index(bytes.len());
                bytes[at] ^= 1 << bit;
                let _ = decode(&bytes);
            }
        }
    }

    #[test]
    fn each_check_refuses() {
        let error = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        // A head of raw bytes; the config's length, the config, the manifest; digests.
        assert_eq!(decode(&[3 << 3, 3, 1, b'c', b'm']).unwrap(), (b"m".to_vec(), b"c".to_vec()));
        assert!(error(&[3 << 3, 3, 3, b'c', b'm']).contains("bytes wanted"));
        assert!(error(&[3 << 3 | 7, 3, 1, b'c', b'm']).contains("codec 7 is not known"));
        assert!(error(&[3 << 3 | 4, 3, 1, b'c', b'm']).contains("texts at offset 2"));
        assert!(error(&[3 << 3, 3, 1, b'c', b'm', 0]).contains("1 bytes too many"));
        assert!(error(&[3 << 3, 3, 1, b'c', NEXT]).contains("digest at offset 5"));
        assert!(error(&[4 << 3, 4, 1, b'c', AGAIN, 1]).contains("number of a digest"));
        assert!(error(&[3 << 3, 3, 1, AGAIN, b'm']).contains("number of a digest"));
        assert!(error(&[0xff, 0xff, 0xff, 0xff, 0x7f, 0]).contains("exceed the limit"));
        // The config's own digest is the first of the list when it has none.
        let (manifest, _) = decode(&[4 << 3, 4, 1, b'c', AGAIN, 0]).unwrap();
        assert_eq!(manifest, Digest::of(b"c").to_string().into_bytes());
        assert!(matches!(encode(b"m\0", b"c", Level::Default), Err(DimgError::Refused(_))));
    }

    #[test]
    fn usual_documents_are_small() {
        let layer = |number: u8, size: u32| {
            let digest = digest(number);
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{size}}}"#
            )
        };
        let config = format!(
            r#"{{"created":"2026-11-27T11:00:14.1Z","architecture":"amd64","os":"linux","config":{{"Cmd":["bash"]}},"rootfs":{{"type":"layers","diff_ids":["{}","{}"]}},"history":[{{"created":"2026-11-27T11:00:52.2Z","created_by":"umoci repack"}}]}}"#,
            digest(1),
            digest(2),
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":552}},"layers":[{},{}]}}"#,
            Digest::of(config.as_bytes()),
            layer(3, 50_900_837),
            layer(4, 24_320_901),
        );
        let bytes = encode(manifest.as_bytes(), config.as_bytes(), Level::Default).unwrap();
        assert!(bytes.len() < 4 * DIGEST_BYTES + 150, "{}", bytes.len());
    }
}
