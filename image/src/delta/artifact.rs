//! The manifest of a delta's artifact, written and read. The names in it are `docs/registry.md`'s.

use std::collections::BTreeMap;

use dimg::Digest;
use dimg::format::VERSION;
use serde::Deserialize;
use serde_json::json;

use super::{NewDelta, SourceImage};
use crate::error::SourceError;
use crate::manifest::{Descriptor, media};

/// Type of the artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.d4c.delta.v1";
/// Media type of its one layer: a cdimg.
pub const LAYER_TYPE: &str = "application/vnd.d4c.cdimg.v1";
/// Media type of the config of an artifact that has none.
pub(super) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// That config.
pub(super) const EMPTY: &[u8] = b"{}";

/// Annotations of the artifact's manifest, which lists of referrers repeat.
pub mod annotation {
    /// Version of the cdimg's format.
    pub const VERSION: &str = "io.d4c.delta.version";
    /// Digest of the manifest of the image that the delta starts from; absent for a base file.
    pub const SOURCE: &str = "io.d4c.delta.source";
    /// Chain ID of that image's layers.
    pub const SOURCE_CHAIN_ID: &str = "io.d4c.delta.source.chain-id";
    /// Bytes of the cdimg.
    pub const BYTES: &str = "io.d4c.delta.bytes";
    /// Digest of the cdimg, so that it can be fetched without reading the manifest; absent in those of earlier versions.
    pub const BLOB: &str = "io.d4c.delta.blob";
    /// Bytes of the contents that it makes.
    pub const MADE_BYTES: &str = "io.d4c.delta.made-bytes";
}

/// What the annotations say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) version: u16,
    pub(super) source: Option<SourceImage>,
    pub(super) bytes: u64,
    pub(super) blob: Option<Digest>,
    pub(super) made_bytes: u64,
}

/// An artifact's manifest, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) subject: Digest,
    pub(super) layer: Descriptor,
    pub(super) told: Told,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    artifact_type: String,
    layers: Vec<RawDescriptor>,
    subject: RawDescriptor,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// The annotations of `delta`, whose cdimg has this digest and so many bytes.
pub(super) fn annotations(delta: &NewDelta, (digest, bytes): (Digest, u64)) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        (annotation::VERSION.to_owned(), VERSION.to_string()),
        (annotation::BYTES.to_owned(), bytes.to_string()),
        (annotation::BLOB.to_owned(), digest.to_string()),
        (annotation::MADE_BYTES.to_owned(), delta.made_bytes.to_string()),
    ]);
    if let Some(source) = &delta.source {
        annotations.insert(annotation::SOURCE.to_owned(), source.manifest.to_string());
        annotations.insert(annotation::SOURCE_CHAIN_ID.to_owned(), source.chain_id.to_string());
    }
    annotations
}

/// What `annotations` say of a delta; `None` where something is missing or unreadable.
pub(super) fn annotated(annotations: &BTreeMap<String, String>) -> Option<Told> {
    let number = |name: &str| annotations.get(name)?.parse::<u64>().ok();
    let source = match annotations.get(annotation::SOURCE) {
        None => None,
        Some(manifest) => Some(SourceImage {
            manifest: manifest.parse().ok()?,
            chain_id: annotations.get(annotation::SOURCE_CHAIN_ID)?.parse().ok()?,
        }),
    };
    Some(Told {
        version: u16::try_from(number(annotation::VERSION)?).ok()?,
        source,
        bytes: number(annotation::BYTES)?,
        blob: match annotations.get(annotation::BLOB) {
            None => None,
            Some(digest) => Some(digest.parse().ok()?),
        },
        made_bytes: number(annotation::MADE_BYTES)?,
    })
}

/// The manifest: the same delta gives the same bytes, so that publishing it twice changes nothing.
///
/// # Errors
/// It cannot be written as JSON, which does not happen to texts and numbers.
pub(super) fn write(
    delta: &NewDelta,
    (digest, bytes): (Digest, u64),
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<u8>, SourceError> {
    let subject = &delta.subject;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY).to_string(), "size": EMPTY.len()},
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest.to_string(), "size": bytes}],
        "subject": {
            "mediaType": subject.media_type,
            "digest": subject.digest.to_string(),
            "size": subject.size,
        },
        "annotations": annotations,
    });
    serde_json::to_vec(&manifest)
        .map_err(|error| SourceError::corrupt("publish delta", "manifest", error.to_string()))
}

/// The descriptor of a cdimg.
pub(super) fn layer(digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: LAYER_TYPE.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

impl Artifact {
    /// Reads a manifest; `None` where it is not that of a delta.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(bytes).ok()?;
        let [layer] = raw.layers.as_slice() else { return None };
        if raw.artifact_type != ARTIFACT_TYPE || layer.media_type != LAYER_TYPE {
            return None;
        }
        let layer = self::layer(layer.digest.parse().ok()?, layer.size);
        let told = annotated(&raw.annotations.unwrap_or_default())?;
        Some(Self { subject: raw.subject.digest.parse().ok()?, layer, told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> NewDelta {
        let subject = Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Digest([1; 32]),
            size: 7,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let source = SourceImage { manifest: Digest([2; 32]), chain_id: Digest([3; 32]) };
        NewDelta { subject, source: Some(source), made_bytes: 9 }
    }

    #[test]
    fn what_is_written_is_read() {
        for delta in [delta(), NewDelta { source: None, ..delta() }] {
            let annotations = annotations(&delta, (Digest([4; 32]), 5));
            let bytes = write(&delta, (Digest([4; 32]), 5), &annotations).unwrap();
            let artifact = Artifact::parse(&bytes).unwrap();
            assert_eq!((artifact.subject, artifact.layer.digest), (Digest([1; 32]), Digest([4; 32])));
            let blob = Some(Digest([4; 32]));
            let told = Told { version: VERSION, source: delta.source, bytes: 5, blob, made_bytes: 9 };
            assert_eq!(artifact.told, told);
            assert_eq!(annotated(&annotations), Some(told));
            // As earlier versions wrote them.
            let mut without = annotations;
            without.remove(annotation::BLOB);
            assert_eq!(annotated(&without).unwrap().blob, None);
        }
    }

    #[test]
    fn what_is_no_delta_is_not_read() {
        let annotations = annotations(&delta(), (Digest([4; 32]), 5));
        let text = String::from_utf8(write(&delta(), (Digest([4; 32]), 5), &annotations).unwrap()).unwrap();
        for (from, to) in [
            (ARTIFACT_TYPE, "application/x"),
            (LAYER_TYPE, "application/x"),
            ("\"subject\"", "\"other\""),
            (annotation::BYTES, "x"),
            ("\"io.d4c.delta.version\":\"2\"", "\"io.d4c.delta.version\":\"two\""),
            ("\"sha256:0202", "\"sha256:"),
            ("io.d4c.delta.blob\":\"sha256:0404", "io.d4c.delta.blob\":\"sha256:"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(Artifact::parse(changed.as_bytes()), None, "{from}");
        }
        assert_eq!(Artifact::parse(b"[]"), None);
    }
}
