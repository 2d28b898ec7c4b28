//! Safe wrappers of system calls: the only crate of d4c with unsafe code.
//!
//! One file per duty: [`Map`] (read-only file mappings), copying between files, times and nodes, extended
//! attributes, the control calls of `/dev/fuse`. Every function returns the bare [`std::io::Error`] of the call, errno kept; the caller knows
//! the path's role and adds it.

mod attr;
mod copy;
mod fuse;
mod map;
mod node;

pub use attr::{fset_xattr, lget_xattr, llist_xattr, lset_xattr};
pub use copy::{Copied, clone_file, reflink};
pub use fuse::{fuse_backing_close, fuse_backing_open, fuse_clone};
pub use map::Map;
pub use node::{FileTime, lutimens, mknod, set_times, statvfs, syncfs};

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `path` with a NUL at its end, as the system calls take it.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
