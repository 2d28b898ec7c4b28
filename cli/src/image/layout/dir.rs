//! An image written as an OCI layout, its layers not compressed.
//!
//! Config and diff IDs stay as they are. So does the manifest when it already names uncompressed layers; else it is a
//! new one, for the blobs' digests are others. Blobs are written aside and renamed; the index comes last, so that a
//! layout that was there before keeps all its images and has the new one whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use d4c_image::manifest::{Document, media};
use dimg::{Digest, Hasher};
use serde_json::{Value, json};

use super::{Image, Opener};
use crate::failure::{Failure, Kind};
use crate::files::{OutFile, parent, sync_dir};
use crate::interrupt::Pending;
use crate::progress::Unit;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const BUFFER_BYTES: usize = 256 << 10;

/// Writes `image` into the layout at `dir`, made when it is not there, under `tag`; the digest of its manifest there.
///
/// # Errors
/// A layer does not have its diff ID, or a file cannot be written; what was new is removed.
pub(crate) fn write_layout(
    image: &Image,
    dir: &Path,
    tag: Option<&str>,
    opener: &Opener<'_>,
) -> Result<Digest, Failure> {
    let documents = image.documents()?;
    let mut layout = Layout::open(dir)?;
    opener.progress.stage("write layers", Unit::Layers, image.layers.len() as u64);
    for layer in &image.layers {
        layout.add_layer(image, layer)?;
        opener.progress.add(1);
    }
    layout.add(image.config_digest, &documents.config)?;
    let manifest = uncompressed_manifest(image)?;
    let digest = Digest::of(&manifest);
    layout.add(digest, &manifest)?;
    layout.publish(digest, manifest.len(), tag)?;
    Ok(digest)
}

/// The manifest to write.
fn uncompressed_manifest(image: &Image) -> Result<Vec<u8>, Failure> {
    let documents = image.documents()?;
    if let Document::Image(manifest) = Document::parse(&documents.manifest, &image.name)?
        && manifest.layers.iter().map(|layer| layer.digest).eq(image.diff_ids())
    {
        return Ok(documents.manifest.clone());
    }
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| {
            json!({"mediaType": media::OCI_LAYER, "digest": layer.diff_id.to_string(), "size": layer.tar_bytes})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {
            "mediaType": media::OCI_CONFIG,
            "digest": image.config_digest.to_string(),
            "size": documents.config.len(),
        },
        "layers": layers,
    });
    Ok(manifest.to_string().into_bytes())
}

/// A layout being written to.
struct Layout {
    dir: PathBuf,
    blobs: PathBuf,
    /// What goes when it is not published: directories and blobs that were not there before.
    new: Vec<Pending>,
    index: Value,
}

impl Layout {
    fn open(dir: &Path) -> Result<Self, Failure> {
        let mut new = Vec::new();
        let blobs = dir.join("blobs/sha256");
        let there = dir.exists();
        let is_layout = dir.join("oci-layout").exists();
        if there && !is_layout {
            let mut entries = fs::read_dir(dir).map_err(Failure::io("read directory", dir))?;
            if entries.next().is_some() {
                let why = "neither an OCI layout nor an empty directory";
                return Err(Failure::new(Kind::Failed, "write layout", dir.display(), why));
            }
        }
        if !there {
            new.push(Pending::new(dir.to_owned()));
            fs::create_dir(dir).map_err(Failure::io("make directory", dir))?;
        }
        fs::create_dir_all(&blobs).map_err(Failure::io("make directory", &blobs))?;
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
        Ok(Self { dir: dir.to_owned(), blobs, new, index })
    }

    /// Writes the tar of `layer`, verified while it is written; a blob that is there already is verified all the same.
    fn add_layer(&mut self, image: &Image, layer: &dimg::build::SideLayer) -> Result<(), Failure> {
        let path = self.blobs.join(layer.diff_id.hex());
        let mut out = OutFile::create(&path, &self.dir)?;
        let found = {
            let buffer = BufWriter::with_capacity(BUFFER_BYTES, out.file());
            let mut tee = Tee { out: buffer, hasher: Hasher::new() };
            image.write_layer(layer, &mut tee)?;
            tee.out.flush().map_err(Failure::io("write file", &path))?;
            tee.hasher.finish()
        };
        image.check_layer(layer, found)?;
        self.keep(&path, out)
    }

    fn add(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.blobs.join(digest.hex());
        let mut out = OutFile::create(&path, &self.dir)?;
        out.file().write_all(bytes).map_err(Failure::io("write file", &path))?;
        self.keep(&path, out)
    }

    fn keep(&mut self, path: &Path, out: OutFile) -> Result<(), Failure> {
        if !path.exists() {
            self.new.push(Pending::new(path.to_owned()));
        }
        out.finish().map(drop)
    }

    /// Names the image in the index.
    fn publish(mut self, digest: Digest, bytes: usize, tag: Option<&str>) -> Result<(), Failure> {
        self.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        let mut entry =
            json!({"mediaType": media::OCI_MANIFEST, "digest": digest.to_string(), "size": bytes});
        if let Some(tag) = tag {
            entry["annotations"] = json!({REF_NAME: tag});
        }
        let same = |other: &Value| match tag {
            Some(tag) => other["annotations"][REF_NAME] == *tag,
            None => other["annotations"][REF_NAME].is_null() && other["digest"] == entry["digest"],
        };
        if let Some(manifests) = self.index.get_mut("manifests").and_then(Value::as_array_mut) {
            manifests.retain(|other| !same(other));
            manifests.push(entry);
        }
        self.write("index.json", &self.index)?;
        for pending in self.new.drain(..) {
            pending.keep(|_| Ok::<_, Failure>(()))?;
        }
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(Failure::io("sync directory", &self.dir))?;
        sync_dir(parent(&self.dir))
    }

    fn write(&self, name: &str, value: &Value) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let mut out = OutFile::create(&path, &self.dir)?;
        out.file().write_all(value.to_string().as_bytes()).map_err(Failure::io("write file", &path))?;
        out.finish().map(drop)
    }
}

/// Writes and hashes.
struct Tee<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
