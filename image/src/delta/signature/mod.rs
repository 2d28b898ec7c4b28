//! Signatures of deltas by a key, ECDSA on P-256 with SHA-256, as `cosign sign --key cosign.key REPOSITORY@DIGEST` makes them. Both forms name
//! the digest of the artifact's manifest:
//!
//! - a *bundle* among the referrers of what is signed (cosign 3): see [`bundle`];
//! - a *simple signing* payload (cosign 1 and 2), with its signature in an annotation, at the tag `sha256-<hex>.sig` or among the referrers.
//!
//! Where a signature lies means nothing, only whether it verifies. Transparency logs and certificates are not looked at: the key is all.

mod bundle;
mod key;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use d4c_sys::Map;
use dimg::Digest;
use serde::Deserialize;

use super::artifact::EMPTY_TYPE;
use crate::error::SourceError;
use crate::manifest::Descriptor;
use crate::registry::{Partial, Repository};
use bundle::BUNDLE_TYPE;
pub use key::TrustedKey;

const VERIFY: &str = "verify signature";
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
/// Of a bundle, most is what a transparency log says.
const MAX_PAYLOAD_BYTES: u64 = 256 << 10;

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
    if let Some(found) = unless_gone(repository.tagged(&tag))?
        && any(repository, &found.bytes, signed, keys, &mut seen)?
    {
        return Ok(());
    }
    let mut looked = BTreeSet::new();
    for artifact_type in [BUNDLE_TYPE, ARTIFACT_TYPE] {
        for referrer in repository.referrers(signed, artifact_type)? {
            // Some registries list the config's media type instead, and do not filter.
            let listed = referrer.artifact_type.as_deref().unwrap_or_default();
            if seen >= MAX_SIGNATURES
                || !["", EMPTY_TYPE, artifact_type].contains(&listed)
                || !looked.insert(referrer.digest)
            {
                continue;
            }
            // It may be removed meanwhile.
            if let Some(found) = unless_gone(repository.manifest(referrer.digest))?
                && any(repository, &found.bytes, signed, keys, &mut seen)?
            {
                return Ok(());
            }
        }
    }
    let why = match seen {
        0 => "it is not signed".to_owned(),
        1 => "its signature is by none of the trusted keys".to_owned(),
        _ => format!("its {seen} signatures are by none of the trusted keys"),
    };
    Err(SourceError::corrupt(VERIFY, format!("{} delta {signed}", repository.name()), why))
}

/// Nothing where there is nothing, or something else than its digest says: others may have signatures that are whole.
fn unless_gone<T>(found: Result<T, SourceError>) -> Result<Option<T>, SourceError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(
            SourceError::NotFound { .. }
            | SourceError::Corrupt { .. }
            | SourceError::Digest { .. }
            | SourceError::Size { .. },
        ) => Ok(None),
        Err(error) => Err(error),
    }
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
        let annotated = layer.annotations.as_ref().and_then(|annotations| annotations.get(SIGNATURE));
        let signature = match (layer.media_type.as_str(), annotated) {
            (PAYLOAD_TYPE, Some(signature)) => Some(STANDARD.decode(signature).unwrap_or_default()),
            (BUNDLE_TYPE, _) => None,
            _ => continue,
        };
        let Ok(digest) = layer.digest.parse::<Digest>() else { continue };
        if layer.size > MAX_PAYLOAD_BYTES {
            continue;
        }
        *seen += 1;
        let blob = Descriptor {
            media_type: layer.media_type,
            digest,
            size: layer.size,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let failed = |error| SourceError::io(VERIFY, Path::new("temporary file"))(error);
        let file = tempfile::tempfile().map_err(failed)?;
        let partial = Partial::unkept(file);
        let Some(partial) = unless_gone(repository.fetch_blob(&blob, partial, None))? else { continue };
        let payload = Map::file(partial.file()).map_err(failed)?;
        let signed = match signature {
            Some(signature) => is_signed(&payload, &signature, signed, keys),
            None => bundle::is_signed(&payload, signed, keys),
        };
        if signed {
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

    use super::key::tests::{KEY, OTHER, key};

    // Made by `openssl dgst -sha256 -sign`.
    const PAYLOAD: &str = r#"{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":"sha256:abababababababababababababababababababababababababababababababab"},"type":"cosign container image signature"},"optional":null}"#;
    const BY_KEY: &str =
        "MEUCIBvrHXl16vhJuqP3FLu9rVak7WIeK4lwAd1jJL9Hs6XZAiEAmbRHOQ+TXM32ubKK+Z/uJ6bXXS742XOrNog8yyKIFkY=";

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
    fn a_damaged_signature_does_not_hide_others() {
        let (what, on) = (VERIFY, String::new);
        let damaged = [
            SourceError::Digest { what, on: on(), expected: Digest([0; 32]), actual: Digest([1; 32]) },
            SourceError::Size { what, on: on(), expected: 1, actual: 2 },
            SourceError::corrupt(what, "", ""),
            SourceError::NotFound { what, on: on(), why: on() },
        ];
        for error in damaged {
            assert!(unless_gone::<()>(Err(error)).unwrap().is_none());
        }
        let unreachable = SourceError::Remote { what, on: on(), why: on() };
        assert!(unless_gone::<()>(Err(unreachable)).is_err());
    }
}
