//! Files that commands read and write.
//!
//! An output file appears whole or not at all: it is written under another name in the same directory, made durable,
//! and renamed. What is not a regular file (`-`, a pipe, a device) is written from an unnamed temporary file, at
//! once and after everything else has succeeded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use d4c_sys::Map;
use dimg::format::MAX_HEADER_BYTES;

use crate::beside::{new_file, parent};
use crate::failure::{Failure, Kind};
use crate::interrupt::Pending;
use crate::output::not_written;

/// The name that stands for standard input or output.
pub(crate) const STANDARD: &str = "-";

/// What images begin with, as sources: hardly the name of a file to be made.
const SOURCES: [&[u8]; 6] =
    [b"oci:", b"oci-archive:", b"docker-archive:", b"docker:", b"containerd:", b"dir:"];

/// What to call the file at `path`.
pub(crate) fn shown(path: &Path) -> &Path {
    if path == Path::new(STANDARD) { Path::new("standard input") } else { path }
}

/// A directory in which something is about to get a name: opened before, so that a command that fails for want of a descriptor leaves no name.
#[derive(Debug)]
pub(crate) struct Directory<'a>(File, &'a Path);

impl<'a> Directory<'a> {
    /// Opens it.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) fn open(path: &'a Path) -> Result<Self, Failure> {
        Ok(Self(File::open(path).map_err(Failure::io("open directory", path))?, path))
    }

    /// Makes new names in it durable.
    ///
    /// # Errors
    /// Those of `fsync`.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        self.0.sync_all().map_err(Failure::io("sync directory", self.1))
    }
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct OutFile {
    file: File,
    shown: PathBuf,
    to: To,
}

#[derive(Debug)]
enum To {
    /// The file's name for now, and the one it gets.
    Rename(Pending, PathBuf),
    /// Copied there.
    Copy(Box<File>),
    Stdout,
}

impl OutFile {
    /// Starts to write `path`. An existing regular file stays until [`OutFile::finish`] replaces it; a symbolic
    /// link stays, and what it points at is replaced.
    ///
    /// # Errors
    /// The directory is not there or not writable; `path` is a directory.
    pub(crate) fn create(path: &Path, tmpdir: &Path) -> Result<Self, Failure> {
        const WHAT: &str = "create file";
        let shown = path.to_owned();
        if path == Path::new(STANDARD) {
            return Ok(Self { file: spool(tmpdir)?, shown, to: To::Stdout });
        }
        let target = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Failure::new(Kind::Failed, WHAT, path.display(), "is a directory"));
            }
            Ok(meta) if !meta.is_file() && is_stdout(&meta) => {
                return Ok(Self { file: spool(tmpdir)?, shown, to: To::Stdout });
            }
            Ok(meta) if !meta.is_file() => {
                let device =
                    OpenOptions::new().write(true).open(path).map_err(Failure::io("open file", path))?;
                return Ok(Self { file: spool(tmpdir)?, shown, to: To::Copy(Box::new(device)) });
            }
            Ok(_) => fs::canonicalize(path).map_err(Failure::io(WHAT, path))?,
            Err(_) if path.file_name().is_none() => {
                return Err(Failure::usage(path.display(), "names no file"));
            }
            Err(_)
                if SOURCES.iter().any(|prefix| path.as_os_str().as_encoded_bytes().starts_with(prefix)) =>
            {
                let why = "a file is written here, not an image; with ./ in front it gets this name";
                return Err(Failure::usage(path.display(), why));
            }
            Err(_) => pointed_at(path),
        };
        let (pending, file) = new_file(&target, 0o666).map_err(Failure::io(WHAT, path))?;
        Ok(Self { file, shown, to: To::Rename(pending, target) })
    }

    /// Whether a regular file of its own is written, not a pipe or a device.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.to, To::Rename(..))
    }

    /// Whether standard output gets the bytes, by whatever name, so that nothing else may be written there.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.to, To::Stdout)
    }

    /// The open file, empty at first: readable, writable, seekable.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name, or sends it where it goes; returns its size in bytes.
    ///
    /// # Errors
    /// Those of the system calls; nothing is left then, and what was there before still is.
    pub(crate) fn finish(mut self) -> Result<u64, Failure> {
        const WHAT: &str = "write file";
        let shown = &self.shown;
        let bytes = self.file.seek(SeekFrom::End(0)).map_err(Failure::io(WHAT, shown))?;
        match self.to {
            To::Rename(pending, target) => {
                self.file.sync_all().map_err(Failure::io(WHAT, shown))?;
                let directory = Directory::open(parent(&target))?;
                pending.keep(|from| fs::rename(from, &target)).map_err(Failure::io(WHAT, shown))?;
                directory.sync()?;
            }
            To::Copy(mut device) => {
                self.file.rewind().map_err(Failure::io(WHAT, shown))?;
                io::copy(&mut self.file, &mut device).map_err(Failure::io(WHAT, shown))?;
            }
            To::Stdout => {
                self.file.rewind().map_err(Failure::io(WHAT, shown))?;
                let mut stdout = io::stdout().lock();
                io::copy(&mut self.file, &mut stdout)
                    .and_then(|_| stdout.flush())
                    .map_err(not_written(Kind::Cut))?;
            }
        }
        Ok(bytes)
    }
}

/// Where a file that is not there would be made: at the end of symbolic links, if `path` is one.
fn pointed_at(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = parent(&path).join(to);
    }
    path
}

/// Whether standard output is the file with this metadata.
fn is_stdout(meta: &fs::Metadata) -> bool {
    fs::metadata("/proc/self/fd/1")
        .is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (meta.dev(), meta.ino()))
}

/// A file to read, mapped.
#[derive(Debug)]
pub(crate) struct InFile {
    pub(crate) map: Map,
}

impl InFile {
    /// Maps the file at `path`; what is no regular file (`-`, a pipe) is read to its end first, if `expected` does not refuse its first bytes:
    /// as many as it says, and one more, so that it is seen that there are more.
    ///
    /// # Errors
    /// It is not there or cannot be read; it is longer than what is free in `tmpdir`; those of `expected`.
    pub(crate) fn open(path: &Path, tmpdir: &Path, expected: &Expected) -> Result<Self, Failure> {
        const WHAT: &str = "read file";
        let file = if path == Path::new(STANDARD) {
            drain(&mut io::stdin().lock(), shown(path), tmpdir, expected)?
        } else {
            let mut file = File::open(path).map_err(Failure::io(WHAT, path))?;
            let meta = file.metadata().map_err(Failure::io(WHAT, path))?;
            if meta.is_dir() {
                return Err(Failure::new(Kind::Failed, WHAT, path.display(), "is a directory"));
            }
            if meta.is_file() { file } else { drain(&mut file, path, tmpdir, expected)? }
        };
        let map = Map::file(&file).map_err(Failure::io(WHAT, path))?;
        Ok(Self { map })
    }
}

/// Says of the first [`MAX_HEADER_BYTES`] of a file how many bytes it has at most.
pub(crate) type Expected<'a> = dyn Fn(&[u8]) -> Result<u64, Failure> + 'a;

/// An unnamed file with all that `from` gives.
fn drain(from: &mut impl Read, shown: &Path, tmpdir: &Path, expected: &Expected) -> Result<File, Failure> {
    const WHAT: &str = "read file";
    let mut head = Vec::new();
    from.take(MAX_HEADER_BYTES as u64).read_to_end(&mut head).map_err(Failure::io(WHAT, shown))?;
    let bytes = expected(&head)?;
    if let Ok(stat) = d4c_sys::statvfs(tmpdir) {
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if bytes > free {
            let why = format!("it has {bytes} bytes, and {} has room for {free}", tmpdir.display());
            return Err(Failure::new(Kind::NoSpace, WHAT, shown.display(), why));
        }
    }
    let mut file = spool(tmpdir)?;
    let rest = bytes.saturating_add(1).saturating_sub(head.len() as u64);
    io::copy(&mut head.chain(from.take(rest)), &mut file).map_err(Failure::io(WHAT, shown))?;
    Ok(file)
}

/// A file that never had a name.
fn spool(tmpdir: &Path) -> Result<File, Failure> {
    tempfile::tempfile_in(tmpdir).map_err(Failure::io("make temporary file", tmpdir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::beside::MAX_NAME_BYTES;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut out = OutFile::create(&path, dir.path()).unwrap();
        out.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(out);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["out".into()], b"old".into()));
        let mut out = OutFile::create(&path, dir.path()).unwrap();
        out.file().write_all(b"newer").unwrap();
        assert_eq!(out.finish().unwrap(), 5);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["out".into()], b"newer".into()));
    }

    #[test]
    fn a_name_may_be_as_long_as_names_get() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(MAX_NAME_BYTES));
        let mut out = OutFile::create(&path, dir.path()).unwrap();
        out.file().write_all(b"new").unwrap();
        out.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn links_and_devices_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        symlink("out", &link).unwrap();
        let mut out = OutFile::create(&link, dir.path()).unwrap();
        out.file().write_all(b"new").unwrap();
        out.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::remove_file(&path).unwrap();
        let mut out = OutFile::create(&link, dir.path()).unwrap();
        out.file().write_all(b"newer").unwrap();
        out.finish().unwrap();
        assert!(link.is_symlink(), "one to what is not there yet stays, too");
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        let mut out = OutFile::create(Path::new("/dev/null"), dir.path()).unwrap();
        out.file().write_all(b"new").unwrap();
        out.finish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_or_read_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/out");
        assert_eq!(OutFile::create(&missing, dir.path()).unwrap_err().kind, Kind::NotFound);
        assert_eq!(OutFile::create(dir.path(), dir.path()).unwrap_err().kind, Kind::Failed);
        assert_eq!(OutFile::create(Path::new("oci:out"), dir.path()).unwrap_err().kind, Kind::Usage);
        let open = |path: &Path| InFile::open(path, dir.path(), &|_| Ok(100));
        assert_eq!(open(&missing).unwrap_err().kind, Kind::NotFound);
        assert_eq!(open(dir.path()).unwrap_err().kind, Kind::Failed);
        assert!(open(Path::new("/dev/null")).unwrap().map.is_empty());
        assert_eq!(open(Path::new("/dev/zero")).unwrap().map.len(), 101, "one more than there should be");
        let endless = |bytes| InFile::open(Path::new("/dev/zero"), dir.path(), &|_| Ok(bytes));
        assert_eq!(endless(u64::MAX).unwrap_err().kind, Kind::NoSpace);
    }
}
