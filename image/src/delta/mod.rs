//! Deltas in a registry: a cdimg as an OCI artifact whose `subject` is the manifest of the image that it makes (`docs/registry.md`).
//!
//! - [`NewDelta`]: a cdimg about to be published; [`publish`], [`list`], [`fetch`] are what a [`Repository`] does with deltas.
//! - [`ask`]: a delta made on demand by a `d4c serve`.
//! - [`verify`]: whether a delta is signed by a key that is trusted.
//! - [`plan`]: which of them lead most cheaply from what a node has to an image, and whether that beats pulling it.
//!
//! What a registry lists is a hint: the artifact's manifest is compared with its digest, the cdimg with its own, and what it makes and
//! from what with what was asked for.

mod artifact;
mod plan;
mod served;
mod signature;

use std::fs::File;

use d4c_sys::Map;
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::{Cdimg, VERSION};

pub use artifact::{ARTIFACT_TYPE, LAYER_TYPE, annotation};
pub use plan::{Choice, Present, Why, plan};
pub use served::{MAX_HAVE, PATH, Served, Wanted, ask};
pub use signature::{TrustedKey, verify};

use crate::error::SourceError;
use crate::manifest::{Descriptor, Document};
use crate::registry::{OnBytes, Partial, Partials, Repository};
use artifact::{Artifact, EMPTY, EMPTY_TYPE, Told};

const PUBLISH: &str = "publish delta";
const FETCH: &str = "fetch delta";
/// Manifests of artifacts that are read because the registry's list does not say what they are.
const MAX_READ: usize = 256;

/// The image that a delta starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceImage {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Chain ID of its layers: the same for the same layers, however they are compressed.
    pub chain_id: Digest,
}

/// A cdimg about to be published.
#[derive(Debug, Clone)]
pub struct NewDelta {
    /// The manifest of the image that it makes: what the artifact refers to.
    pub subject: Descriptor,
    /// The image that it starts from; none for a base file.
    pub source: Option<SourceImage>,
    /// Bytes of the contents that it makes.
    pub made_bytes: u64,
}

/// A delta that a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Digest of the artifact's manifest.
    pub manifest: Digest,
    /// Digest of the manifest of the image that it makes.
    pub target: Digest,
    /// The image that it starts from; none for a base file.
    pub source: Option<SourceImage>,
    /// Bytes of the cdimg.
    pub bytes: u64,
    /// Its digest, where that is known without the artifact's manifest.
    pub blob: Option<Digest>,
    /// Bytes of the contents that it makes.
    pub made_bytes: u64,
}

impl NewDelta {
    /// What there is to say of `cdimg`, which makes contents of `made_bytes` bytes.
    ///
    /// # Errors
    /// Its manifest is not one of an image.
    pub fn of(cdimg: &Cdimg, made_bytes: u64) -> Result<Self, SourceError> {
        let bytes = cdimg.manifest();
        let Document::Image(manifest) = Document::parse(bytes, "manifest")? else {
            return Err(SourceError::corrupt(PUBLISH, "manifest", "is an index"));
        };
        let target = cdimg.dimg().target();
        let subject = Descriptor {
            media_type: manifest.media_type,
            digest: target.manifest,
            size: bytes.len() as u64,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let source = cdimg
            .dimg()
            .parent()
            .map(|parent| SourceImage { manifest: parent.manifest, chain_id: chain_id(&parent.layers) });
        Ok(Self { subject, source, made_bytes })
    }
}

/// The chain ID of layers with these diff IDs, the lowest first (`config.md` of the OCI image specification).
pub fn chain_id(diff_ids: &[Digest]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().copied().unwrap_or_else(|| Digest::of(b""));
    ids.fold(first, |chain, id| Digest::of(format!("{chain} {id}").as_bytes()))
}

/// The delta from `source` to `target` that the repository has.
///
/// # Errors
/// The registry does not answer.
pub fn find(
    repository: &Repository,
    target: Digest,
    source: Option<Digest>,
) -> Result<Option<Published>, SourceError> {
    let list = list(repository, target)?;
    Ok(list.into_iter().find(|delta| delta.source.map(|source| source.manifest) == source))
}

/// The deltas that make the image with the manifest `target`, in the order of their digests. What is none of ours, or of a version of the
/// format that this program does not read, is left out.
///
/// # Errors
/// The registry does not answer.
pub fn list(repository: &Repository, target: Digest) -> Result<Vec<Published>, SourceError> {
    let mut found = Vec::new();
    let mut read = 0;
    for referrer in repository.referrers(target, ARTIFACT_TYPE)? {
        let is_ours = match referrer.artifact_type.as_deref() {
            Some(ARTIFACT_TYPE) => true,
            // Some registries tell the type of the config.
            None | Some("" | EMPTY_TYPE) => false,
            Some(_) => continue,
        };
        let told = if is_ours { artifact::annotated(&referrer.annotations) } else { None };
        let told = match told {
            Some(told) => told,
            None if read < MAX_READ => {
                read += 1;
                match repository.manifest(referrer.digest).map(|found| Artifact::parse(&found.bytes)) {
                    Ok(Some(artifact)) if artifact.subject == target => {
                        Told { blob: Some(artifact.layer.digest), ..artifact.told }
                    }
                    // Of another kind, or removed meanwhile.
                    Ok(_) | Err(SourceError::NotFound { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            None => continue,
        };
        if told.version == VERSION {
            found.push(Published {
                manifest: referrer.digest,
                target,
                source: told.source,
                bytes: told.bytes,
                blob: told.blob,
                made_bytes: told.made_bytes,
            });
        }
    }
    found.sort_by_key(|delta| delta.manifest);
    found.dedup_by_key(|delta| delta.manifest);
    Ok(found)
}

/// Publishes the cdimg in `file`; its digest is `digest`.
///
/// # Errors
/// The registry refuses it, or does not have the image that it makes.
pub fn publish(
    repository: &Repository,
    delta: &NewDelta,
    (file, digest): (File, Digest),
    on_bytes: Option<OnBytes>,
) -> Result<Published, SourceError> {
    let target = delta.subject.digest;
    let bytes = file.metadata().map_err(SourceError::io("read file", std::path::Path::new("delta")))?.len();
    require(repository, target)?;
    repository.put_bytes(EMPTY)?;
    repository.put_blob(file, digest, on_bytes)?;
    let annotations = artifact::annotations(delta, (digest, bytes));
    let manifest = artifact::write(delta, (digest, bytes), &annotations)?;
    let manifest = repository.put_referrer(target, &manifest, ARTIFACT_TYPE, &annotations)?;
    let (source, made_bytes) = (delta.source, delta.made_bytes);
    Ok(Published { manifest, target, source, bytes, blob: Some(digest), made_bytes })
}

/// That the repository has the image: a registry may drop what refers to nothing.
///
/// # Errors
/// [`SourceError::NotFound`] where it has not.
pub fn require(repository: &Repository, target: Digest) -> Result<(), SourceError> {
    if repository.has_manifest(target)? {
        return Ok(());
    }
    let why = format!("the image {target} that the delta makes is not there; push it first");
    Err(SourceError::NotFound { what: PUBLISH, on: repository.name().to_owned(), why })
}

/// Where a delta is downloaded to.
#[derive(Debug)]
pub enum Place<'a> {
    /// Into this file, which is empty.
    File(File),
    /// Into one of this folder, going on with what is there of it.
    Folder(&'a Partials),
}

/// Downloads `delta` and verifies it: its digest, and that it starts from and leads to what it is listed for.
/// Whether it makes that is seen when it is applied. With `keys`, one of these has to have signed it, which is seen before it is fetched; a
/// signature is one of the artifact's manifest, which is read then, else only where the list does not say what it names.
///
/// # Errors
/// It is gone, not signed, or not what it should be.
pub fn fetch(
    repository: &Repository,
    delta: &Published,
    keys: &[TrustedKey],
    place: Place<'_>,
    on_bytes: Option<OnBytes>,
) -> Result<Partial, SourceError> {
    let on = || format!("{} delta {}", repository.name(), delta.manifest);
    if !keys.is_empty() {
        verify(repository, delta.manifest, keys)?;
    }
    let layer = match delta.blob {
        Some(digest) if keys.is_empty() => artifact::layer(digest, delta.bytes),
        _ => named_layer(repository, delta, on)?,
    };
    let partial = match place {
        Place::File(file) => Partial::unkept(file),
        Place::Folder(partials) => partials.begin(&layer)?,
    };
    let partial = repository.fetch_blob(&layer, partial, on_bytes)?;
    match check(repository, delta, &layer, &partial) {
        Ok(()) => Ok(partial),
        Err(error) => {
            partial.remove();
            Err(error)
        }
    }
}

/// That a file is the blob that was to be fetched, and the delta that was listed.
fn check(
    repository: &Repository,
    delta: &Published,
    layer: &Descriptor,
    partial: &Partial,
) -> Result<(), SourceError> {
    let on = || format!("{} delta {}", repository.name(), delta.manifest);
    let (map, actual) = partial.digest()?;
    let expected = layer.digest;
    if expected != actual {
        let on = repository.blob_name(layer);
        return Err(SourceError::Digest { what: "verify blob", on, expected, actual });
    }
    let cdimg = opened(map, FETCH, &on())?;
    if cdimg.dimg().target().manifest != delta.target {
        return Err(SourceError::corrupt(FETCH, on(), "makes another image than it is listed for"));
    }
    if cdimg.dimg().parent().map(|parent| parent.manifest) != delta.source.map(|source| source.manifest) {
        return Err(SourceError::corrupt(FETCH, on(), "starts from another image than it is listed with"));
    }
    Ok(())
}

/// The cdimg that the manifest of `delta` names; `on` is the delta's name.
fn named_layer(
    repository: &Repository,
    delta: &Published,
    on: impl Fn() -> String,
) -> Result<Descriptor, SourceError> {
    let found = repository.manifest(delta.manifest)?;
    let artifact =
        Artifact::parse(&found.bytes).ok_or_else(|| SourceError::corrupt(FETCH, on(), "is no delta"))?;
    if artifact.subject != delta.target {
        let why = format!("it is one of {}, not of {}", artifact.subject, delta.target);
        return Err(SourceError::corrupt(FETCH, on(), why));
    }
    if artifact.layer.size != delta.bytes {
        let (expected, actual) = (delta.bytes, artifact.layer.size);
        return Err(SourceError::Size { what: FETCH, on: on(), expected, actual });
    }
    Ok(artifact.layer)
}

/// The delta in a file that somebody gave for one.
fn opened(map: Map, what: &'static str, on: &str) -> Result<Cdimg, SourceError> {
    let why = |error| SourceError::corrupt(what, on, format!("is no cdimg: {error}"));
    Cdimg::open(Bytes::new(map)).map_err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let ids = [Digest([1; 32]), Digest([2; 32])];
        assert_eq!(chain_id(&ids[..1]), ids[0]);
        let text = format!("{} {}", ids[0], ids[1]);
        assert_eq!(chain_id(&ids), Digest::of(text.as_bytes()));
    }
}
