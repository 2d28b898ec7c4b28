//! The image of metadata as a file that may be kept for the next mount of the same tree.
//!
//! ```text
//! the image         whole blocks, all that the kernel looks at
//! "d4cerofs"        8 bytes
//! version           u32, of what is written for a tree: erofs::VERSION
//! bytes of the name u32
//! bytes of the image u64
//! name              what the tree is known by
//! xxh3-64           u64, of all before it
//! ```
//!
//! Numbers are little-endian. Written aside and renamed, not flushed: a file is taken only when all of that is as it should be, so what a
//! crash left half written, what was damaged since, and what another version wrote is written anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use d4c_sys::Map;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::MountError;
use crate::erofs;
use crate::table::Table;

const MAGIC: &[u8; 8] = b"d4cerofs";
const CHECK_BYTES: usize = 8;

/// Hashes what it writes.
struct Hashing<W> {
    out: W,
    hash: Xxh3Default,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What follows an image of so many bytes, but for the check.
fn trailer(name: &str, image_bytes: u64) -> Vec<u8> {
    let name_bytes = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut trailer = MAGIC.to_vec();
    trailer.extend(erofs::VERSION.to_le_bytes());
    trailer.extend(name_bytes.to_le_bytes());
    trailer.extend(image_bytes.to_le_bytes());
    trailer.extend(name.as_bytes());
    trailer
}

/// Writes the image of metadata of `table`, known by `name`, beside `path`, then gives it its name.
pub(super) fn write(table: &Table, name: &str, path: &Path) -> Result<(), MountError> {
    let aside = path.with_extension("part");
    let write = || -> Result<(), erofs::ErofsError> {
        let hash = Xxh3Default::new();
        let mut out = Hashing { out: io::BufWriter::with_capacity(1 << 18, File::create(&aside)?), hash };
        let bytes = erofs::write(table, &mut out)?;
        out.write_all(&trailer(name, bytes))?;
        let check = out.hash.digest();
        out.write_all(&check.to_le_bytes())?;
        out.flush()?;
        Ok(fs::rename(&aside, path)?)
    };
    write().map_err(|error| {
        drop(fs::remove_file(&aside));
        error.into()
    })
}

/// Whether [`write`] of this version wrote all of `path` for `name`.
pub(super) fn is_whole(name: &str, path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let file = File::open(path)?;
        let tail = (trailer(name, 0).len() + CHECK_BYTES) as u64;
        let Some(image_bytes) = file.metadata()?.len().checked_sub(tail).filter(|bytes| *bytes > 0) else {
            return Ok(false);
        };
        let map = Map::file(&file)?;
        let (all, check) = map.split_at(map.len() - CHECK_BYTES);
        Ok(all.ends_with(&trailer(name, image_bytes)) && check == xxh3_64(all).to_le_bytes())
    };
    match read() {
        Ok(whole) => {
            if !whole {
                tracing::info!(path = %path.display(), "image of metadata is another one or damaged: written anew");
            }
            whole
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "image of metadata not read: written anew");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Members, Memory};
    use crate::tree::Tree;

    #[test]
    fn only_what_was_written_whole_for_the_name_is_taken() {
        let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::default());
        let members = Members::default().file("a", &memory, "text").dir("b").symlink("c", "a");
        let table = Table::new(Arc::new(Tree::merge(&[members.index()]).unwrap()));
        let path = dir.path().join("metadata.erofs");
        assert!(!is_whole("one", &path));
        write(&table, "one", &path).unwrap();
        assert!(is_whole("one", &path));
        assert!(!is_whole("two", &path) && !is_whole("ones", &path) && !is_whole("", &path));
        let good = fs::read(&path).unwrap();
        // Any byte, any length, and what another version wrote.
        for at in (0..good.len()).step_by(97).chain(good.len() - 48..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(!is_whole("one", &path), "byte {at}");
        }
        for bytes in [0, 1, 40, 4096, good.len() - 8, good.len() - 1] {
            fs::write(&path, &good[..bytes]).unwrap();
            assert!(!is_whole("one", &path), "{bytes} bytes");
        }
        fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(!is_whole("one", &path));
        let mut other = good.clone();
        let version = good.len() - CHECK_BYTES - "one".len() - 16;
        other[version] += 1;
        let end = other.len() - CHECK_BYTES;
        let check = xxh3_64(&other[..end]).to_le_bytes();
        other[end..].copy_from_slice(&check);
        fs::write(&path, &other).unwrap();
        assert!(!is_whole("one", &path));
        fs::write(&path, &good).unwrap();
        assert!(is_whole("one", &path));
    }
}
