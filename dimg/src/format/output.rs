//! Files that appear whole or not at all.

use super::DimgError;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file written aside, in the folder of its name. It gets its name when it is committed; dropped before, it goes.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    dir: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl OutputFile {
    /// Starts the file that will be `path`.
    ///
    /// # Errors
    /// Its folder does not take a file.
    pub fn create(path: &Path) -> Result<Self, DimgError> {
        let name = path.file_name().ok_or_else(|| {
            DimgError::io("create file", path)(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"))
        })?;
        if path.is_dir() {
            return Err(DimgError::io("create file", path)(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        // As for any new file, the umask takes from these.
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(DimgError::io("create file", path))?;
        let file = BufWriter::with_capacity(256 << 10, file);
        Ok(Self { path: path.to_path_buf(), dir: dir.to_path_buf(), file })
    }

    /// Makes the bytes durable and gives the file its name, in place of what had it.
    ///
    /// # Errors
    /// Not all could be written; nothing is left behind.
    pub fn commit(self) -> Result<(), DimgError> {
        let io = |error| DimgError::io("write file", &self.path)(error);
        let file = self.file.into_inner().map_err(|error| io(error.into_error()))?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&self.path).map_err(|error| io(error.error))?;
        // The name is durable when the folder is.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
