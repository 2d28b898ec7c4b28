//! Copying a whole file by the cheapest way its file system has.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::Sparse;

/// The way by which [`clone_file`] made its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// Blocks are shared (`FICLONE`): no data was moved.
    Reflink,
    /// The kernel copied the data (`copy_file_range`).
    Range,
    /// The data went through this process.
    Bytes,
}

/// Makes `dst`, an empty file open for writing, share the blocks of `src` (`FICLONE`).
///
/// # Errors
/// Those of the call; `EOPNOTSUPP`, `EXDEV` or `EINVAL` where these two files cannot share blocks.
pub fn reflink(src: &File, dst: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes an open file descriptor as its argument and touches no memory of ours; both
    // descriptors are borrowed from open files for the length of the call.
    match unsafe { libc::ioctl(dst.as_raw_fd(), libc::FICLONE, src.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `dst` hold exactly the bytes of `src`: a reflink where the file system has them, else the kernel's
/// own copy, else reads and writes.
///
/// The whole of `src` is copied whatever its offset; `dst` must be open for writing, and is cut or
/// grown to the length of `src`. Large holes are kept. Offsets of both files are undefined afterwards.
///
/// # Errors
/// Those of the calls made; `dst` may then hold a part of the copy.
pub fn clone_file(src: &File, dst: &File) -> io::Result<Copied> {
    if reflink(src, dst).is_ok() {
        let bytes = src.metadata()?.len();
        if dst.metadata()?.len() != bytes {
            dst.set_len(bytes)?;
        }
        return Ok(Copied::Reflink);
    }
    let (mut src, mut dst) = (src, dst);
    dst.set_len(0)?;
    let meta = src.metadata()?;
    if meta.blocks().saturating_mul(512) < meta.len() {
        // Some of it takes no space: holes, or a file system that compresses.
        dst.seek(SeekFrom::Start(0))?;
        src.seek(SeekFrom::Start(0))?;
        let mut holes = Sparse::new(dst);
        copy_bytes(&mut src, &mut holes)?;
        holes.finish()?;
        return Ok(Copied::Bytes);
    }
    let copied = match copy_range(src, dst)? {
        true => Copied::Range,
        false => {
            src.seek(SeekFrom::Start(0))?;
            dst.seek(SeekFrom::Start(0))?;
            copy_bytes(&mut src, &mut dst)?;
            Copied::Bytes
        }
    };
    Ok(copied)
}

/// Copies by `copy_file_range`; false when the kernel will not do it for this pair of files.
fn copy_range(src: &File, dst: &File) -> io::Result<bool> {
    /// One call moves at most this much; the kernel caps it to 2 GiB anyway.
    const STEP_BYTES: usize = 1 << 30;
    let total = src.metadata()?.len();
    let (mut from, mut to): (libc::off64_t, libc::off64_t) = (0, 0);
    loop {
        // SAFETY: both offsets are live locals that the kernel reads and advances, both descriptors are
        // borrowed from open files, and no buffer of ours is passed.
        let moved = unsafe {
            libc::copy_file_range(src.as_raw_fd(), &mut from, dst.as_raw_fd(), &mut to, STEP_BYTES, 0)
        };
        match moved {
            // Some special file systems give 0 at once for files that have bytes: read those instead.
            0 => return Ok(total == 0 || to > 0),
            1.. => {}
            _ => {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EBADF)
                        if to == 0 =>
                    {
                        Ok(false)
                    }
                    _ => Err(error),
                };
            }
        }
    }
}

fn copy_bytes(src: &mut impl Read, dst: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match src.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => dst.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn contents(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn replaces_longer_and_shorter_targets() {
        for source in [&b""[..], &[1; 5], &[2; 300_000]] {
            for target in [&b""[..], &[3; 100], &[4; 400_000]] {
                let (src, dst) = (filled(source), filled(target));
                clone_file(&src, &dst).unwrap();
                assert_eq!(contents(&dst), source);
            }
        }
    }

    #[test]
    fn reads_files_whose_length_is_not_known() {
        let src = File::open("/proc/self/status").unwrap();
        let dst = filled(b"");
        clone_file(&src, &dst).unwrap();
        assert!(contents(&dst).starts_with(b"Name:"));
    }

    #[test]
    fn a_target_that_is_not_writable_is_an_error() {
        let dst = File::open("/proc/self/exe").unwrap();
        clone_file(&filled(b"x"), &dst).unwrap_err();
    }
}
