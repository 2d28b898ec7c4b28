//! Read-only file mappings.
//!
//! # What a mapping assumes
//! A mapping shows the file, not a copy of it. Two things are the caller's to rule out, because no code here
//! can: that another process **shortens** the file while it is mapped (touching a page past the new end kills
//! the process with `SIGBUS`), and that someone **rewrites** it in place (the bytes of the slice change
//! under the reader; a digest checked before says nothing about bytes read after). d4c maps files that it made
//! itself and has unlinked or renamed into place, and inputs that the user named and is asked to leave alone.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A file mapped read-only: its bytes as one slice.
///
/// The whole file as it was when it was mapped; an empty file gives an empty slice. The mapping outlives the
/// [`File`] and the file's name. See the module's text for what must not happen to the file meanwhile.
#[derive(Debug)]
pub struct Map {
    /// `None` for an empty file: the kernel refuses mappings of no bytes.
    inner: Option<Mmap>,
}

impl Map {
    /// Maps the whole of `file`, which must be open for reading.
    ///
    /// # Errors
    /// Those of `fstat` and `mmap`; `EOVERFLOW` for a file larger than the address space, `ENODEV` for what
    /// cannot be mapped (a pipe, a directory).
    pub fn file(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let len = usize::try_from(meta.len()).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        if len == 0 {
            return Ok(Self { inner: None });
        }
        // SAFETY: the mapping is private to this process, read-only, and owned by the returned value, which
        // hands out slices no longer than its own life. That no one shortens or rewrites the file meanwhile
        // is the documented duty of the caller; the length was taken from the same open file just above.
        let inner = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
        Ok(Self { inner: Some(inner) })
    }

    /// Opens `path` for reading and maps it.
    ///
    /// # Errors
    /// Those of `open` and of [`Map::file`].
    pub fn path(path: &Path) -> io::Result<Self> {
        Self::file(&File::open(path)?)
    }

    /// Tells the kernel that the file will be read from its beginning to its end: more read-ahead.
    ///
    /// A hint: failure is not reported.
    pub fn advise_sequential(&self) {
        self.advise(Advice::Sequential);
    }

    /// Tells the kernel that reads will come in no order: no read-ahead.
    ///
    /// A hint: failure is not reported.
    pub fn advise_random(&self) {
        self.advise(Advice::Random);
    }

    /// Lets the kernel take back the pages read so far; they are read from the file again when touched.
    ///
    /// Keeps the resident set small while a large file is walked. A hint: failure is not reported.
    pub fn dont_need(&self) {
        if let Some(map) = &self.inner {
            // SAFETY: MADV_DONTNEED loses data only where a mapping has pages of its own. This one is
            // read-only and never written, so each page comes back from the file with the same bytes.
            let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }

    fn advise(&self, advice: Advice) {
        if let Some(map) = &self.inner {
            let _ = map.advise(advice);
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.inner.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn maps_contents_and_outlives_the_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let map = Map::path(file.path()).unwrap();
        drop(file);
        map.advise_sequential();
        map.advise_random();
        map.dont_need();
        assert_eq!(&map[..], &[7; 10_000][..]);
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::tempfile().unwrap();
        let map = Map::file(&file).unwrap();
        map.advise_sequential();
        map.dont_need();
        assert!(map.is_empty());
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        assert_eq!(Map::path(Path::new("/")).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(Map::path(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn is_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Map>();
    }
}
