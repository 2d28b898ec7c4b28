//! The data-only layers that have the objects made that a store lacks.
//!
//! An overlay mount looks for a file's content in its data-only layers in order, whatever a layer answers, until one has it:
//!
//! 1. the objects on disk;
//! 2. `first` here: LOOKUP makes the object, gives it a second name, and answers that it is not there;
//! 3. those second names on disk ([`ObjectStore`](crate::store::ObjectStore)): the file is read from the disk from the first open on;
//! 4. `last` here, asked only when that failed: ESTALE where the object is there nevertheless, at which the kernel starts the open
//!    again, once; EIO where it could not be made.
//!
//! Of a volatile store, and in mounts that an earlier version left to this one, the root here is behind the objects on disk, and nothing else: there
//! LOOKUP makes the object and answers as `last`. In a store that is new and goes at the end, second names cost as much as they save, most
//! of them being the first ones of their folders. This file system serves no bytes at all.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dimg::Digest;
use dimg::index::Content;
use fuse_backend_rs::abi::fuse_abi::{Attr, FsOptions, stat64};
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem};
use nix::libc;

use super::{FOR_EVER, errno};
use crate::lazy::Contents;

/// A layer, each with a directory for each first byte of a digest.
#[derive(Debug, Clone, Copy)]
enum Layer {
    /// The root, which the other two are in as well.
    Only,
    First,
    Last,
}

/// What an inode number stands for, all of them directories.
#[derive(Debug, Clone, Copy)]
enum Place {
    Layer(Layer),
    /// The objects whose digests begin with this byte.
    Fan(Layer, u8),
}

impl Layer {
    const ALL: [Self; 3] = [Self::Only, Self::First, Self::Last];
    const NAMED: [(&str, Self); 2] = [("first", Self::First), ("last", Self::Last)];

    /// Those of its directories follow. The kernel knows them, also what it asked earlier versions for.
    fn inode(self) -> u64 {
        match self {
            Self::Only => 1,
            Self::First => 0x1000,
            Self::Last => 0x2000,
        }
    }

    fn look_up(self, name: &str) -> Option<Place> {
        let named = Self::NAMED.iter().find(|(own, _)| *own == name && matches!(self, Self::Only));
        match named {
            Some((_, layer)) => Some(Place::Layer(*layer)),
            None => u8::from_str_radix(name, 16)
                .ok()
                .filter(|byte| format!("{byte:02x}") == name)
                .map(|byte| Place::Fan(self, byte)),
        }
    }
}

impl Place {
    fn of(inode: u64) -> Option<Self> {
        Layer::ALL.into_iter().find_map(|layer| match inode.checked_sub(layer.inode())? {
            0 => Some(Self::Layer(layer)),
            fan => Some(Self::Fan(layer, u8::try_from(fan - 1).ok()?)),
        })
    }

    fn inode(self) -> u64 {
        match self {
            Self::Layer(layer) => layer.inode(),
            Self::Fan(layer, byte) => layer.inode() + 1 + u64::from(byte),
        }
    }
}

/// To be remembered by the kernel.
fn entry(inode: u64) -> Entry {
    let (attr_timeout, entry_timeout) = (FOR_EVER, FOR_EVER);
    Entry { inode, generation: 0, attr: attributes(inode), attr_flags: 0, attr_timeout, entry_timeout }
}

fn attributes(inode: u64) -> stat64 {
    Attr { ino: inode, mode: libc::S_IFDIR | 0o755, nlink: 2, blksize: 4096, ..Attr::default() }.into()
}

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

    /// `first` and `last`, where it is mounted at `mountpoint`.
    pub(crate) fn layers(mountpoint: &Path) -> [PathBuf; 2] {
        Layer::NAMED.map(|(name, _)| mountpoint.join(name))
    }

    /// Answers for an object that the kernel did not find: never with it.
    fn find(&self, layer: Layer, byte: u8, name: &str) -> io::Error {
        let content = || {
            let digest: Digest = format!("sha256:{byte:02x}{name}").parse().ok()?;
            Some(Content { digest, size: *self.sizes.get(&digest)? })
        };
        let Some(content) = content() else { return errno(libc::ENOENT) };
        let is_there = match layer {
            Layer::Only => self.contents.prepare(&content).is_ok(),
            Layer::First => {
                if self.contents.prepare(&content).is_ok()
                    && let Err(error) = self.contents.store().add_fresh(&content)
                {
                    tracing::debug!(digest = %content.digest, %error, "no second name");
                }
                // Not ENOENT, which the kernel would take a note of.
                return errno(libc::ENXIO);
            }
            Layer::Last => self.contents.store().has(&content).unwrap_or(false),
        };
        errno(if is_there { libc::ESTALE } else { libc::EIO })
    }
}

impl FileSystem for ObjectFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        Ok(capable & (FsOptions::PARALLEL_DIROPS | FsOptions::MAX_PAGES | FsOptions::INIT_EXT))
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let missing = || errno(libc::ENOENT);
        let name = name.to_str().map_err(|_| missing())?;
        match Place::of(parent).ok_or_else(missing)? {
            Place::Layer(layer) => layer.look_up(name).map(|place| entry(place.inode())).ok_or_else(missing),
            Place::Fan(layer, byte) => Err(self.find(layer, byte, name)),
        }
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Place::of(inode).ok_or_else(|| errno(libc::ENOENT))?;
        Ok((attributes(inode), FOR_EVER))
    }

    fn access(&self, _: &Context, _: u64, _: u32) -> io::Result<()> {
        Err(errno(libc::ENOSYS))
    }
}
