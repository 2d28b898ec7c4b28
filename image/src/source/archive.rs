//! A tar file as a table of named byte ranges; the container of `oci-archive:` and `docker-archive:`.
//!
//! The tar stays mapped and nothing of it is unpacked. Links are followed inside the table only, so that no name
//! in an archive reaches the file system. Of several members by one name the last counts, as in tar itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use ::tar::{Archive, EntryType};
use d4c_sys::Map;

use super::Options;
use super::blob::{Blob, MappedBytes};
use super::spool::{Compression, Expect, Spool};
use crate::error::SourceError;
use crate::tar::block::{BLOCK, Fields};

const WHAT: &str = "read archive";
/// Links that one name may lead through.
const MAX_LINKS: usize = 16;

/// The files of an archive.
pub(super) struct ArchiveFiles {
    path: PathBuf,
    bytes: MappedBytes,
    members: HashMap<Vec<u8>, Member>,
}

enum Member {
    File { start: u64, length: u64 },
    Link(Vec<u8>),
}

impl ArchiveFiles {
    /// Reads the table of the archive at `path`, decompressing it into a temporary file first where it is
    /// compressed or cannot be mapped (a pipe).
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let io = |what| SourceError::io(what, path);
        let file = File::open(path).map_err(io("open archive"))?;
        let kind = file.metadata().map_err(io("open archive"))?.file_type();
        if kind.is_dir() {
            return Err(SourceError::corrupt(WHAT, name, "is a directory, not an archive"));
        }
        let blob = if kind.is_file() {
            Blob::Mapped(MappedBytes::whole(Map::file(&file).map_err(io("map archive"))?))
        } else {
            Blob::Stream(Box::new(begins_as_archive(file, path)?))
        };
        // The limit is one of layers, and an archive has many.
        let spool = Spool { limit_bytes: None, ..options.spool() };
        let bytes = spool.unpack(blob, Expect::default(), &name)?;
        let members = members(&bytes, &name)?;
        Ok(Self { path: path.to_owned(), bytes, members })
    }

    /// The name of a member in errors.
    pub(super) fn name(&self, member: &str) -> String {
        format!("{}({member})", self.path.display())
    }

    /// The bytes of a member; `None` where there is no such file.
    pub(super) fn get(&self, member: &str) -> Result<Option<MappedBytes>, SourceError> {
        let bad = |why: String| SourceError::corrupt(WHAT, self.name(member), why);
        let leaves =
            |name: &[u8]| bad(format!("path {:?} leaves the archive", String::from_utf8_lossy(name)));
        let mut name = clean(member.as_bytes()).ok_or_else(|| leaves(member.as_bytes()))?;
        for _ in 0..=MAX_LINKS {
            match self.members.get(&name) {
                None => return Ok(None),
                Some(&Member::File { start, length }) => {
                    let bytes = self.bytes.part(start, length);
                    return bytes.map(Some).ok_or_else(|| SourceError::Corrupt {
                        what: WHAT,
                        on: self.name(member),
                        offset: Some(start),
                        why: format!("{length} bytes, but the archive ends at {}", self.bytes.len()),
                    });
                }
                Some(Member::Link(target)) => name = clean(target).ok_or_else(|| leaves(target))?,
            }
        }
        Err(bad(format!("more than {MAX_LINKS} links in a row")))
    }
}

/// What reads all of `file`, a pipe or a device, if it begins like a tar or compressed: what is neither might have no end.
fn begins_as_archive(mut file: File, path: &Path) -> Result<impl Read + use<>, SourceError> {
    let mut head = Vec::new();
    file.by_ref().take(BLOCK as u64).read_to_end(&mut head).map_err(SourceError::io(WHAT, path))?;
    let is_header = <[u8; BLOCK]>::try_from(&head[..]).is_ok_and(|block| Fields::read(&block).is_ok());
    if !head.is_empty() && Compression::detect(&head) == Compression::None && !is_header {
        let (on, why) = (path.display().to_string(), "not a tar header".to_owned());
        return Err(SourceError::Corrupt { what: WHAT, on, offset: Some(0), why });
    }
    Ok(Cursor::new(head).chain(file))
}

fn members(bytes: &MappedBytes, on: &str) -> Result<HashMap<Vec<u8>, Member>, SourceError> {
    let mut members = HashMap::new();
    let mut offset = 0;
    let bad = |offset: u64, why: String| SourceError::Corrupt {
        what: WHAT,
        on: on.to_owned(),
        offset: Some(offset),
        why,
    };
    let mut archive = Archive::new(Cursor::new(bytes.clone()));
    let entries = archive.entries_with_seek().map_err(|_| bad(0, "cannot be read as a tar".into()))?;
    for entry in entries {
        let entry = entry.map_err(|_| bad(offset, "not a tar header".into()))?;
        let header = entry.header();
        offset = entry.raw_file_position();
        let Some(name) = clean(&entry.path_bytes()) else { continue };
        let link = || entry.link_name_bytes().unwrap_or_default();
        let member = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                Member::File { start: entry.raw_file_position(), length: entry.size() }
            }
            EntryType::Symlink => {
                // A relative target starts where the link lies.
                let dir = &name[..name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)];
                let absolute = link().starts_with(b"/");
                Member::Link(if absolute { link().into_owned() } else { [dir, &link()].concat() })
            }
            EntryType::Link => Member::Link(link().into_owned()),
            EntryType::GNUSparse => return Err(bad(offset, "sparse members are not handled".into())),
            _ => continue,
        };
        offset = offset.saturating_add(entry.size());
        members.insert(name, member);
    }
    Ok(members)
}

/// The components of a relative path joined by single slashes; `None` for an absolute path and for
/// one that leaves where it starts.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    if path.starts_with(b"/") {
        return None;
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_by_its_start() {
        let error = ArchiveFiles::open(Path::new("/dev/zero"), &Options::default()).err().unwrap();
        assert_eq!(error.to_string(), "read archive: /dev/zero at offset 0: not a tar header");
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        for (path, cleaned) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("a/../b", "b"), ("x/./y", "x/y")] {
            assert_eq!(clean(path.as_bytes()).unwrap(), cleaned.as_bytes());
        }
        for path in ["", ".", "..", "a/../..", "../a", "/a", "a/../../a"] {
            assert_eq!(clean(path.as_bytes()), None, "{path}");
        }
    }
}
