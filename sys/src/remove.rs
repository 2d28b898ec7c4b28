//! Directories removed with all that is in them, whatever their depth and modes.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::c_path;

/// Removes the directory at `path` and all that is in it, links not followed; two descriptors and its owner's rights are enough.
///
/// # Errors
/// Those of the calls; what was not removed then may have been moved up to the top.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => remove_from_top(path),
        removed => removed,
    }
}

/// The same without a descriptor for each level: directories are moved up to the top before they are emptied. Those that their owner may not write to
/// are opened to them.
fn remove_from_top(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut top = open(AT_FDCWD, &path)?;
    let (mut pending, mut moved) = (empty(&mut top)?, 0);
    while let Some(name) = pending.pop() {
        let mut dir = match open(&top, &name) {
            // An empty one, in the place of which another was moved.
            Err(Errno::ENOENT) => continue,
            opened => opened?,
        };
        for below in empty(&mut dir)? {
            pending.push(move_up(&dir, &below, &top, &mut moved)?);
        }
        unlinkat(&top, &*name, UnlinkatFlags::RemoveDir)?;
    }
    Ok(unlinkat(AT_FDCWD, &*path, UnlinkatFlags::RemoveDir)?)
}

/// A directory that its owner may empty.
fn open(at: impl AsFd, name: &CStr) -> nix::Result<Dir> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = match Dir::openat(at.as_fd(), name, flags, Mode::empty()) {
        Err(Errno::EACCES) => {
            fchmodat(at.as_fd(), name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
            Dir::openat(at.as_fd(), name, flags, Mode::empty())
        }
        opened => opened,
    };
    opened.inspect(|dir| {
        // What is not the owner's may be emptied all the same.
        let _ = fchmod(dir, Mode::S_IRWXU);
    })
}

/// Removes what is no directory; the names of those that are.
fn empty(dir: &mut Dir) -> nix::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type() == Some(Type::Directory)));
        }
    }
    let mut directories = Vec::new();
    for (name, is_directory) in names {
        match if is_directory {
            Err(Errno::EISDIR)
        } else {
            unlinkat(&*dir, &*name, UnlinkatFlags::NoRemoveDir)
        } {
            Err(Errno::EISDIR) => directories.push(name),
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(directories)
}

/// Moves the directory `name` from `dir` to `top`; its name there.
fn move_up(dir: &Dir, name: &CStr, top: &Dir, moved: &mut u64) -> io::Result<CString> {
    let mut made_mine = false;
    loop {
        *moved += 1;
        let up = CString::new(format!(".removed-{moved}"))?;
        match renameat(dir, name, top, &*up) {
            Ok(()) => return Ok(up),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            // Its entry `..` changes.
            Err(Errno::EACCES) if !made_mine => {
                fchmodat(dir, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
                made_mine = true;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn removes_whatever_is_there_but_what_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (top, kept) = (dir.path().join("top"), dir.path().join("kept"));
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir_all(top.join("a/.removed-1/x")).unwrap();
        fs::create_dir_all(top.join(".removed-2/y")).unwrap();
        fs::create_dir(top.join(".removed-3")).unwrap();
        fs::create_dir(&kept).unwrap();
        for file in [top.join("f"), top.join("a/b/c/f"), kept.join("f")] {
            fs::write(file, "x").unwrap();
        }
        symlink(&kept, top.join("a/link")).unwrap();
        symlink(&kept, dir.path().join("link")).unwrap();
        for (path, mode) in [("a/b", 0o500), ("a/b/c", 0), ("a", 0o500)] {
            fs::set_permissions(top.join(path), Permissions::from_mode(mode)).unwrap();
        }
        remove_from_top(&top).unwrap();
        assert!(!top.exists() && kept.join("f").exists());
        assert!(remove_from_top(&dir.path().join("link")).is_err() && kept.join("f").exists());
        assert_eq!(remove_tree(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Deeper than there may be descriptors or bytes of a path.
    #[test]
    fn removes_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        // From the deepest on, so that no path is long.
        for _ in 0..3000 {
            let above = dir.path().join("above");
            fs::create_dir(&above).unwrap();
            fs::write(above.join("file"), "x").unwrap();
            fs::rename(&top, above.join("below")).unwrap();
            fs::rename(above, &top).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }
}
