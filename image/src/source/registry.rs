//! `docker://`: images in a registry. The protocol is [`crate::registry`]'s; here a repository becomes a [`Backend`].
//!
//! A blob is downloaded into a file without a name and is then verified and unpacked like any other.

use dimg::Digest;
use oci_spec::distribution::Reference;

use super::blob::Blob;
use super::open::OpenImage;
use super::spool::Spool;
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::Descriptor;
use crate::registry::{Access, Repository};

pub(super) fn open(reference: &Reference, options: &Options, name: String) -> Result<OpenImage, SourceError> {
    let repository = Repository::open(reference, Access::Pull, &options.registry, name.clone())?;
    let root = match reference.digest() {
        Some(digest) => {
            let digest: Digest =
                digest.parse().map_err(|error| SourceError::usage(name.clone(), format!("{error}")))?;
            repository.manifest(digest)?
        }
        None => repository.tagged(reference.tag().unwrap_or("latest"))?,
    };
    let backend = Registry { repository, spool: options.spool() };
    OpenImage::new(Box::new(backend), root.bytes, options, name)
}

/// A repository as a backend.
struct Registry {
    repository: Repository,
    spool: Spool,
}

impl Backend for Registry {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let file = self.repository.fetch_blob(descriptor, self.spool.file()?, None)?;
        self.spool.map(&file).map(Blob::Mapped)
    }

    fn blob_name(&self, descriptor: &Descriptor) -> String {
        self.repository.blob_name(descriptor)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let found = match self.repository.manifest(descriptor.digest) {
            Err(SourceError::NotFound { .. }) => {
                let on = self.blob_name(descriptor);
                return Err(SourceError::corrupt("fetch manifest", on, "missing from the registry"));
            }
            other => other?,
        };
        Ok(Blob::Stream(Box::new(std::io::Cursor::new(found.bytes))))
    }
}
