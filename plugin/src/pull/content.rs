//! containerd's content store by its files, read only: a Prepare must not call containerd's API, which may wait for the Prepare.
//!
//! `<dir>/blobs/sha256/<hex>` is a whole blob: containerd renames it there when it has verified it. One that is removed meanwhile stays readable
//! where it is open, else it is missing. Nothing is believed: whoever reads compares digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use d4c_image::error::SourceError;
use d4c_image::manifest::Descriptor;
use d4c_image::source::BlobStore;
use dimg::Digest;

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
