//! `containerd:`: images in a content store that someone else talks to.
//!
//! The protocol is the business of the crate that has a client of it; here is only what is asked of it.

use std::io::Read;
use std::sync::Arc;

use dimg::Digest;

use super::blob::Blob;
use super::open::{OpenImage, read_manifest};
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::Descriptor;

/// A store of images and blobs, by digest: containerd's, through its API.
///
/// Nothing of what it gives is believed: sizes and digests are verified by the caller.
pub trait BlobStore: Send + Sync {
    /// The manifest or index that the image `reference` points to.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where there is no such image.
    fn resolve(&self, reference: &str) -> Result<Descriptor, SourceError>;

    /// Reads a blob from its beginning.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where the store does not have it.
    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// A [`BlobStore`] as a backend.
struct Store {
    store: Arc<dyn BlobStore>,
    name: String,
}

impl Backend for Store {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        self.store.open_blob(&descriptor.digest).map(Blob::Stream)
    }

    fn blob_name(&self, descriptor: &Descriptor) -> String {
        format!("{} blob {}", self.name, descriptor.digest)
    }
}

pub(super) fn open(reference: &str, options: &Options, name: String) -> Result<OpenImage, SourceError> {
    let store = options
        .containerd
        .clone()
        .ok_or_else(|| SourceError::usage(name.clone(), "this command has no connection to containerd"))?;
    let root = store.resolve(reference)?;
    let backend = Store { store, name: name.clone() };
    let bytes = read_manifest(&backend, &root)?;
    OpenImage::new(Box::new(backend), bytes, options, name)
}
