//! Image sources: where an image comes from, by skopeo's words, and the image once it is open.
//!
//! [`Source::parse`] reads the word, [`Source::open`] finds manifest and config, [`OpenImage::layer`] gives a
//! layer's tar as mapped memory. One file per kind of store (`layout`, `archive`, `docker_archive`, `remote`,
//! `store`, `rootfs`); each only knows how to find blobs ([`Backend`]). Choosing, verifying and
//! unpacking are the same for all, in `open` and `spool`.
//!
//! Trust: nothing that a store says is believed. Every manifest, config and layer is compared with the digest
//! that led to it, the layers' tars with the diff IDs in the config, names inside archives are looked up in a table
//! and never touch the file system.

mod archive;
mod blob;
mod docker_archive;
mod hash;
mod layout;
mod open;
mod parse;
mod remote;
mod rootfs;
mod spool;
mod store;
mod tarwrite;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use blob::MappedBytes;
pub use oci_spec::distribution::Reference;
pub use open::{Layer, LayerFile, OpenImage};
pub use parse::Source;
pub use remote::{RemoteImage, RemoteRoot};
pub use store::BlobStore;

use crate::error::SourceError;
use crate::manifest::Descriptor;
use crate::platform::Platform;
use crate::registry::{Partials, RegistryOptions};
use blob::Blob;
use spool::Spool;

/// How images are opened.
#[derive(Clone, Default)]
pub struct Options {
    /// The platform to take from an index; the host's when not set.
    pub platform: Option<Platform>,
    /// Where unpacked layers go, as files without names; `$TMPDIR`, else `/var/tmp`, when not set.
    pub temp_dir: Option<PathBuf>,
    /// The largest uncompressed layer that is accepted; when not set, the free space is the limit.
    pub max_layer_bytes: Option<u64>,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// Where blobs of registries are downloaded to, and held; none: into files without names, in the same place as layers.
    pub partials: Option<Arc<Partials>>,
    /// The content store behind `containerd:`.
    pub containerd: Option<Arc<dyn BlobStore>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("platform", &self.platform)
            .field("temp_dir", &self.temp_dir)
            .field("max_layer_bytes", &self.max_layer_bytes)
            .field("registry", &self.registry)
            .field("partials", &self.partials)
            .field("containerd", &self.containerd.is_some())
            .finish()
    }
}

impl Options {
    fn spool(&self) -> Spool {
        let dir = self.temp_dir.clone().unwrap_or_else(|| {
            std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or("/var/tmp".into(), PathBuf::from)
        });
        Spool { dir, limit_bytes: self.max_layer_bytes }
    }

    fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}

impl Source {
    /// Opens the image: finds, reads and verifies its manifest and config.
    ///
    /// Layers are not touched yet, but for `dir:`, whose tar is written here, and for compressed layers in a
    /// `docker-archive:`, whose sizes the manifest made for it must tell.
    ///
    /// # Errors
    /// See [`SourceError`]; [`SourceError::Usage`] for [`Source::Delta`], which is no image by itself.
    pub fn open(&self, options: &Options) -> Result<OpenImage, SourceError> {
        let name = self.to_string();
        match self {
            Self::OciDir { path, tag } => layout::open_dir(path, tag.as_deref(), options, name),
            Self::OciArchive { path, tag } => layout::open_archive(path, tag.as_deref(), options, name),
            Self::DockerArchive { path, reference } => {
                docker_archive::open(path, reference.as_deref(), options, name)
            }
            Self::Containerd(reference) => store::open(reference, options, name),
            Self::Rootfs(path) => rootfs::open(path, options, name),
            Self::Registry(reference) => RemoteImage::resolve(reference, options)?.open(options),
            Self::Delta(_) => {
                Err(SourceError::usage(name, "is a delta file; an image (oci:, docker://, …) is needed here"))
            }
        }
    }
}

/// A place that has blobs.
trait Backend: Send + Sync {
    /// The bytes that `descriptor` names, not verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError>;

    /// The name of the blob in errors.
    fn blob_name(&self, descriptor: &Descriptor) -> String;

    /// The same for a manifest, where those are kept apart from other blobs.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        self.blob(descriptor)
    }
}
