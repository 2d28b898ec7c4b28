//! containerd's content store by its files, read only: a Prepare must not call containerd's API, which may wait for the Prepare.
//!
//! `<dir>/blobs/sha256/<hex>` is a whole blob: containerd renames it there when it has verified it. One that is removed meanwhile stays readable
//! where it is open, else it is missing. Nothing is believed: whoever reads compares digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use d4c_image::error::SourceError;
use d4c_image::manifest::{Descriptor, Document};
use d4c_image::source::BlobStore;
use dimg::Digest;

/// Manifests of images are smaller.
const MAX_MANIFEST_BYTES: u64 = 128 << 10;
/// Small blobs that are read in search of them.
const MAX_READ: usize = 512;

/// The store in one directory. Images are named by the digests of their manifests.
#[derive(Debug, Clone)]
pub(super) struct ContentDir(PathBuf);

impl ContentDir {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.join("blobs/sha256"))
    }

    /// The blob's size in bytes, where it is there.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        let meta = std::fs::metadata(self.0.join(digest.hex())).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// The blobs that are manifests of images, the newest first. Their digests are not compared.
    pub(super) fn manifests(&self) -> Vec<Digest> {
        let mut small: Vec<(SystemTime, Digest)> = Vec::new();
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata())
                && meta.is_file()
                && meta.len() <= MAX_MANIFEST_BYTES
            {
                small.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), digest));
            }
        }
        small.sort_by(|a, b| b.cmp(a));
        small.truncate(MAX_READ);
        let is_manifest = |digest: &Digest| {
            let text = std::fs::read(self.0.join(digest.hex())).unwrap_or_default();
            matches!(Document::parse(&text, "manifest"), Ok(Document::Image(_)))
        };
        small.into_iter().map(|(_, digest)| digest).filter(is_manifest).collect()
    }

    /// A manifest, whose digest is compared; none where it is not there whole.
    pub(super) fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let fits = self.size(digest).is_some_and(|size| size <= MAX_MANIFEST_BYTES);
        let bytes = if fits { std::fs::read(self.0.join(digest.hex())).ok()? } else { return None };
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    fn failed(&self, what: &'static str, digest: &Digest, source: io::Error) -> SourceError {
        let path = self.0.join(digest.hex());
        match source.kind() {
            io::ErrorKind::NotFound => {
                let why = "containerd does not have it".to_owned();
                SourceError::NotFound { what, on: path.display().to_string(), why }
            }
            _ => SourceError::Io { what, path, source },
        }
    }
}

impl BlobStore for ContentDir {
    fn resolve(&self, reference: &str) -> Result<Descriptor, SourceError> {
        let digest: Digest = reference
            .parse()
            .map_err(|error| SourceError::Usage { on: reference.to_owned(), why: format!("{error}") })?;
        let meta = std::fs::metadata(self.0.join(digest.hex()));
        let size = meta.map_err(|error| self.failed("find image", &digest, error))?.len();
        Ok(Descriptor {
            media_type: String::new(),
            digest,
            size,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        })
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, SourceError> {
        let file = File::open(self.0.join(digest.hex()));
        Ok(Box::new(file.map_err(|error| self.failed("read blob", digest, error))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_found_by_their_digests() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let (here, gone) = (Digest::of(b"blob"), Digest::of(b"gone"));
        std::fs::write(blobs.join(here.hex()), b"blob").unwrap();
        let store = ContentDir::new(dir.path());
        let (layer, empty) = (Digest::of(b"layer"), Digest::of(b"{}"));
        let kind = "application/vnd.oci.image";
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{kind}.config.v1+json","digest":"{empty}","size":2}},
            "layers":[{{"mediaType":"{kind}.layer.v1.tar","digest":"{layer}","size":5}}]}}"#
        );
        for (name, text) in [(Digest::of(manifest.as_bytes()).hex(), &*manifest), (empty.hex(), "{}")] {
            std::fs::write(blobs.join(name), text).unwrap();
        }
        std::fs::write(blobs.join("other"), &manifest).unwrap();
        let manifest = Digest::of(manifest.as_bytes());
        assert_eq!(store.manifests(), [manifest]);
        assert_eq!(store.manifest(&manifest).map(|bytes| Digest::of(&bytes)), Some(manifest));
        std::fs::write(blobs.join(layer.hex()), "damaged").unwrap();
        assert_eq!((store.manifest(&layer), store.manifest(&gone)), (None, None));
        assert_eq!((store.size(&here), store.size(&gone)), (Some(4), None));
        assert_eq!(store.resolve(&here.to_string()).unwrap().size, 4);
        let mut text = String::new();
        store.open_blob(&here).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "blob");
        assert!(matches!(store.open_blob(&gone).err(), Some(SourceError::NotFound { .. })));
        assert!(matches!(store.resolve(&gone.to_string()), Err(SourceError::NotFound { .. })));
        assert!(matches!(store.resolve("../x"), Err(SourceError::Usage { .. })));
    }
}
