//! The public keys that deltas may be signed with.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dimg::Digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::error::SourceError;

const READ_KEY: &str = "read key";

/// What stands before the point of a P-256 key (RFC 5480): a sequence of the algorithm `id-ecPublicKey` on `prime256v1` and a bit string of 66 bytes.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: 4, then two coordinates.
const POINT_BYTES: usize = 65;

/// A public key that deltas may be signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKey {
    point: [u8; POINT_BYTES],
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedKey({})", Digest::of(&self.point))
    }
}

impl TrustedKey {
    /// The key in `text`, the PEM file that `cosign generate-key-pair` and `openssl ec -pubout` write. `on` names it in errors.
    ///
    /// # Errors
    /// It is no public key, or none of P-256.
    pub fn parse(text: &str, on: &str) -> Result<Self, SourceError> {
        let wrong = |why: &str| SourceError::corrupt(READ_KEY, on, why);
        let body = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .ok_or_else(|| wrong("not a public key in PEM"))?
            .0;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| wrong("not base64"))?;
        let point = der.strip_prefix(&P256).and_then(|point| point.try_into().ok());
        let point: [u8; POINT_BYTES] = point.ok_or_else(|| wrong("not an ECDSA key of the curve P-256"))?;
        if point[0] != 4 {
            return Err(wrong("not an uncompressed point"));
        }
        Ok(Self { point })
    }

    /// The key in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or as for [`TrustedKey::parse`].
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let text = std::fs::read_to_string(path).map_err(SourceError::io(READ_KEY, path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Whether it made `signature`, a DER sequence of two integers, of `payload`.
    pub(super) fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(payload, signature).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    // Made by OpenSSL 3.0: `openssl ecparam -genkey -name prime256v1 -noout`, `openssl ec -pubout`, `openssl dgst -sha256 -sign`.
    pub(in super::super) const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUtrVJ5uMOgyXqGufK82wS2t4flaT\n\
        qO4/Vj/J6x9uyPR/aYeHiUD5GxPGGN9hAyqYiQlixsIZ0kXJuWqfBmPI5g==\n\
        -----END PUBLIC KEY-----";
    pub(in super::super) const OTHER: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfmg+qQq+WAzoL+8ORuLZoiGcJQRr\n\
        2Z+Xvo1STi4j9LQDupOedg/VJ0BRgylOcT3YZIOL8E8pWClH6ivLLSdwpw==\n\
        -----END PUBLIC KEY-----";
    const P384: &str = "-----BEGIN PUBLIC KEY-----\n\
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEhS0Mp2nI4C++WL1WdgE/20PcOhlMC/Nw\n\
        CnraHqGdAX6gRRYyLKHz4Fe7KKcurhwmsVWLdR9hXBLY+HJSPOs/w5B9c+OUciRe\n\
        6bfVs4T36XqfVo56poJsG6h+Zq5hXRVK\n\
        -----END PUBLIC KEY-----";

    pub(in super::super) fn key(text: &str) -> TrustedKey {
        TrustedKey::parse(text, "key").unwrap()
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let refused = |text: &str| TrustedKey::parse(text, "cosign.pub").unwrap_err().to_string();
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----"), "read key: cosign.pub: not a public key in PEM");
        assert_eq!(refused(P384), "read key: cosign.pub: not an ECDSA key of the curve P-256");
        assert_eq!(refused(&KEY.replace("MFkw", "M*kw")), "read key: cosign.pub: not base64");
    }
}
