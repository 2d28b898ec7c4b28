//! A layout in a tar file, written from its beginning to its end: blobs, then the index that names the image. A file that was there
//! before is replaced when the new one is whole.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use d4c_image::manifest::media;
use dimg::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::{BUFFER_BYTES, Fill, Sink, write_failed};
use crate::beside::parent;
use crate::failure::{Failure, Kind};
use crate::files::OutFile;

const BLOCK: u64 = 512;

/// The file being written.
pub(super) struct Archive {
    path: PathBuf,
    out: OutFile,
    /// Blobs that are in it: images share layers with themselves.
    blobs: Vec<Digest>,
}

impl Archive {
    /// Starts the file at `path`.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let mut this =
            Self { path: path.to_owned(), out: OutFile::create(path, parent(path))?, blobs: Vec::new() };
        this.file("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        this.header("blobs/", EntryType::Directory, 0)?;
        this.header("blobs/sha256/", EntryType::Directory, 0)?;
        Ok(this)
    }

    fn header(&mut self, name: &str, kind: EntryType, bytes: u64) -> Result<(), Failure> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes);
        let named = header.set_path(name);
        header.set_cksum();
        named
            .and_then(|()| self.out.file().write_all(header.as_bytes()))
            .map_err(Failure::io("write file", &self.path))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.header(name, EntryType::Regular, bytes.len() as u64)?;
        self.out.file().write_all(bytes).map_err(Failure::io("write file", &self.path))?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, bytes: u64) -> Result<(), Failure> {
        let missing = bytes.next_multiple_of(BLOCK) - bytes;
        self.zeros(missing)
    }

    fn zeros(&mut self, count: u64) -> Result<(), Failure> {
        let mut zeros = io::Read::take(io::repeat(0), count);
        io::copy(&mut zeros, self.out.file()).map(drop).map_err(Failure::io("write file", &self.path))
    }
}

impl Sink for Archive {
    fn blob(&mut self, digest: Digest, bytes: u64, fill: &mut Fill<'_>) -> Result<(), Failure> {
        if self.blobs.contains(&digest) {
            return Ok(());
        }
        self.header(&format!("blobs/sha256/{}", digest.hex()), EntryType::Regular, bytes)?;
        let written = {
            let out = BufWriter::with_capacity(BUFFER_BYTES, self.out.file());
            let mut counted = Counted { out, bytes: 0 };
            fill(&mut counted)?;
            counted.flush().map_err(|error| write_failed(digest, &error))?;
            counted.bytes
        };
        if written != bytes {
            let why = format!("{written} bytes, expected {bytes}");
            return Err(Failure::new(Kind::Corrupt, "write blob", digest, why));
        }
        self.blobs.push(digest);
        self.pad(bytes)
    }

    fn publish(mut self: Box<Self>, entry: Value) -> Result<(), Failure> {
        let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry]});
        self.file("index.json", index.to_string().as_bytes())?;
        self.zeros(2 * BLOCK)?;
        self.out.finish().map(drop)
    }
}

/// Writes and counts.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
