//! Objects as they lie in their directory, for whoever only reads them: the store itself, or another process while the store keeps them.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use dimg::content::{Bytes, ContentSource};
use dimg::index::Content;

use super::StoreError;

/// Up to so many bytes are read, which is cheaper than to map them, have the pages faulted in and the mapping taken away.
const READ_BYTES: u64 = 64 << 10;

/// A directory of objects, `ab/cdef…`.
#[derive(Debug, Clone)]
pub struct ObjectFiles(PathBuf);

impl ObjectFiles {
    /// The objects in `dir`.
    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Where the object of `content` is or would be.
    pub fn path(&self, content: &Content) -> PathBuf {
        let hex = content.digest.hex();
        let (fan, rest) = hex.split_at(2);
        self.0.join(fan).join(rest)
    }

    /// The object, open for reading; `None` when it is not there, or has a wrong size.
    ///
    /// # Errors
    /// It is there but cannot be opened.
    pub fn get(&self, content: &Content) -> Result<Option<File>, StoreError> {
        let path = self.path(content);
        let opened =
            File::open(&path).and_then(|file| Ok((file.metadata()?.len() == content.size).then_some(file)));
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map_err(|error| StoreError::io("open object", path, error)),
        }
    }
}

/// Objects were verified when they were made and are not hashed again.
impl ContentSource for ObjectFiles {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        if content.size == 0 {
            return Ok(Some(Bytes::default()));
        }
        let Some(mut file) = self.file(content)? else { return Ok(None) };
        if content.size > READ_BYTES {
            return Ok(Some(Bytes::new(d4c_sys::Map::file(&file)?)));
        }
        let mut bytes = vec![0; usize::try_from(content.size).map_err(io::Error::other)?];
        file.read_exact(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        self.get(content).map_err(|error| match error {
            StoreError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    }
}
