//! The data-only layer below an object store: asked for an object that is not there, it makes it there.
//!
//! An overlay mount looks for a file's content in its data-only layers in order: first in the objects on disk, then here.
//! LOOKUP makes the object on disk and answers ESTALE, at which the kernel starts the open again, once, and finds it there:
//! the file is read from the disk from the first open on, and this file system serves no bytes at all.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dimg::Digest;
use dimg::index::Content;
use fuse_backend_rs::abi::fuse_abi::{Attr, FsOptions, stat64};
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem};
use nix::libc;

use super::{FOR_EVER, errno};
use crate::lazy::Contents;

const ROOT: u64 = 1;
/// The directory of the first byte 0; the others follow.
const FIRST_FAN: u64 = 2;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct ObjectFs {
    contents: Arc<Contents>,
    sizes: HashMap<Digest, u64>,
}

impl ObjectFs {
    /// Makes `known` out of `contents` when they are looked up.
    pub(crate) fn new(contents: Arc<Contents>, known: &[Content]) -> Self {
        Self { contents, sizes: known.iter().map(|content| (content.digest, content.size)).collect() }
    }

    fn attributes(&self, inode: u64) -> io::Result<stat64> {
        let in_range = (ROOT..FIRST_FAN + 256).contains(&inode);
        let attr =
            Attr { ino: inode, mode: libc::S_IFDIR | 0o755, nlink: 2, blksize: 4096, ..Attr::default() };
        if in_range { Ok(attr.into()) } else { Err(errno(libc::ENOENT)) }
    }
}

impl FileSystem for ObjectFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        Ok(capable & (FsOptions::PARALLEL_DIROPS | FsOptions::MAX_PAGES | FsOptions::INIT_EXT))
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = name.to_str().map_err(|_| errno(libc::ENOENT))?;
        if parent == ROOT {
            let byte =
                Some(name).filter(|name| name.len() == 2).and_then(|name| u8::from_str_radix(name, 16).ok());
            let inode = FIRST_FAN + u64::from(byte.ok_or_else(|| errno(libc::ENOENT))?);
            let attr = self.attributes(inode)?;
            let (attr_timeout, entry_timeout) = (FOR_EVER, FOR_EVER);
            return Ok(Entry { inode, generation: 0, attr, attr_flags: 0, attr_timeout, entry_timeout });
        }
        let fan =
            parent.checked_sub(FIRST_FAN).filter(|fan| *fan < 256).ok_or_else(|| errno(libc::ENOENT))?;
        let digest: Digest = format!("sha256:{fan:02x}{name}").parse().map_err(|_| errno(libc::ENOENT))?;
        let size = *self.sizes.get(&digest).ok_or_else(|| errno(libc::ENOENT))?;
        match self.contents.prepare(&Content { digest, size }) {
            Ok(()) => Err(errno(libc::ESTALE)),
            Err(_) => Err(errno(libc::EIO)),
        }
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.attributes(inode)?, FOR_EVER))
    }

    fn access(&self, _: &Context, _: u64, _: u32) -> io::Result<()> {
        Err(errno(libc::ENOSYS))
    }
}
