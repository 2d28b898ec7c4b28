//! An image written as an OCI layout: a directory, or the same in a tar file.
//!
//! Config and diff IDs stay as they are. So does the manifest where each layer is there as it names it: blobs that somebody kept, or
//! layers that it names uncompressed. Else the layers are not compressed and the manifest is a new one, for the blobs' digests are others.
//! The index comes last, so that a layout that was there before keeps all its images and has the new one whole or not at all.

mod archive;
mod dir;

use std::io::{self, Write};
use std::path::PathBuf;

use d4c_image::manifest::{Document, media};
use d4c_image::source::{BlobStore, OpenImage};
use dimg::{Digest, HashingWriter};
use serde_json::{Value, json};

use super::{Image, Opener};
use crate::failure::{Failure, Kind, Reason};
use crate::files::STANDARD;
use crate::progress::Unit;
use archive::Archive;
use dir::Layout;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const BUFFER_BYTES: usize = 256 << 10;

/// Where a layout goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    tag: Option<String>,
    /// Whether it is a tar file.
    archive: bool,
}

impl Place {
    /// `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`.
    ///
    /// # Errors
    /// It is neither, or a part is missing.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let usage = |why| Failure::usage(text, why);
        let (archive, rest) = match text.split_once(':') {
            Some(("oci", rest)) => (false, rest),
            Some(("oci-archive", rest)) => (true, rest),
            _ => return Err(usage("not an OCI layout; known: oci:DIR[:TAG], oci-archive:FILE[:TAG]")),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((_, "")) => return Err(usage("nothing after the last colon")),
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(usage("the destination has no path"));
        }
        if archive && path == STANDARD {
            return Err(usage("needs a file"));
        }
        Ok(Self { path: path.into(), tag, archive })
    }

    fn open(&self) -> Result<Box<dyn Sink>, Failure> {
        Ok(if self.archive {
            Box::new(Archive::create(&self.path)?)
        } else {
            Box::new(Layout::open(&self.path)?)
        })
    }
}

/// Writes a blob's bytes; fails when they are not the blob's.
type Fill<'a> = dyn FnMut(&mut dyn Write) -> Result<(), Failure> + 'a;

/// A layout being written.
trait Sink {
    /// Adds the blob `digest` of `bytes` bytes.
    fn blob(&mut self, digest: Digest, bytes: u64, fill: &mut Fill<'_>) -> Result<(), Failure>;

    /// Names an image, whose entry in the index this is, and ends.
    fn publish(self: Box<Self>, entry: Value) -> Result<(), Failure>;

    /// Adds a document.
    fn document(&mut self, digest: Digest, document: &[u8]) -> Result<(), Failure> {
        let mut fill =
            |out: &mut dyn Write| out.write_all(document).map_err(|error| write_failed(digest, &error));
        self.blob(digest, document.len() as u64, &mut fill)
    }
}

fn write_failed(digest: Digest, error: &io::Error) -> Failure {
    Failure::new(Kind::of_io(error), "write blob", digest, Reason(error))
}

/// Writes `image` to `place`, its layers uncompressed; the digest of its manifest there.
///
/// # Errors
/// A layer does not have its diff ID, or a file cannot be written; what was new is removed.
pub(crate) fn write_layout(image: &Image, place: &Place, opener: &Opener<'_>) -> Result<Digest, Failure> {
    let documents = image.documents()?;
    let mut sink = place.open()?;
    opener.progress.stage("write layers", Unit::Layers, image.layers.len() as u64);
    for layer in &image.layers {
        let mut fill = |out: &mut dyn Write| {
            let mut tee = HashingWriter::new(out);
            let bytes = image.write_layer(layer, &mut tee)?;
            image.check_layer(layer, tee.finish(), bytes)
        };
        sink.blob(layer.diff_id, layer.tar_bytes, &mut fill)?;
        opener.progress.add(1);
    }
    let (manifest, media_type) = uncompressed_manifest(image)?;
    finish(sink, place, (image.config_digest, &documents.config), (&manifest, &media_type))
}

/// Writes `image` to `place` as its manifest has it, with the layers' blobs that `store` keeps.
///
/// # Errors
/// A blob is gone or damaged, or a file cannot be written; what was new is removed.
pub(crate) fn write_kept(
    image: &OpenImage,
    store: &dyn BlobStore,
    place: &Place,
    opener: &Opener<'_>,
) -> Result<Digest, Failure> {
    let mut sink = place.open()?;
    let layers = image.layers();
    opener.progress.stage("write layers", Unit::Layers, layers.len() as u64);
    for layer in layers {
        let mut fill = |out: &mut dyn Write| {
            let mut blob = store.open_blob(&layer.digest)?;
            let mut tee = HashingWriter::new(out);
            let bytes = io::copy(&mut blob, &mut tee).map_err(|error| write_failed(layer.digest, &error))?;
            let found = tee.finish();
            if (found, bytes) == (layer.digest, layer.size) {
                return Ok(());
            }
            let why = format!("{bytes} bytes with the digest {found}, expected {}", layer.size);
            Err(Failure::new(Kind::Corrupt, "verify blob", layer.digest, why))
        };
        sink.blob(layer.digest, layer.size, &mut fill)?;
        opener.progress.add(1);
    }
    let manifest = (image.manifest_bytes(), image.manifest().media_type.as_str());
    finish(sink, place, (image.config_digest(), image.config_bytes()), manifest)
}

/// Adds the documents and names the image.
fn finish(
    mut sink: Box<dyn Sink>,
    place: &Place,
    (config_digest, config): (Digest, &[u8]),
    (manifest, media_type): (&[u8], &str),
) -> Result<Digest, Failure> {
    sink.document(config_digest, config)?;
    let digest = Digest::of(manifest);
    sink.document(digest, manifest)?;
    let mut entry = json!({"mediaType": media_type, "digest": digest.to_string(), "size": manifest.len()});
    if let Some(tag) = &place.tag {
        entry["annotations"] = json!({REF_NAME: tag});
    }
    sink.publish(entry)?;
    Ok(digest)
}

/// The manifest to write for uncompressed layers, and its media type.
fn uncompressed_manifest(image: &Image) -> Result<(Vec<u8>, String), Failure> {
    let documents = image.documents()?;
    if let Document::Image(manifest) = Document::parse(&documents.manifest, &image.name)?
        && manifest.layers.iter().map(|layer| layer.digest).eq(image.diff_ids())
    {
        return Ok((documents.manifest.clone(), manifest.media_type));
    }
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| {
            json!({"mediaType": media::OCI_LAYER, "digest": layer.diff_id.to_string(), "size": layer.tar_bytes})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {
            "mediaType": media::OCI_CONFIG,
            "digest": image.config_digest.to_string(),
            "size": documents.config.len(),
        },
        "layers": layers,
    });
    Ok((manifest.to_string().into_bytes(), media::OCI_MANIFEST.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn places_are_named_as_in_skopeo() {
        let place = |path: &str, tag: Option<&str>, archive| Place {
            path: path.into(),
            tag: tag.map(str::to_owned),
            archive,
        };
        assert_eq!(Place::parse("oci:out").unwrap(), place("out", None, false));
        assert_eq!(Place::parse("oci:out:v1").unwrap(), place("out", Some("v1"), false));
        assert_eq!(Place::parse("oci-archive:a.tar:v1").unwrap(), place("a.tar", Some("v1"), true));
        for wrong in ["oci:", "oci::v1", "oci:out:", "oci-archive:", "oci-archive:-", "dir:out", "out"] {
            assert_eq!(Place::parse(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_layout_that_was_killed_is_gone_on_with_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| Place { path: dir.path().join(name), tag: None, archive: false };
        let digest = Digest::of(b"blob");
        // Its lock went with its process.
        std::fs::create_dir_all(dir.path().join("killed/blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("killed/oci-layout"), "{}").unwrap();
        let mut fill =
            |out: &mut dyn Write| out.write_all(b"blob").map_err(Failure::io("write", Path::new("blob")));
        let mut sink = place("killed").open().expect("it goes on");
        sink.blob(digest, 4, &mut fill).unwrap();
        sink.publish(json!({"digest": digest.to_string()})).unwrap();
        // One that waits reads the index that the other one wrote.
        let write = |tag: usize| {
            let place = Place { tag: Some(tag.to_string()), ..place("shared") };
            let entry = json!({"digest": digest.to_string(), "annotations": {REF_NAME: tag.to_string()}});
            place.open().unwrap().publish(entry).unwrap();
        };
        std::thread::scope(|scope| (0..8).for_each(|tag| drop(scope.spawn(move || write(tag)))));
        let index = std::fs::read(dir.path().join("shared/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 8, "{index}");
        std::fs::create_dir(dir.path().join("failed")).unwrap();
        drop(place("failed").open().unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("failed")).unwrap().count(), 0, "it stays empty");
        drop(place("new").open().unwrap());
        assert!(!dir.path().join("new").exists());
    }
}
