//! One file of any type but a directory, made within an open directory.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use dimg::content::ContentSource;
use dimg::index::Content;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{Mode, SFlag};

use super::CheckoutError;
use super::attributes::{Applier, Target, failed, privileged, shown};
use crate::tree::{Body, Node};

/// Up to this size reading and writing a file costs less than asking the kernel to copy it.
const SMALL_BYTES: usize = 256 << 10;

/// Makes files; one for each thread.
pub(super) struct Maker<'a> {
    applier: &'a Applier,
    source: &'a dyn ContentSource,
    /// Whether sharing blocks has not failed yet.
    reflinks: &'a AtomicBool,
    buffer: Vec<u8>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(applier: &'a Applier, source: &'a dyn ContentSource, reflinks: &'a AtomicBool) -> Self {
        Self { applier, source, reflinks, buffer: Vec::new() }
    }

    /// Makes `node` as `name` in `dir`; `path` is for errors.
    pub(super) fn make(
        &mut self,
        dir: &File,
        name: &[u8],
        node: &Node,
        path: &[u8],
    ) -> Result<(), CheckoutError> {
        let (kind, major, minor) = match &node.body {
            Body::Regular(content) => return self.regular(dir, name, node, *content, path),
            Body::Symlink(target) => {
                nix::unistd::symlinkat(&**target, dir, name)
                    .map_err(|errno| failed("make link", path, errno.into()))?;
                let target = Target::Named { dir, name, symlink: true };
                return self.applier.apply(target, &node.attributes, path);
            }
            Body::CharDevice { major, minor } => (SFlag::S_IFCHR, *major, *minor),
            Body::BlockDevice { major, minor } => (SFlag::S_IFBLK, *major, *minor),
            Body::Fifo => (SFlag::S_IFIFO, 0, 0),
            Body::Whiteout => (SFlag::S_IFCHR, 0, 0),
            Body::Directory(_) | Body::Below(_) => return Ok(()),
        };
        let device = nix::sys::stat::makedev(major.into(), minor.into());
        nix::sys::stat::mknodat(dir, name, kind, Mode::from_bits_truncate(0o600), device)
            .map_err(|errno| privileged("make node", path, errno.into()))?;
        let target = Target::Named { dir, name, symlink: false };
        self.applier.apply(target, &node.attributes, path)
    }

    fn regular(
        &mut self,
        dir: &File,
        name: &[u8],
        node: &Node,
        content: Option<Content>,
        path: &[u8],
    ) -> Result<(), CheckoutError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(dir, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(|errno| failed("make file", path, errno.into()))?;
        let file = File::from(file);
        if let Some(content) = content {
            self.fill(&file, &content, path)?;
        }
        self.applier.apply(Target::Open(&file), &node.attributes, path)
    }

    fn fill(&mut self, file: &File, content: &Content, path: &[u8]) -> Result<(), CheckoutError> {
        let check = |actual| {
            let (path, digest, expected) = (shown(path), content.digest, content.size);
            if actual == expected {
                Ok(())
            } else {
                Err(CheckoutError::WrongSize { path, digest, expected, actual })
            }
        };
        let unread = |error| failed("read content", path, error);
        let unwritten = |error| failed("write file", path, error);
        if let Some(from) = self.source.file(content).map_err(unread)? {
            return check(self.copy(&from, file, content.size).map_err(unwritten)?);
        }
        let Some(bytes) = self.source.open(content).map_err(unread)? else {
            return Err(CheckoutError::MissingContent { path: shown(path), digest: content.digest });
        };
        check(bytes.len() as u64)?;
        let mut sparse = d4c_sys::Sparse::new(file);
        sparse.write_all(&bytes).and_then(|()| sparse.finish()).map(drop).map_err(unwritten)
    }

    /// Copies `from` to `to`, empty, unless its size is wrong; gives its size.
    fn copy(&mut self, from: &File, mut to: &File, expected: u64) -> io::Result<u64> {
        if self.reflinks.load(Ordering::Relaxed) {
            match d4c_sys::reflink(from, to) {
                Ok(()) => return Ok(to.metadata()?.len()),
                Err(error) if share_no_blocks(&error) => self.reflinks.store(false, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        if let Some(small) = usize::try_from(expected).ok().filter(|small| *small <= SMALL_BYTES) {
            // One byte more than expected shows a file that is too long.
            self.buffer.resize(small + 1, 0);
            let filled = read_at_most(from, &mut self.buffer)?;
            to.write_all(&self.buffer[..filled])?;
            return Ok(filled as u64);
        }
        let length = from.metadata()?.len();
        if length == expected {
            d4c_sys::clone_file(from, to)?;
            return Ok(to.metadata()?.len());
        }
        Ok(length)
    }
}

/// Fills `buffer` from the file's start as far as the file goes.
fn read_at_most(from: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether two file systems cannot share blocks, as opposed to a failure of doing so.
fn share_no_blocks(error: &io::Error) -> bool {
    use libc::{EBADF, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV};
    error.raw_os_error().is_some_and(|errno| {
        [EBADF, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV].contains(&errno)
    })
}
