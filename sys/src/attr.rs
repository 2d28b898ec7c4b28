//! Extended attributes of a path itself, links not followed. Names and values are bytes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use crate::c_path;

/// Linux's own bound of a value and of the list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 65_536;

/// Sets the attribute `name` of `path` to `value`, replacing what it was.
///
/// # Errors
/// Those of `lsetxattr`, e.g. `EOPNOTSUPP` where the file system has no such attributes and `EPERM` for `user.`
/// attributes of links and devices; `EINVAL` for a name with a NUL in it.
pub fn lset_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, c_name(name)?);
    // SAFETY: path and name are strings that end in a NUL, value is a slice passed with its own length, and all
    // three are borrowed past the call, which only reads them.
    let done =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the attribute `name` of an open file or directory to `value`, replacing what it was.
///
/// # Errors
/// Those of `fsetxattr`, as for [`lset_xattr`].
pub fn fset_xattr(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (fd, name) = (file.as_fd().as_raw_fd(), c_name(name)?);
    // SAFETY: the descriptor is borrowed from an open file, name ends in a NUL, value is a slice passed with its own
    // length, and all are borrowed past the call, which only reads them.
    let done = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The value of the attribute `name` of `path`; `None` where it has none by that name.
///
/// # Errors
/// Those of `lgetxattr` but `ENODATA`.
pub fn lget_xattr(path: &Path, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = (c_path(path)?, c_name(name)?);
    let value = grow(|buffer| {
        // SAFETY: path and name are strings that end in a NUL; the kernel writes at most as many bytes into
        // the buffer as its length, passed along, says.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of all attributes of `path` that this process may see, sorted by their bytes.
///
/// A file system without attributes gives none.
///
/// # Errors
/// Those of `llistxattr` but `EOPNOTSUPP`.
pub fn llist_xattr(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let path = c_path(path)?;
    let list = grow(|buffer| {
        // SAFETY: path is a string that ends in a NUL; the kernel writes at most as many bytes into the
        // buffer as its length, passed along, says.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    let list = match list {
        Ok(list) => list,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut names: Vec<_> =
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort_unstable();
    Ok(names)
}

/// Calls `call` with a small buffer, then once with the largest there is when that was too small.
fn grow(mut call: impl FnMut(&mut [u8]) -> libc::ssize_t) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match usize::try_from(call(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() >= MAX_BYTES {
                    return Err(error);
                }
                buffer.resize(MAX_BYTES, 0);
            }
        }
    }
}

fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_lists_and_gets_bytes() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(llist_xattr(&path).unwrap(), Vec::<Vec<u8>>::new());
        lset_xattr(&path, b"user.two\xff", &[0, 255, 0]).unwrap();
        fset_xattr(std::fs::File::open(&path).unwrap(), b"user.one", b"").unwrap();
        lset_xattr(&path, b"user.big", &[9; 2000]).unwrap();
        let names = llist_xattr(&path).unwrap();
        assert_eq!(names, [b"user.big".to_vec(), b"user.one".to_vec(), b"user.two\xff".to_vec()]);
        assert_eq!(lget_xattr(&path, b"user.two\xff").unwrap().as_deref(), Some(&[0, 255, 0][..]));
        assert_eq!(lget_xattr(&path, b"user.one").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(lget_xattr(&path, b"user.big").unwrap().as_deref(), Some(&[9; 2000][..]));
        assert_eq!(lget_xattr(&path, b"user.none").unwrap(), None);
        assert_eq!(lget_xattr(&path, b"bad\0name").unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
