//! Safe wrappers of system calls: the only crate of d4c with unsafe code.
//!
//! One file per duty: [`Map`] (read-only file mappings), copying between files, holes in them, trees removed, times and nodes, extended
//! attributes, the control calls of `/dev/fuse`, descriptors sent to other processes, a thread's priority, the limit of open files, threads that may be refused, [`prefetch`], huge pages, mounts
//! with other owners, LZMA2 behind a base. Every function returns the bare [`std::io::Error`] of the call, errno kept; the caller knows
//! the path's role and adds it.

mod attr;
mod copy;
mod exhausted;
mod fuse;
mod huge;
mod idmap;
mod limit;
mod lzma;
mod map;
mod memory;
mod node;
mod pass;
mod prefetch;
mod priority;
mod remove;
mod sparse;
mod threads;
mod vectors;

pub use attr::{fset_xattr, lget_xattr, llist_xattr, lset_xattr};
pub use copy::{Copied, clone_file, reflink};
pub use exhausted::{Telling, exhausted, when_exhausted};
pub use fuse::{fuse_backing_close, fuse_backing_open};
pub use huge::prefer_huge_pages;
pub use idmap::{mount_mapped, user_namespace};
pub use limit::raise_file_limit;
pub use lzma::{Lzma2, lzma2_after};
pub use map::Map;
pub use memory::{map_from, rest_small, trim_memory};
pub use node::{FileTime, lutimens, mknod, set_times, statvfs, syncfs};
pub use pass::{inherited_listener, passed_descriptors, receive_with_fd, send_with_fd};
pub use prefetch::prefetch;
pub use priority::lower_priority;
pub use remove::remove_tree;
pub use sparse::Sparse;
pub use threads::{on_threads, spawn_scoped};
pub use vectors::{Wide, with_vectors};

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `path` with a NUL at its end, as the system calls take it.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
