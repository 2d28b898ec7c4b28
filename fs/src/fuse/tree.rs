//! A tree as a read-only file system.
//!
//! Inode numbers are the table's rows plus one. Nothing changes, so the kernel may keep names, attributes, links and
//! pages for ever; opens are answered once with ENOSYS, after which the kernel does not ask, but on a mount with
//! passthrough, where each is answered with a file.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dimg::index::Content;
use fuse_backend_rs::abi::fuse_abi::{Attr, FsOptions, OpenOptions, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyWriter,
};
use nix::libc;

use super::backing::Backings;
use super::files::Files;
use super::session::{Passthrough, Serve};
use super::{FOR_EVER, errno};
use crate::lazy::Contents;
use crate::store::StoreError;
use crate::table::{Row, Table, device, escaped, mode, type_bits, xattrs};
use crate::tree::{Body, Node};

/// The longest name that any file has.
const NAME_MAX: usize = 255;

/// An image's tree as requests of the FUSE protocol see it, whatever carries them.
#[derive(Debug)]
pub struct TreeFs {
    table: Arc<Table>,
    contents: Arc<Contents>,
    files: Files,
    /// Set on a mount with passthrough.
    backings: OnceLock<Backings>,
    /// It is seen through an overlay mount.
    below_overlay: bool,
}

impl TreeFs {
    /// With `below_overlay` an overlay mount shows it as it is: attributes that overlayfs would take for its own are escaped.
    pub(crate) fn new(table: Arc<Table>, contents: Arc<Contents>, below_overlay: bool) -> Self {
        Self { table, contents, files: Files::default(), backings: OnceLock::new(), below_overlay }
    }

    /// The extended attributes of a file, by the names that they have here.
    fn xattrs<'a>(&self, node: &'a Node) -> impl Iterator<Item = (Cow<'a, [u8]>, &'a [u8])> {
        let below_overlay = self.below_overlay;
        xattrs(node).map(move |(name, value)| match below_overlay {
            true => (escaped(name), value),
            false => (Cow::Borrowed(name), value),
        })
    }

    fn find(&self, inode: u64) -> io::Result<(u32, &Row, &Node)> {
        let number = inode.checked_sub(1).and_then(|number| u32::try_from(number).ok());
        let found =
            number.and_then(|number| Some((number, self.table.row(number)?, self.table.node(number)?)));
        found.ok_or_else(|| errno(libc::ENOENT))
    }

    fn attributes(&self, inode: u64) -> io::Result<stat64> {
        let (_, row, node) = self.find(inode)?;
        let size = match &node.body {
            Body::Regular(content) => content.map_or(0, |content| content.size),
            Body::Symlink(target) => target.len() as u64,
            Body::Directory(_) => 4096,
            _ => 0,
        };
        let attributes = &node.attributes;
        let (seconds, nanoseconds) = (attributes.mtime.cast_unsigned(), attributes.mtime_nsec);
        let attr = Attr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: seconds,
            mtime: seconds,
            ctime: seconds,
            atimensec: nanoseconds,
            mtimensec: nanoseconds,
            ctimensec: nanoseconds,
            mode: mode(node),
            nlink: row.links,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: device(&node.body),
            blksize: 4096,
            flags: 0,
        };
        Ok(attr.into())
    }

    fn entry(&self, inode: u64) -> io::Result<Entry> {
        let attr = self.attributes(inode)?;
        let (attr_timeout, entry_timeout) = (FOR_EVER, FOR_EVER);
        Ok(Entry { inode, generation: 0, attr, attr_flags: 0, attr_timeout, entry_timeout })
    }

    /// The content of a regular file; none of an empty one.
    fn content(&self, inode: u64) -> io::Result<(u32, Option<Content>)> {
        match self.find(inode)? {
            (number, _, Node { body: Body::Regular(content), .. }) => Ok((number, *content)),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    /// Calls `add` with the directory's names from `offset` on, itself and its parent first, until it has enough.
    fn list(
        &self,
        inode: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (number, row, node) = self.find(inode)?;
        if node.as_directory().is_none() {
            return Err(errno(libc::ENOTDIR));
        }
        let first = [(&b"."[..], number), (&b".."[..], row.parent)];
        let names = self.table.entries(row).iter().map(|(name, number)| (&**name, *number));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (name, number)) in first.into_iter().chain(names).enumerate().skip(skipped) {
            let type_ = self.table.node(number).map_or(0, |node| type_bits(&node.body) >> 12);
            let entry = DirEntry { ino: u64::from(number) + 1, offset: place as u64 + 1, type_, name };
            if add(entry)? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// A failure as a reader of the mount sees it; it was logged where it happened.
fn unreadable(_: StoreError) -> io::Error {
    errno(libc::EIO)
}

/// `bytes` for who has room for so many, or how many there are for who has none.
fn reply<T>(room: u32, bytes: Vec<u8>, count: fn(u32) -> T, whole: fn(Vec<u8>) -> T) -> io::Result<T> {
    match (room as usize, u32::try_from(bytes.len())) {
        (0, Ok(bytes)) => Ok(count(bytes)),
        (room, _) if room >= bytes.len() => Ok(whole(bytes)),
        _ => Err(errno(libc::ERANGE)),
    }
}

impl Passthrough for TreeFs {
    fn enable(&self, device: Arc<File>) {
        drop(self.backings.set(Backings::new(device)));
    }

    fn open(&self, inode: u64) -> io::Result<Option<u32>> {
        let Some(backings) = self.backings.get() else { return Ok(None) };
        let (number, Some(content)) = self.content(inode)? else { return Ok(None) };
        backings.open(number, || self.contents.ensure(&content).map_err(unreadable)).map(Some)
    }
}

impl Serve for TreeFs {
    fn passthrough(&self) -> Option<&dyn Passthrough> {
        Some(self)
    }
}

impl FileSystem for TreeFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::EXPLICIT_INVAL_DATA
            | FsOptions::POSIX_ACL
            | FsOptions::INIT_EXT
            | FsOptions::ZERO_MESSAGE_OPEN
            | FsOptions::ZERO_MESSAGE_OPENDIR;
        Ok(capable & wanted)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (_, row, node) = self.find(parent)?;
        if node.as_directory().is_none() {
            return Err(errno(libc::ENOTDIR));
        }
        if name.to_bytes().len() > NAME_MAX {
            return Err(errno(libc::ENAMETOOLONG));
        }
        let entries = self.table.entries(row);
        match entries.binary_search_by(|(other, _)| (**other).cmp(name.to_bytes())) {
            Ok(at) => self.entry(u64::from(entries[at].1) + 1),
            // Inode 0: there is none, and the kernel may remember that.
            Err(_) => Ok(Entry { inode: 0, entry_timeout: FOR_EVER, ..Entry::default() }),
        }
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.attributes(inode)?, FOR_EVER))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        match self.find(inode)? {
            (_, _, Node { body: Body::Symlink(target), .. }) => Ok(target.to_vec()),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    fn open(
        &self,
        _: &Context,
        _: u64,
        _: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        match self.backings.get() {
            None => Err(errno(libc::ENOSYS)),
            Some(_) => Ok((None, OpenOptions::KEEP_CACHE, None)),
        }
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        out: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let (number, Some(content)) = self.content(inode)? else { return Ok(0) };
        let file = self.files.get(number, &content, &self.contents).map_err(unreadable)?;
        // A descriptor of its own, because the writer wants to own one.
        let mut file = file.try_clone()?;
        out.write_from(&mut file, size as usize, offset)
    }

    fn flush(&self, _: &Context, _: u64, _: u64, _: u64) -> io::Result<()> {
        Err(errno(libc::ENOSYS))
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        _: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        if let (Some(backings), (number, Some(_))) = (self.backings.get(), self.content(inode)?) {
            backings.release(number);
        }
        Ok(())
    }

    fn opendir(&self, _: &Context, _: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        Err(errno(libc::ENOSYS))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(inode, offset, add)
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(inode, offset, &mut |entry| {
            let full = self.entry(entry.ino)?;
            add(entry, full)
        })
    }

    fn statfs(&self, _: &Context, _: u64) -> io::Result<statvfs64> {
        // The store's disk: what is made goes there. Nothing of it can be had through this mount.
        let mut stat = d4c_sys::statvfs(self.contents.store().root())?;
        (stat.f_bfree, stat.f_bavail, stat.f_ffree, stat.f_favail) = (0, 0, 0, 0);
        (stat.f_files, stat.f_namemax) = (self.table.len() as u64, NAME_MAX as u64);
        Ok(stat)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let (_, _, node) = self.find(inode)?;
        let found = self.xattrs(node).find(|(other, _)| **other == *name.to_bytes());
        let (_, value) = found.ok_or_else(|| errno(libc::ENODATA))?;
        reply(size, value.to_vec(), GetxattrReply::Count, GetxattrReply::Value)
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let (_, _, node) = self.find(inode)?;
        let names: Vec<u8> =
            self.xattrs(node).flat_map(|(name, _)| name.into_owned().into_iter().chain([0])).collect();
        reply(size, names, ListxattrReply::Count, ListxattrReply::Names)
    }

    fn access(&self, _: &Context, _: u64, _: u32) -> io::Result<()> {
        Err(errno(libc::ENOSYS))
    }
}
