//! Signatures of deltas, as cosign makes them with a key: a *simple signing* payload that names the digest of the artifact's manifest, and an ECDSA
//! signature of it, P-256 with SHA-256.
//!
//! `cosign sign --key cosign.key REPOSITORY@DIGEST` puts them at the tag `sha256-<hex>.sig`, or among the referrers of what is signed. Both are
//! looked at; where a signature lies means nothing, only whether it verifies. Transparency logs and certificates are not looked at: the key is all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use d4c_sys::Map;
use dimg::Digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

use crate::error::SourceError;
use crate::manifest::Descriptor;
use crate::registry::Repository;

const VERIFY: &str = "verify signature";
const READ_KEY: &str = "read key";
/// Media type of the payload.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Type of the artifact that refers to what is signed.
const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// Annotation of a payload: its signature in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
const PAYLOAD_KIND: &str = "cosign container image signature";
/// Signatures of one artifact that are looked at.
const MAX_SIGNATURES: usize = 64;
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;

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

    fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(payload, signature).is_ok()
    }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// That the artifact whose manifest is `signed` has a signature in the repository that one of `keys` verifies.
///
/// # Errors
/// It has none: [`SourceError::Corrupt`], which says how many there are; or the registry does not answer.
pub fn verify(repository: &Repository, signed: Digest, keys: &[TrustedKey]) -> Result<(), SourceError> {
    let mut seen = 0;
    let tag = format!("sha256-{}.sig", signed.hex());
    match repository.tagged(&tag) {
        Ok(found) => {
            if any(repository, &found.bytes, signed, keys, &mut seen)? {
                return Ok(());
            }
        }
        Err(SourceError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    for referrer in repository.referrers(signed, ARTIFACT_TYPE)? {
        if seen >= MAX_SIGNATURES {
            break;
        }
        if referrer.artifact_type.as_deref().is_some_and(|kind| !kind.is_empty() && kind != ARTIFACT_TYPE) {
            continue;
        }
        match repository.manifest(referrer.digest) {
            Ok(found) => {
                if any(repository, &found.bytes, signed, keys, &mut seen)? {
                    return Ok(());
                }
            }
            // Removed meanwhile.
            Err(SourceError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let why = match seen {
        0 => "it is not signed".to_owned(),
        1 => "its signature is by none of the trusted keys".to_owned(),
        _ => format!("its {seen} signatures are by none of the trusted keys"),
    };
    Err(SourceError::corrupt(VERIFY, format!("{} delta {signed}", repository.name()), why))
}

/// Whether one of the signatures in `manifest` verifies.
fn any(
    repository: &Repository,
    manifest: &[u8],
    signed: Digest,
    keys: &[TrustedKey],
    seen: &mut usize,
) -> Result<bool, SourceError> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return Ok(false) };
    for layer in manifest.layers {
        if *seen >= MAX_SIGNATURES {
            break;
        }
        let signature = layer.annotations.as_ref().and_then(|annotations| annotations.get(SIGNATURE));
        let (Some(signature), Ok(digest)) = (signature, layer.digest.parse::<Digest>()) else { continue };
        if layer.media_type != PAYLOAD_TYPE || layer.size > MAX_PAYLOAD_BYTES {
            continue;
        }
        *seen += 1;
        let Ok(signature) = STANDARD.decode(signature) else { continue };
        let blob = Descriptor {
            media_type: layer.media_type,
            digest,
            size: layer.size,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let failed = |error| SourceError::io(VERIFY, Path::new("temporary file"))(error);
        let file = repository.fetch_blob(&blob, tempfile::tempfile().map_err(failed)?, None)?;
        let payload = Map::file(&file).map_err(failed)?;
        if is_signed(&payload, &signature, signed, keys) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of `keys` signed `payload`, and this names `signed`.
fn is_signed(payload: &[u8], signature: &[u8], signed: Digest, keys: &[TrustedKey]) -> bool {
    if !keys.iter().any(|key| key.verifies(payload, signature)) {
        return false;
    }
    // Read only now that it is known whose it is.
    serde_json::from_slice::<Payload>(payload).is_ok_and(|payload| {
        payload.critical.r#type == PAYLOAD_KIND && payload.critical.image.digest == signed.to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by OpenSSL 3.0: `openssl ecparam -genkey -name prime256v1 -noout`, `openssl ec -pubout`, `openssl dgst -sha256 -sign`.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUtrVJ5uMOgyXqGufK82wS2t4flaT\n\
        qO4/Vj/J6x9uyPR/aYeHiUD5GxPGGN9hAyqYiQlixsIZ0kXJuWqfBmPI5g==\n\
        -----END PUBLIC KEY-----";
    const OTHER: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfmg+qQq+WAzoL+8ORuLZoiGcJQRr\n\
        2Z+Xvo1STi4j9LQDupOedg/VJ0BRgylOcT3YZIOL8E8pWClH6ivLLSdwpw==\n\
        -----END PUBLIC KEY-----";
    const P384: &str = "-----BEGIN PUBLIC KEY-----\n\
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEhS0Mp2nI4C++WL1WdgE/20PcOhlMC/Nw\n\
        CnraHqGdAX6gRRYyLKHz4Fe7KKcurhwmsVWLdR9hXBLY+HJSPOs/w5B9c+OUciRe\n\
        6bfVs4T36XqfVo56poJsG6h+Zq5hXRVK\n\
        -----END PUBLIC KEY-----";
    const PAYLOAD: &str = r#"{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":"sha256:abababababababababababababababababababababababababababababababab"},"type":"cosign container image signature"},"optional":null}"#;
    const BY_KEY: &str =
        "MEUCIBvrHXl16vhJuqP3FLu9rVak7WIeK4lwAd1jJL9Hs6XZAiEAmbRHOQ+TXM32ubKK+Z/uJ6bXXS742XOrNog8yyKIFkY=";

    fn key(text: &str) -> TrustedKey {
        TrustedKey::parse(text, "key").unwrap()
    }

    #[test]
    fn what_openssl_signed_verifies_for_its_key_and_digest_alone() {
        let signature = STANDARD.decode(BY_KEY).unwrap();
        let digest = Digest([0xab; 32]);
        let signed = |payload: &str, digest, keys: &[TrustedKey]| {
            is_signed(payload.as_bytes(), &signature, digest, keys)
        };
        assert!(signed(PAYLOAD, digest, &[key(KEY)]) && signed(PAYLOAD, digest, &[key(OTHER), key(KEY)]));
        assert!(!signed(PAYLOAD, digest, &[key(OTHER)]) && !signed(PAYLOAD, digest, &[]));
        assert!(!signed(PAYLOAD, Digest([0xac; 32]), &[key(KEY)]));
        assert!(!signed(&PAYLOAD.replace("null", "{}"), digest, &[key(KEY)]));
        let mut broken = signature.clone();
        for at in 0..broken.len() {
            broken[at] ^= 1;
            assert!(!is_signed(PAYLOAD.as_bytes(), &broken, digest, &[key(KEY)]), "{at}");
            broken[at] ^= 1;
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let refused = |text: &str| TrustedKey::parse(text, "cosign.pub").unwrap_err().to_string();
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----"), "read key: cosign.pub: not a public key in PEM");
        assert_eq!(refused(P384), "read key: cosign.pub: not an ECDSA key of the curve P-256");
        assert_eq!(refused(&KEY.replace("MFkw", "M*kw")), "read key: cosign.pub: not base64");
    }
}
