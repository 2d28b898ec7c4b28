//! OCI image layouts (image specification, `image-layout.md`): a directory, or the same in a tar file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use d4c_sys::Map;

use super::archive::ArchiveFiles;
use super::blob::{Blob, MappedBytes};
use super::open::{OpenImage, read_manifest};
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::{Descriptor, Document, MAX_MANIFEST_BYTES, choose};

const WHAT: &str = "open image";
/// The tag of an entry.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name of an entry, where containerd or Docker wrote the layout.
const IMAGE_NAME: &str = "io.containerd.image.name";

pub(super) fn open_dir(
    path: &Path,
    tag: Option<&str>,
    options: &Options,
    name: String,
) -> Result<OpenImage, SourceError> {
    let meta = path.metadata().map_err(SourceError::io(WHAT, path))?;
    if !meta.is_dir() {
        let why = "is not a directory; for a tar file write oci-archive:";
        return Err(SourceError::corrupt(WHAT, path.display().to_string(), why));
    }
    open(Layout { files: DirFiles { path: path.to_owned() } }, tag, options, name)
}

pub(super) fn open_archive(
    path: &Path,
    tag: Option<&str>,
    options: &Options,
    name: String,
) -> Result<OpenImage, SourceError> {
    open(Layout { files: ArchiveFiles::open(path, options)? }, tag, options, name)
}

fn open<F: Files + 'static>(
    layout: Layout<F>,
    tag: Option<&str>,
    options: &Options,
    name: String,
) -> Result<OpenImage, SourceError> {
    let index_name = layout.files.name("index.json");
    let index = layout.files.get("index.json")?;
    let index =
        index.ok_or_else(|| SourceError::corrupt(WHAT, &*name, "not an OCI image layout: no index.json"))?;
    if index.len() as u64 > MAX_MANIFEST_BYTES {
        let limit_bytes = MAX_MANIFEST_BYTES;
        return Err(SourceError::Limit { what: "read index", on: index_name, limit_bytes });
    }
    let Document::Index(entries) = Document::parse(&index, &index_name)? else {
        return Err(SourceError::corrupt("read index", index_name, "is a manifest, not an index"));
    };
    let root = choose_entry(&entries, tag, options, &name)?;
    let bytes = read_manifest(&layout, root)?;
    OpenImage::new(Box::new(layout), bytes, options, name)
}

/// The entry that `tag` names, or the only image there is; of one image for several platforms the fitting one.
fn choose_entry<'a>(
    entries: &'a [Descriptor],
    tag: Option<&str>,
    options: &Options,
    on: &str,
) -> Result<&'a Descriptor, SourceError> {
    let names = |entry: &'a Descriptor| {
        [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| entry.annotations.get(key).map(String::as_str))
    };
    let present = || {
        let tags: BTreeSet<_> = entries.iter().filter_map(|entry| names(entry).next()).collect();
        if tags.is_empty() { "none".to_owned() } else { tags.into_iter().collect::<Vec<_>>().join(", ") }
    };
    let candidates: Vec<_> = match tag {
        Some(tag) => entries.iter().filter(|entry| names(entry).any(|name| name == tag)).collect(),
        None => entries.iter().collect(),
    };
    match (candidates[..].split_first(), tag) {
        (None, Some(tag)) => {
            let why = format!("no image tagged {tag:?}; tags present: {}", present());
            Err(SourceError::NotFound { what: WHAT, on: on.to_owned(), why })
        }
        (None, None) => {
            let why = "the layout has no image".to_owned();
            Err(SourceError::NotFound { what: WHAT, on: on.to_owned(), why })
        }
        (Some((only, [])), _) => Ok(only),
        (Some((first, rest)), _) => {
            let one_image = rest.iter().all(|entry| names(entry).eq(names(first)))
                && candidates.iter().all(|entry| entry.platform.is_some());
            if one_image {
                let candidates: Vec<_> = candidates.into_iter().cloned().collect();
                let chosen = choose(&candidates, &options.platform(), on)?.digest;
                entries
                    .iter()
                    .find(|entry| entry.digest == chosen)
                    .ok_or_else(|| SourceError::corrupt(WHAT, on, "the chosen entry is not in the index"))
            } else {
                let why = format!("the layout has several images; add :TAG; tags present: {}", present());
                Err(SourceError::usage(on, why))
            }
        }
    }
}

/// Files of a layout by their path in it.
trait Files: Send + Sync {
    /// The bytes of the file; `None` where there is none.
    fn get(&self, path: &str) -> Result<Option<MappedBytes>, SourceError>;

    /// Its name in errors.
    fn name(&self, path: &str) -> String;
}

impl Files for ArchiveFiles {
    fn get(&self, path: &str) -> Result<Option<MappedBytes>, SourceError> {
        ArchiveFiles::get(self, path)
    }

    fn name(&self, path: &str) -> String {
        ArchiveFiles::name(self, path)
    }
}

struct DirFiles {
    path: PathBuf,
}

impl Files for DirFiles {
    fn get(&self, path: &str) -> Result<Option<MappedBytes>, SourceError> {
        let path = self.path.join(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SourceError::io("open blob", &path)(error)),
        };
        let meta = file.metadata().map_err(SourceError::io("open blob", &path))?;
        if !meta.is_file() {
            return Err(SourceError::corrupt("open blob", path.display().to_string(), "is not a file"));
        }
        let map = Map::file(&file).map_err(SourceError::io("map blob", &path))?;
        Ok(Some(MappedBytes::whole(map)))
    }

    fn name(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }
}

struct Layout<F> {
    files: F,
}

fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

impl<F: Files> Backend for Layout<F> {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let path = blob_path(descriptor);
        self.files.get(&path)?.map(Blob::Mapped).ok_or_else(|| {
            SourceError::corrupt("open blob", self.files.name(&path), "missing from the layout")
        })
    }

    fn blob_name(&self, descriptor: &Descriptor) -> String {
        self.files.name(&blob_path(descriptor))
    }
}
