//! The contents of a layer, in its mapped tar.

use std::io;
use std::path::{Path, PathBuf};

use d4c_image::source::MappedBytes;
use d4c_image::tar::ParsedLayer;
use d4c_sys::Map;
use dimg::content::{Bytes, ContentSource};
use dimg::index::Content;

/// A layer's tar and where in it each content is.
pub(super) struct LayerContents {
    tar: Bytes,
    parsed: ParsedLayer,
    tmpdir: PathBuf,
}

impl LayerContents {
    pub(super) fn new(tar: MappedBytes, parsed: ParsedLayer, tmpdir: &Path) -> Self {
        Self { tar: Bytes::new(tar), parsed, tmpdir: tmpdir.to_owned() }
    }
}

impl ContentSource for LayerContents {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        let Some(place) = self.parsed.place(&content.digest) else { return Ok(None) };
        if place.extents.is_none() {
            let range = usize::try_from(place.offset)
                .ok()
                .and_then(|start| Some(start..start.checked_add(usize::try_from(place.content.size).ok()?)?));
            return Ok(range.and_then(|range| self.tar.slice(range)));
        }
        // A sparse file: expanded into a file of its own, where its holes cost nothing.
        let Some(bytes) = place.bytes(&self.tar) else { return Ok(None) };
        let file = tempfile::tempfile_in(&self.tmpdir)?;
        bytes.write_to(&file)?;
        Ok(Some(Bytes::new(Map::file(&file)?)))
    }
}
