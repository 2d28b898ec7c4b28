//! A layout in a directory. Blobs are written aside and renamed; the index comes last.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use d4c_image::manifest::media;
use dimg::Digest;
use serde_json::{Value, json};

use super::{BUFFER_BYTES, Fill, REF_NAME, Sink};
use crate::beside::{is_at, parent, sweep};
use crate::failure::{Failure, Kind};
use crate::files::{Directory, OutFile};
use crate::interrupt::Pending;

/// A layout being written to.
pub(super) struct Layout {
    dir: PathBuf,
    blobs: PathBuf,
    /// What goes when it is not published: directories and blobs that were not there before.
    new: Vec<Pending>,
    index: Value,
    /// The directory, locked: who writes the same layout meanwhile waits, and then reads the index that this one wrote.
    _lock: File,
}

impl Layout {
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let mut new = Vec::new();
        let blobs = dir.join("blobs/sha256");
        let marker = dir.join("oci-layout");
        let (there, lock) = locked(dir)?;
        for name in ["oci-layout", "index.json", "blobs", "blobs/sha256"] {
            no_link(&dir.join(name))?;
        }
        // What a killed process left of it is nothing that the directory holds.
        sweep(&marker);
        let is_layout = marker.exists();
        if !is_layout {
            let mut entries = fs::read_dir(dir).map_err(Failure::io("read directory", dir))?;
            if entries.next().is_some() {
                let why = "neither an OCI layout nor an empty directory";
                return Err(Failure::new(Kind::Failed, "write layout", dir.display(), why));
            }
            // Not where another one has written to it since it was made.
            if !there {
                new.push(Pending::new(dir.to_owned()));
            }
        }
        let index_path = dir.join("index.json");
        let index = match fs::read(&index_path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .ok()
                .filter(|index: &Value| index.get("manifests").is_some_and(Value::is_array))
                .ok_or_else(|| {
                    Failure::new(Kind::Corrupt, "read index", index_path.display(), "not an OCI index")
                })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []})
            }
            Err(error) => return Err(Failure::io("read index", &index_path)(error)),
        };
        let mut this = Self { dir: dir.to_owned(), blobs, new, index, _lock: lock };
        // First of all, so that the directory is one to go on with for whoever comes after a kill.
        if !is_layout {
            this.new.push(Pending::new(marker));
            this.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        }
        for made in [dir.join("blobs"), this.blobs.clone()] {
            match fs::create_dir(&made) {
                Ok(()) => this.new.push(Pending::new(made)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::io("make directory", &made)(error)),
            }
        }
        Ok(this)
    }

    fn write(&self, name: &str, value: &Value) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let mut out = OutFile::create(&path, &self.dir)?;
        out.file().write_all(value.to_string().as_bytes()).map_err(Failure::io("write file", &path))?;
        out.finish().map(drop)
    }
}

/// Refuses what leads out of the layout: it may come from anywhere, and is written to with the rights of whoever runs this.
fn no_link(path: &Path) -> Result<(), Failure> {
    if path.is_symlink() {
        let why = "is a symbolic link, which layouts to write to do not have";
        return Err(Failure::new(Kind::Failed, "write layout", path.display(), why));
    }
    Ok(())
}

/// The directory, made when it is not there, and whether it was; locked where its file system can.
fn locked(dir: &Path) -> Result<(bool, File), Failure> {
    loop {
        let there = match fs::create_dir(dir) {
            Ok(()) => false,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => true,
            Err(error) => return Err(Failure::io("make directory", dir)(error)),
        };
        let file = File::open(dir).map_err(Failure::io("read directory", dir))?;
        // One that failed may have removed meanwhile what it had made.
        if file.lock().is_err() || is_at(&file, dir) {
            return Ok((there, file));
        }
    }
}

impl Sink for Layout {
    /// A blob that is there already is verified all the same.
    fn blob(&mut self, digest: Digest, _: u64, fill: &mut Fill<'_>) -> Result<(), Failure> {
        let path = self.blobs.join(digest.hex());
        no_link(&path)?;
        let mut out = OutFile::create(&path, &self.dir)?;
        {
            let mut buffer = BufWriter::with_capacity(BUFFER_BYTES, out.file());
            fill(&mut buffer)?;
            buffer.flush().map_err(Failure::io("write file", &path))?;
        }
        if !path.exists() {
            self.new.push(Pending::new(path));
        }
        out.finish().map(drop)
    }

    fn publish(mut self: Box<Self>, entry: Value) -> Result<(), Failure> {
        let tag = &entry["annotations"][REF_NAME];
        let same = |other: &Value| !tag.is_null() && other["annotations"][REF_NAME] == *tag;
        let manifests = self.index.get_mut("manifests").and_then(Value::as_array_mut);
        // What has a name needs no entry without one.
        let is_there = |manifests: &[Value]| {
            tag.is_null() && manifests.iter().any(|other| other["digest"] == entry["digest"])
        };
        if let Some(manifests) = manifests.filter(|manifests| !is_there(manifests)) {
            manifests.retain(|other| !same(other));
            manifests.push(entry);
        }
        let above = Directory::open(parent(&self.dir))?;
        self.write("index.json", &self.index)?;
        for pending in self.new.drain(..) {
            pending.keep(|_| Ok::<_, Failure>(()))?;
        }
        above.sync()
    }
}
