//! `docker://`: an image in a registry. The protocol is [`crate::registry`]'s.
//!
//! [`RemoteImage`] is what is known before a layer or the config is fetched: enough to look for deltas. A blob is downloaded into
//! a file, without a name or one that a later process goes on with, and is then verified and unpacked like any other.

use std::sync::Arc;

use dimg::Digest;
use oci_spec::distribution::Reference;

use super::blob::Blob;
use super::open::{OpenImage, choose_image};
use super::spool::Spool;
use super::{Backend, Options, Source};
use crate::error::SourceError;
use crate::manifest::{Config, Descriptor, Document, MAX_CONFIG_BYTES, Manifest, platforms};
use crate::platform::Platform;
use crate::registry::{Access, Partial, Partials, Repository};

/// An image in a registry: its manifest, verified, and the repository that it is in.
#[derive(Debug)]
pub struct RemoteImage {
    repository: Arc<Repository>,
    name: String,
    bytes: Vec<u8>,
    manifest: Manifest,
    digest: Digest,
}

/// What a tag or digest of a repository leads to: an image, or an index of several.
#[derive(Debug)]
pub struct RemoteRoot {
    repository: Arc<Repository>,
    name: String,
    bytes: Vec<u8>,
}

impl RemoteRoot {
    /// What a repository has at a tag or a digest.
    ///
    /// # Errors
    /// As for [`RemoteImage::resolve`].
    pub fn within(repository: &Arc<Repository>, tag: &str) -> Result<Self, SourceError> {
        let between = if tag.contains(':') { '@' } else { ':' };
        let name = format!("{}{between}{tag}", repository.name());
        Self::find(Arc::clone(repository), tag, name)
    }

    fn find(repository: Arc<Repository>, tag: &str, name: String) -> Result<Self, SourceError> {
        // No tag has a colon.
        let root = if tag.contains(':') {
            let digest: Digest =
                tag.parse().map_err(|error| SourceError::usage(name.clone(), format!("{error}")))?;
            repository.manifest(digest)?
        } else {
            repository.tagged(tag)?
        };
        Ok(Self { repository, name, bytes: root.bytes })
    }

    /// Its name, as a source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The platforms that an index names, each once, in its order, without attestations; none where this is an image, or an index of one
    /// entry that does not say its platform.
    ///
    /// # Errors
    /// It is neither, or damaged.
    pub fn platforms(&self) -> Result<Option<Vec<Platform>>, SourceError> {
        match Document::parse(&self.bytes, &self.name)? {
            Document::Image(_) => Ok(None),
            Document::Index(entries) if matches!(&entries[..], [only] if only.platform.is_none()) => Ok(None),
            Document::Index(entries) => Ok(Some(platforms(&entries))),
        }
    }

    /// The image itself, or of an index the one for the platform.
    ///
    /// # Errors
    /// There is none for the platform, or it is damaged.
    pub fn image(&self, options: &Options) -> Result<RemoteImage, SourceError> {
        let (repository, name) = (Arc::clone(&self.repository), self.name.clone());
        let backend = Registry { repository, spool: options.spool(), partials: None };
        let (bytes, manifest) = choose_image(&backend, self.bytes.clone(), options, &name)?;
        let digest = Digest::of(&bytes);
        Ok(RemoteImage { repository: backend.repository, name, bytes, manifest, digest })
    }
}

impl RemoteImage {
    /// Finds the image that `reference` names, by tag or digest; of an index the one for the platform.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where there is none; the registry does not answer.
    pub fn resolve(reference: &Reference, options: &Options) -> Result<Self, SourceError> {
        let name = Source::Registry(reference.clone()).to_string();
        let open =
            || Repository::open(reference, Access::Pull, &options.registry, name.clone()).map(Arc::new);
        let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
        let repository = open()?;
        let find = |repository| RemoteRoot::find(repository, tag, name.clone())?.image(options);
        match find(Arc::clone(&repository)) {
            Err(SourceError::Remote { .. }) if repository.was_misled() => find(open()?),
            result => result,
        }
    }

    /// The image whose manifest is at hand already; the registry is not asked yet.
    ///
    /// # Errors
    /// `bytes` are no manifest of an image; credentials, `hosts.toml` or certificates cannot be read.
    pub fn with_manifest(
        reference: &Reference,
        bytes: Vec<u8>,
        options: &Options,
    ) -> Result<Self, SourceError> {
        let name = Source::Registry(reference.clone()).to_string();
        let Document::Image(manifest) = Document::parse(&bytes, &name)? else {
            return Err(SourceError::corrupt("read manifest", name.as_str(), "is an index"));
        };
        let repository = Repository::open(reference, Access::Pull, &options.registry, name.clone())?;
        let digest = Digest::of(&bytes);
        Ok(Self { repository: Arc::new(repository), name, bytes, manifest: *manifest, digest })
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The image's name, as a source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The manifest, byte for byte.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes of the layers' blobs: what pulling the image costs.
    pub fn pull_bytes(&self) -> u64 {
        self.manifest.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    /// Fetches the config; its bytes, verified, and what they say.
    ///
    /// # Errors
    /// It is not there, or not what the manifest names.
    pub fn config(&self, options: &Options) -> Result<(Vec<u8>, Config), SourceError> {
        let backend = self.backend(options);
        let config = &self.manifest.config;
        let name = backend.blob_name(config);
        let blob = backend.blob(config)?;
        let bytes = super::open::read_small(blob, config, MAX_CONFIG_BYTES, "read config", &name)?;
        let config = Config::parse(&bytes, &name)?;
        Ok((bytes, config))
    }

    /// Opens the image in full: its config now, its layers when they are asked for.
    ///
    /// # Errors
    /// As for [`RemoteImage::config`]; the image is for another platform than the one asked for.
    pub fn open(&self, options: &Options) -> Result<OpenImage, SourceError> {
        let backend = Box::new(self.backend(options));
        OpenImage::of_manifest(backend, self.bytes.clone(), self.manifest.clone(), options, self.name.clone())
    }

    fn backend(&self, options: &Options) -> Registry {
        Registry {
            repository: Arc::clone(&self.repository),
            spool: options.spool(),
            partials: options.partials.clone(),
        }
    }
}

/// A repository as a backend.
struct Registry {
    repository: Arc<Repository>,
    spool: Spool,
    partials: Option<Arc<Partials>>,
}

impl Backend for Registry {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let partial = match &self.partials {
            Some(partials) => partials.begin(descriptor)?,
            None => Partial::unkept(self.spool.file()?),
        };
        let partial = self.repository.fetch_blob(descriptor, partial, None)?;
        let mapped = self.spool.map(partial.file())?;
        if let Some(partials) = &self.partials {
            partials.hold(partial);
        }
        Ok(Blob::Mapped(mapped))
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
