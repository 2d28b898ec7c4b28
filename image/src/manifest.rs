//! Manifests, indexes and configs of images: OCI's and Docker's schema 2.
//!
//! Parsed types hold what d4c needs; the original bytes are kept beside them and never written again from
//! here, so that their digests stay. Follows the OCI image specification 1.1 (`manifest.md`,
//! `image-index.md`, `config.md`). A document that could be read as index and as manifest is refused.

use std::collections::BTreeMap;
use std::fmt::Write;

use dimg::Digest;
use serde::Deserialize;

use crate::created::Created;
use crate::error::SourceError;
use crate::platform::Platform;

/// Media types.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    /// All of index and manifest, as a client says that it accepts them.
    pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

    /// Whether `text` is the media type of a file system layer, compressed or not, distributable or not.
    pub fn is_layer(text: &str) -> bool {
        let layer = text
            .strip_prefix("application/vnd.oci.image.layer.")
            .map(|rest| rest.strip_prefix("nondistributable.").unwrap_or(rest));
        match layer {
            Some(rest) => matches!(rest, "v1.tar" | "v1.tar+gzip" | "v1.tar+zstd"),
            None => matches!(
                text,
                "application/vnd.docker.image.rootfs.diff.tar"
                    | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                    | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                    | "application/vnd.docker.image.rootfs.foreign.diff.tar"
                    | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            ),
        }
    }
}

/// Largest manifest or index that is read, in bytes; registries cap theirs at 4 MiB.
pub const MAX_MANIFEST_BYTES: u64 = 8 << 20;
/// Largest config that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Most layers that an image may have.
pub const MAX_LAYERS: usize = 4096;

/// A reference by digest, with what the referrer says about the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Platform, in the entries of an index.
    pub platform: Option<Platform>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Media type, as the document says or as OCI defaults it.
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest's digest may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Image(Box<Manifest>),
    /// A choice of images.
    Index(Vec<Descriptor>),
}

/// The part of an image config that d4c reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The platform that the image is for.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// When the image was made; none where the config does not say, or not as RFC 3339 has it.
    pub created: Option<Created>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: RawPlatform,
    rootfs: RawRootfs,
    // Of any kind: what cannot be read is as if it were not there.
    #[serde(default)]
    created: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl From<RawPlatform> for Platform {
    fn from(raw: RawPlatform) -> Self {
        let variant = raw.variant.filter(|variant| !variant.is_empty());
        Self { os: raw.os, architecture: raw.architecture, variant }
    }
}

fn json_error(what: &'static str, on: &str, error: &serde_json::Error) -> SourceError {
    SourceError::corrupt(what, on, error.to_string())
}

fn digest(what: &'static str, on: &str, text: &str) -> Result<Digest, SourceError> {
    text.parse::<Digest>().map_err(|error| SourceError::corrupt(what, on, error.to_string()))
}

impl Document {
    /// Parses a manifest or an index. `on` names it in errors.
    ///
    /// # Errors
    /// [`SourceError::Corrupt`] for what is neither, or both; [`SourceError::Unsupported`] for Docker's schema 1
    /// and for artifacts that are not images.
    pub fn parse(bytes: &[u8], on: &str) -> Result<Self, SourceError> {
        const WHAT: &str = "read manifest";
        let bad = |why: &str| SourceError::corrupt(WHAT, on, why);
        let unsupported = |why: String| SourceError::Unsupported { what: WHAT, on: on.to_owned(), why };
        let raw: RawDocument = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(error) => return Err(json_error(WHAT, on, &error)),
        };
        if raw.schema_version == 1 {
            return Err(unsupported(
                "a Docker schema 1 manifest; push the image again with a current tool".into(),
            ));
        }
        if raw.schema_version != 2 {
            return Err(bad(&format!("schemaVersion is {}, expected 2", raw.schema_version)));
        }
        let (kind, is_index) = match (raw.media_type.as_deref(), &raw.manifests) {
            (None | Some(""), Some(_)) => (media::OCI_INDEX, true),
            (None | Some(""), None) => (media::OCI_MANIFEST, false),
            (Some(kind @ (media::OCI_INDEX | media::DOCKER_LIST)), _) => (kind, true),
            (Some(kind @ (media::OCI_MANIFEST | media::DOCKER_MANIFEST)), _) => (kind, false),
            (Some(other), _) => return Err(unsupported(format!("media type {other:?}"))),
        };
        let descriptor = |raw: RawDescriptor| -> Result<Descriptor, SourceError> {
            Ok(Descriptor {
                digest: digest(WHAT, on, &raw.digest)?,
                media_type: raw.media_type,
                size: raw.size,
                platform: raw.platform.map(Platform::from),
                annotations: raw.annotations.unwrap_or_default(),
            })
        };
        if is_index {
            if raw.layers.is_some() || raw.config.is_some() {
                return Err(bad("is an index and has the fields of a manifest"));
            }
            let entries = raw.manifests.unwrap_or_default();
            return Ok(Self::Index(entries.into_iter().map(descriptor).collect::<Result<_, _>>()?));
        }
        if raw.manifests.is_some() {
            return Err(bad("is a manifest and has the fields of an index"));
        }
        let config = descriptor(raw.config.ok_or_else(|| bad("has no config"))?)?;
        if !matches!(config.media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG) {
            return Err(unsupported(format!("not a container image: its config is {:?}", config.media_type)));
        }
        let layers = raw.layers.unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            return Err(bad(&format!("{} layers, more than {MAX_LAYERS}", layers.len())));
        }
        let layers = layers.into_iter().map(descriptor).collect::<Result<Vec<_>, _>>()?;
        if let Some(layer) = layers.iter().find(|layer| !media::is_layer(&layer.media_type)) {
            return Err(unsupported(format!("layer {} is {:?}", layer.digest, layer.media_type)));
        }
        let annotations = raw.annotations.unwrap_or_default();
        Ok(Self::Image(Box::new(Manifest { media_type: kind.to_owned(), config, layers, annotations })))
    }
}

impl Config {
    /// Parses an image config. `on` names it in errors.
    ///
    /// # Errors
    /// [`SourceError::Corrupt`] for what is none.
    pub fn parse(bytes: &[u8], on: &str) -> Result<Self, SourceError> {
        const WHAT: &str = "read config";
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| json_error(WHAT, on, &error))?;
        let ids = raw.rootfs.diff_ids.unwrap_or_default();
        let diff_ids = ids.iter().map(|id| digest(WHAT, on, id)).collect::<Result<_, _>>()?;
        let created = raw.created.and_then(|value| value.as_str()?.parse().ok());
        Ok(Self { platform: raw.platform.into(), diff_ids, created })
    }
}

/// Writes an OCI manifest for `config` and `layers`: compact JSON, fields in a fixed order.
///
/// For images that come without one. The same input gives the same bytes, for as long as this format lives:
/// a digest of ours depends on it.
pub(crate) fn write_manifest(config: (Digest, u64), layers: &[(Digest, u64)]) -> Vec<u8> {
    let mut text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":["#,
        media::OCI_MANIFEST,
        media::OCI_CONFIG,
        config.0,
        config.1
    );
    for (number, (digest, size)) in layers.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let layer = media::OCI_LAYER;
        // Writing to a string cannot fail.
        let _ = write!(text, r#"{comma}{{"mediaType":"{layer}","digest":"{digest}","size":{size}}}"#);
    }
    text.push_str("]}");
    text.into_bytes()
}

/// The entry of an index that fits `wanted` best; the first of equals.
///
/// Attestations and entries without a platform are no candidates, but a sole entry without a platform is taken.
///
/// # Errors
/// [`SourceError::NotFound`] listing the platforms present.
pub(crate) fn choose<'a>(
    entries: &'a [Descriptor],
    wanted: &Platform,
    on: &str,
) -> Result<&'a Descriptor, SourceError> {
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in entries {
        let fitness = entry.platform.as_ref().and_then(|offered| wanted.fitness(offered));
        if let Some(fitness) = fitness
            && best.is_none_or(|(other, _)| fitness > other)
        {
            best = Some((fitness, entry));
        }
    }
    best.map(|(_, entry)| entry).ok_or_else(|| {
        let present: Vec<_> = platforms(entries).iter().map(Platform::to_string).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        SourceError::NotFound {
            what: "choose platform",
            on: on.to_owned(),
            why: format!("no image for {wanted}; present: {present}"),
        }
    })
}

/// The platforms of an index's entries, each once, in their order. Attestations have `unknown` for theirs.
pub(crate) fn platforms(entries: &[Descriptor]) -> Vec<Platform> {
    let mut found: Vec<Platform> = Vec::new();
    for platform in entries.iter().filter_map(|entry| entry.platform.as_ref()) {
        if platform.os != "unknown" && !found.contains(platform) {
            found.push(platform.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8, platform: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Digest([number; 32]),
            size: 1,
            platform: platform.map(|text| text.parse().unwrap()),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_written_manifest_reads_back() {
        let bytes = write_manifest((Digest([1; 32]), 10), &[(Digest([2; 32]), 20), (Digest([3; 32]), 30)]);
        let Document::Image(manifest) = Document::parse(&bytes, "m").unwrap() else { panic!("not an image") };
        assert_eq!(manifest.media_type, media::OCI_MANIFEST);
        assert_eq!((manifest.config.digest, manifest.config.size), (Digest([1; 32]), 10));
        assert_eq!(manifest.layers.len(), 2);
        assert_eq!(manifest.layers[1].size, 30);
        assert_eq!(
            Digest::of(&bytes).to_string(),
            "sha256:043e9a772db71c95100f7bcb5686b67de25a582c9df41a58b226484f72649c85"
        );
    }

    #[test]
    fn documents_that_are_no_image_are_refused() {
        let digest = Digest([1; 32]);
        let config = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, media::OCI_CONFIG);
        let other = format!(r#"{{"mediaType":"application/x","digest":"{digest}","size":1}}"#);
        let cases = [
            ("".to_owned(), 4, "EOF"),
            ("[]".to_owned(), 4, "invalid length"),
            (r#"{"schemaVersion":3}"#.to_owned(), 4, "schemaVersion is 3"),
            (r#"{"schemaVersion":1,"name":"x"}"#.to_owned(), 1, "schema 1"),
            (r#"{"schemaVersion":2}"#.to_owned(), 4, "no config"),
            (r#"{"schemaVersion":2,"mediaType":"text/plain"}"#.to_owned(), 1, "text/plain"),
            (format!(r#"{{"schemaVersion":2,"manifests":[],"config":{config}}}"#), 4, "fields of a manifest"),
            (format!(r#"{{"schemaVersion":2,"config":{other}}}"#), 1, "not a container image"),
            (format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{other}]}}"#), 1, "application/x"),
            (
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"manifests":[]}}"#,
                    media::OCI_MANIFEST
                ),
                4,
                "fields of an index",
            ),
            (r#"{"schemaVersion":2,"manifests":[{"digest":"md5:1","size":1}]}"#.to_owned(), 4, "sha256"),
            (r#"{"schemaVersion":2,"manifests":[{"digest":"md5:1","size":-1}]}"#.to_owned(), 4, "-1"),
        ];
        for (text, code, why) in cases {
            let error = Document::parse(text.as_bytes(), "here").unwrap_err();
            assert_eq!(error.class().exit_code(), code, "{text}: {error}");
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.to_string().starts_with("read manifest: here: "), "{error}");
        }
    }

    #[test]
    fn configs_give_platform_and_diff_ids() {
        let id = Digest([7; 32]);
        let text = format!(
            r#"{{"architecture":"arm","os":"linux","variant":"v6","rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#
        );
        let config = Config::parse(text.as_bytes(), "c").unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm/v6");
        assert_eq!(config.diff_ids, [id]);
        for text in ["{}", "{", r#"{"rootfs":{"diff_ids":["x"]}}"#] {
            assert_eq!(Config::parse(text.as_bytes(), "c").unwrap_err().class().exit_code(), 4);
        }
    }

    #[test]
    fn the_best_platform_wins_and_errors_list_all() {
        let entries = [
            entry(1, Some("linux/arm/v6")),
            entry(2, Some("linux/arm/v7")),
            entry(3, Some("unknown/unknown")),
        ];
        let chosen = choose(&entries, &"linux/arm/v7".parse().unwrap(), "i").unwrap();
        assert_eq!(chosen.digest, Digest([2; 32]));
        let error = choose(&entries, &"linux/amd64".parse().unwrap(), "i").unwrap_err();
        assert_eq!(
            error.to_string(),
            "choose platform: i: no image for linux/amd64; present: linux/arm/v6, linux/arm/v7"
        );
        assert_eq!(error.class().exit_code(), 3);
        assert!(choose(&[entry(9, None)], &"linux/amd64".parse().unwrap(), "i").is_ok());
        assert!(choose(&[], &"linux/amd64".parse().unwrap(), "i").is_err());
    }

    #[test]
    fn layer_media_types() {
        for good in [media::OCI_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"] {
            assert!(media::is_layer(good));
        }
        for bad in ["application/vnd.oci.image.layer.v1.tar+encrypted", "application/vnd.in-toto+json", ""] {
            assert!(!media::is_layer(bad));
        }
    }
}
