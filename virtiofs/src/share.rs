//! A directory of the host, read and written by a guest.

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::api::{Vfs, VfsOptions};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

use crate::{Confinement, VirtioError, confine};

/// What the guest may keep of what it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: the host may change anything at any time.
    Never,
    /// Names and attributes, no contents.
    Metadata,
    /// Contents until a file is opened again; the rest for a second.
    #[default]
    Auto,
    /// Everything: nobody but the guest changes anything.
    Always,
}

impl FromStr for Cache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" | "none" => Ok(Self::Never),
            "metadata" => Ok(Self::Metadata),
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            _ => Err("one of never, metadata, auto, always".to_owned()),
        }
    }
}

/// How a directory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareOptions {
    /// What the guest may keep.
    pub cache: Cache,
    /// Pass extended attributes through.
    pub xattr: bool,
    /// How the process is shut in.
    pub confinement: Confinement,
}

/// Shuts the calling thread in `dir` ([`confine`]) and gives the directory as a file system, which threads that are started
/// later can serve.
///
/// Names are looked up one by one in the directory that the guest names by number, links are never followed: it gets
/// no further than `dir` where the process is not shut in, too.
///
/// # Errors
/// The directory is not there, or not text, there is no `/proc`, or the process may not shut itself in.
pub fn share(dir: &Path, options: ShareOptions) -> Result<Arc<Vfs>, VirtioError> {
    let failed = || VirtioError::io("share directory", dir);
    let real = std::fs::canonicalize(dir).map_err(failed())?;
    let root = if options.confinement == Confinement::None { &*real } else { Path::new("/") };
    let root_dir = root.to_str().ok_or_else(|| failed()(io::ErrorKind::InvalidInput.into()))?.to_owned();
    let (cache_policy, timeout) = match options.cache {
        Cache::Never => (CachePolicy::Never, Duration::ZERO),
        Cache::Metadata => (CachePolicy::Metadata, Duration::from_secs(86_400)),
        Cache::Auto => (CachePolicy::Auto, Duration::from_secs(1)),
        Cache::Always => (CachePolicy::Always, Duration::from_secs(86_400)),
    };
    let (attr_timeout, entry_timeout, xattr) = (timeout, timeout, options.xattr);
    let config = Config { root_dir, cache_policy, attr_timeout, entry_timeout, xattr, ..Config::default() };
    // It opens /proc/self/fd, which the new root has not.
    let shared = PassthroughFs::<()>::new(config).map_err(failed())?;
    confine(Some(&real), options.confinement)?;
    shared.import().map_err(failed())?;
    // It negotiates large requests, which the share by itself does not.
    let no_writeback = options.cache != Cache::Always;
    let vfs =
        Vfs::new(VfsOptions { no_open: false, no_opendir: false, no_writeback, ..VfsOptions::default() });
    vfs.mount(Box::new(shared), "/").map_err(|error| failed()(io::Error::other(error)))?;
    Ok(Arc::new(vfs))
}
