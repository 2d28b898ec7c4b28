//! What the plugin keeps of an imported image: its documents and the indexes of its layers, whole.
//!
//! `<root>/images/<hex of the manifest digest>/{manifest,config,layers}`: written aside, flushed, renamed. A record needs no
//! other: the image that a delta was made from may go. `used` in it marks that containerd has had the image.
//!
//! A pending image (`lazy`) has `delta` as well, the file that it came from, and `parent`, the indexes of its parent's
//! layers unless it has none; it is complete when `delta` is gone. That may have become `kept`, which is small beside what it makes: with
//! its first name back the image is pending again. `rejected` says why nothing new is served from it. `opened`
//! has the digests of contents in the order in which containers first opened them, 32 bytes each, and `carried` what was so for the parent. They
//! are hints: they are not flushed, and wrong or missing they change only what is made first.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d4c_image::manifest::{Config, Document, Manifest};
use dimg::Digest;
use dimg::index::{LayerIndex, decode_layers, encode_layers};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::error::{Error, Result};

/// An imported image.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// The config, byte for byte.
    pub config: Vec<u8>,
}

impl ImageRecord {
    /// The parsed manifest.
    ///
    /// # Errors
    /// It is none of an image.
    pub fn parsed(&self) -> Result<Manifest> {
        let on = format!("manifest {}", self.digest);
        match Document::parse(&self.manifest, &on) {
            Ok(Document::Image(manifest)) => Ok(*manifest),
            Ok(Document::Index(_)) => Err(Error::Corrupt { what: format!("{on}: it is an index") }),
            Err(error) => Err(Error::Corrupt { what: error.to_string() }),
        }
    }

    /// Diff IDs of the layers, the lowest first.
    ///
    /// # Errors
    /// The config is none of an image.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        let config = Config::parse(&self.config, &format!("config of {}", self.digest));
        Ok(config.map_err(|error| Error::Corrupt { what: error.to_string() })?.diff_ids)
    }
}

/// The chain IDs of these layers (OCI image specification, `config.md`, "Layer ChainID").
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// An order in which contents were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By containers of the image itself.
    Opened,
    /// By those of its parent.
    Carried,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Carried => "carried",
        }
    }
}

/// Marks that containerd has had an image.
const USED: &str = "used";

/// A file that makes an image, which is moved, and the layers of the image's parent.
type PendingFiles<'a> = (&'a Path, Option<&'a [Arc<LayerIndex>]>);

/// The records of one root directory.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    /// Opens `dir`, made when missing, and removes what an earlier process left half written.
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(Error::io("make directory", &dir))?;
        let records = Self { dir };
        remove_half_written(&records.dir)?;
        for digest in records.list()? {
            remove_half_written(&records.path(digest))?;
        }
        Ok(records)
    }

    fn names(&self) -> Result<Vec<String>> {
        names(&self.dir)
    }

    /// The digests of all images, in a fixed order.
    pub(super) fn list(&self) -> Result<Vec<Digest>> {
        let mut digests: Vec<Digest> =
            self.names()?.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Whether there is a record of it, whatever is in it.
    pub(super) fn is_known(&self, digest: Digest) -> bool {
        self.path(digest).exists()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The image, if it was imported.
    pub(super) fn get(&self, digest: Digest) -> Result<Option<ImageRecord>> {
        let path = self.path(digest);
        let manifest = match fs::read(path.join("manifest")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io("read manifest", &path))?,
        };
        let config = fs::read(path.join("config")).map_err(Error::io("read config", &path))?;
        Ok(Some(ImageRecord { digest, manifest, config }))
    }

    /// The file with the indexes of its layers.
    pub(super) fn layers_path(&self, digest: Digest) -> PathBuf {
        self.path(digest).join("layers")
    }

    /// The indexes of its layers.
    pub(super) fn layers(&self, digest: Digest) -> Result<Vec<Arc<LayerIndex>>> {
        let path = self.layers_path(digest);
        let bytes = fs::read(&path).map_err(Error::io("read layers", &path))?;
        decode_layers(&bytes).map_err(|error| Error::Corrupt { what: format!("{}: {error}", path.display()) })
    }

    /// Keeps an image, durably; a pending one with `delta`, a file that is moved, and the layers of its parent.
    pub(super) fn put(
        &self,
        image: &ImageRecord,
        layers: &[Arc<LayerIndex>],
        pending: Option<PendingFiles<'_>>,
    ) -> Result<()> {
        self.write(image, layers, pending, |aside, target| fs::rename(aside, target))
    }

    /// Keeps a pending image anew, by another file, in one step. What was noted of its use stays, why it was rejected does not.
    pub(super) fn replace(
        &self,
        image: &ImageRecord,
        layers: &[Arc<LayerIndex>],
        pending: PendingFiles<'_>,
    ) -> Result<()> {
        self.write(image, layers, Some(pending), |aside, target| {
            for name in [USED, Order::Opened.name(), Order::Carried.name()] {
                absent(fs::copy(target.join(name), aside.join(name)).map(drop))?;
            }
            renameat2(AT_FDCWD, aside, AT_FDCWD, target, RenameFlags::RENAME_EXCHANGE)?;
            // What stays of it goes at the next start.
            drop(fs::remove_dir_all(aside));
            Ok(())
        })
    }

    /// Writes an image aside, which `settle` moves to its place.
    fn write(
        &self,
        image: &ImageRecord,
        layers: &[Arc<LayerIndex>],
        pending: Option<PendingFiles<'_>>,
        settle: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let encode = |layers: &[Arc<LayerIndex>]| {
            encode_layers(layers).map_err(|error| Error::Corrupt {
                what: format!("write layers of {}: {error}", image.digest),
            })
        };
        let index = encode(layers)?;
        let parent = pending.and_then(|(_, parent)| parent).map(encode).transpose()?;
        let aside = self.dir.join(format!(".{}", image.digest.hex()));
        let target = self.path(image.digest);
        let write = || -> io::Result<()> {
            // Of an image that was half removed.
            absent(fs::remove_dir_all(&aside))?;
            fs::create_dir(&aside)?;
            let files = [("layers", &index), ("config", &image.config), ("manifest", &image.manifest)];
            for (name, bytes) in files.into_iter().chain(parent.as_ref().map(|parent| ("parent", parent))) {
                let mut file = File::create_new(aside.join(name))?;
                file.write_all(bytes)?;
                file.sync_all()?;
            }
            if let Some((delta, _)) = pending {
                File::open(delta)?.sync_all()?;
                fs::rename(delta, aside.join("delta"))?;
            }
            File::open(&aside)?.sync_all()?;
            settle(&aside, &target)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| {
            // Whatever stands there is swept at the next start too.
            drop(fs::remove_dir_all(&aside));
            Error::io("write image", &target)(error)
        })
    }

    /// Where a file may be put that [`Records::put`] moves; removed at the next start when it is not.
    pub(super) fn incoming(&self) -> Result<tempfile::NamedTempFile> {
        let made = tempfile::Builder::new().prefix(".incoming-").tempfile_in(&self.dir);
        made.map_err(Error::io("make file in", &self.dir))
    }

    /// The file that a pending image came from.
    pub(super) fn delta(&self, digest: Digest) -> PathBuf {
        self.path(digest).join("delta")
    }

    /// Whether contents of the image may be missing.
    pub(super) fn is_pending(&self, digest: Digest) -> bool {
        self.delta(digest).exists()
    }

    /// The indexes of the layers of a pending image's parent; none for one that has no parent.
    pub(super) fn parent_layers(&self, digest: Digest) -> Result<Option<Vec<Arc<LayerIndex>>>> {
        let path = self.path(digest).join("parent");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let bytes = read.map_err(Error::io("read layers", &path))?;
                let layers = decode_layers(&bytes);
                let failed = |error| Error::Corrupt { what: format!("{}: {error}", path.display()) };
                layers.map(Some).map_err(failed)
            }
        }
    }

    /// Notes that all contents of an image are there, flushed, and its layers what they are said to be. With `keep` what makes them
    /// stays, and [`Records::reopen`] is possible.
    pub(super) fn complete(&self, digest: Digest, keep: bool) -> Result<()> {
        let path = self.path(digest);
        let (delta, kept) = (self.delta(digest), self.kept(digest));
        let complete = || -> io::Result<()> {
            // First what decides.
            if keep { fs::rename(&delta, &kept) } else { fs::remove_file(&delta) }?;
            File::open(&path)?.sync_all()?;
            if keep { Ok(()) } else { absent(fs::remove_file(path.join("parent"))) }
        };
        complete().map_err(Error::io("complete image", &path))
    }

    /// The file that a complete image came from, as long as it is kept.
    pub(super) fn kept(&self, digest: Digest) -> PathBuf {
        self.path(digest).join("kept")
    }

    /// Notes, durably, that contents of a complete image may be missing from now on; what makes them was kept.
    pub(super) fn reopen(&self, digest: Digest) -> Result<()> {
        let path = self.path(digest);
        let renamed = fs::rename(self.kept(digest), self.delta(digest));
        renamed.and_then(|()| File::open(&path)?.sync_all()).map_err(Error::io("reopen image", &path))
    }

    /// Removes what makes a complete image's contents, if it was kept.
    pub(super) fn forget_kept(&self, digest: Digest) -> Result<()> {
        let path = self.path(digest);
        // The file without which the other is of no use goes first.
        let removed =
            absent(fs::remove_file(self.kept(digest))).and_then(|()| match self.is_pending(digest) {
                true => Ok(()),
                false => absent(fs::remove_file(path.join("parent"))),
            });
        removed.map_err(Error::io("remove what makes image", &path))
    }

    /// Notes that an image is not what it is said to be.
    pub(super) fn reject(&self, digest: Digest, why: &str) -> Result<()> {
        let path = self.path(digest).join("rejected");
        let write = File::create(&path).and_then(|mut file| {
            file.write_all(why.as_bytes())?;
            file.sync_all()
        });
        write.map_err(Error::io("mark image", &path))
    }

    /// Why an image was rejected, if it was.
    pub(super) fn rejected(&self, digest: Digest) -> Option<String> {
        fs::read_to_string(self.path(digest).join("rejected")).ok()
    }

    /// The contents that were opened first, in that order.
    pub(super) fn order(&self, digest: Digest, which: Order) -> Vec<Digest> {
        let bytes = fs::read(self.path(digest).join(which.name())).unwrap_or_default();
        bytes.as_chunks().0.iter().map(|bytes| Digest(*bytes)).collect()
    }

    /// Both orders as one; each content may be there twice.
    pub(super) fn opened(&self, digest: Digest) -> Vec<Digest> {
        [Order::Opened, Order::Carried].map(|which| self.order(digest, which)).concat()
    }

    /// Keeps that order.
    pub(super) fn set_order(&self, digest: Digest, which: Order, opened: &[Digest]) -> Result<()> {
        let path = self.path(digest).join(which.name());
        let bytes: Vec<u8> = opened.iter().flat_map(|digest| digest.0).collect();
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.path(digest))?;
            file.write_all(&bytes)?;
            drop(file.persist(&path)?);
            Ok(())
        };
        write().map_err(Error::io("write order of contents", &path))
    }

    /// Whether containerd has had the image.
    pub(super) fn is_used(&self, digest: Digest) -> bool {
        self.path(digest).join(USED).exists()
    }

    /// Notes that containerd has it now.
    pub(super) fn set_used(&self, digest: Digest) -> Result<()> {
        let path = self.path(digest).join(USED);
        File::create(&path).map(drop).map_err(Error::io("mark image", &path))
    }

    /// Forgets an image.
    pub(super) fn remove(&self, digest: Digest) -> Result<()> {
        let (path, aside) = (self.path(digest), self.dir.join(format!(".{}", digest.hex())));
        let removed = fs::rename(&path, &aside).and_then(|()| fs::remove_dir_all(&aside));
        removed.map_err(Error::io("forget image", &path))
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()
    });
    names.map_err(Error::io("list directory", dir))
}

/// Removes what an earlier process left in `dir` under a hidden name.
fn remove_half_written(dir: &Path) -> Result<()> {
    for name in names(dir)?.iter().filter(|name| name.starts_with('.')) {
        let path = dir.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove what was half written", &path))?;
    }
    Ok(())
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain, [a, Digest::of(format!("{a} {b}").as_bytes())]);
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn records_are_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("images")).unwrap();
        let image = ImageRecord { digest: Digest::of(b"m"), manifest: b"m".to_vec(), config: b"c".to_vec() };
        records.put(&image, &[Arc::new(LayerIndex::default())], None).unwrap();
        fs::create_dir(dir.path().join("images/.half")).unwrap();
        fs::write(dir.path().join("images/.incoming-x"), "").unwrap();
        let order = records.path(image.digest).join(".tmpx");
        fs::write(&order, "").unwrap();
        let records = Records::open(dir.path().join("images")).unwrap();
        assert!(!order.exists());
        assert_eq!(records.list().unwrap(), [image.digest]);
        assert_eq!(records.get(image.digest).unwrap().unwrap().config, b"c");
        assert_eq!(records.layers(image.digest).unwrap().len(), 1);
        assert!(!records.is_used(image.digest));
        records.set_used(image.digest).unwrap();
        assert!(records.is_used(image.digest));
        records.remove(image.digest).unwrap();
        assert!(records.list().unwrap().is_empty() && records.get(image.digest).unwrap().is_none());
        fs::create_dir(dir.path().join("images").join(format!(".{}", image.digest.hex()))).unwrap();
        records.put(&image, &[], None).expect("what a removal left is no hindrance");
    }

    #[test]
    fn a_pending_image_becomes_complete_or_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("images")).unwrap();
        let image = ImageRecord { digest: Digest::of(b"m"), manifest: b"m".to_vec(), config: b"c".to_vec() };
        let file = records.incoming().unwrap().into_temp_path().keep().unwrap();
        fs::write(&file, "delta").unwrap();
        let parent = [Arc::new(LayerIndex::default()), Arc::new(LayerIndex::default())];
        records.put(&image, &[], Some((&file, Some(&parent)))).unwrap();
        assert!(records.is_pending(image.digest) && !file.exists());
        assert_eq!(fs::read(records.delta(image.digest)).unwrap(), b"delta");
        assert_eq!(records.parent_layers(image.digest).unwrap().unwrap().len(), 2);
        let opened = [Digest::of(b"first"), Digest::of(b"second")];
        assert!(records.opened(image.digest).is_empty());
        records.set_order(image.digest, Order::Carried, &opened[..1]).unwrap();
        records.set_order(image.digest, Order::Opened, &opened[1..]).unwrap();
        assert_eq!(records.opened(image.digest), [opened[1], opened[0]]);
        assert!(records.rejected(image.digest).is_none());
        records.reject(image.digest, "no").unwrap();
        assert_eq!(records.rejected(image.digest).unwrap(), "no");
        records.set_used(image.digest).unwrap();
        let other = records.incoming().unwrap().into_temp_path().keep().unwrap();
        fs::write(&other, "delta").unwrap();
        records.replace(&image, &parent[..1], (&other, Some(&parent))).unwrap();
        assert!(records.rejected(image.digest).is_none() && records.is_used(image.digest) && !other.exists());
        assert_eq!(records.layers(image.digest).unwrap().len(), 1);
        assert_eq!(records.opened(image.digest), [opened[1], opened[0]]);
        assert_eq!(records.names().unwrap(), [image.digest.hex()]);
        // To and fro as often as wanted: whichever name the file has tells what the image is.
        for _ in 0..2 {
            records.complete(image.digest, true).unwrap();
            assert!(!records.is_pending(image.digest) && records.kept(image.digest).exists());
            records.reopen(image.digest).unwrap();
            assert!(records.is_pending(image.digest) && !records.kept(image.digest).exists());
            assert_eq!(fs::read(records.delta(image.digest)).unwrap(), b"delta");
            assert_eq!(records.parent_layers(image.digest).unwrap().unwrap().len(), 2);
            assert!(records.reopen(image.digest).is_err(), "nothing was kept");
            records.forget_kept(image.digest).unwrap();
            assert!(records.parent_layers(image.digest).unwrap().is_some(), "of a pending image");
        }
        records.complete(image.digest, true).unwrap();
        for _ in 0..2 {
            records.forget_kept(image.digest).unwrap();
            assert!(!records.is_pending(image.digest) && !records.kept(image.digest).exists());
            assert!(records.parent_layers(image.digest).unwrap().is_none());
        }
        fs::write(records.delta(image.digest), "again").unwrap();
        records.complete(image.digest, false).unwrap();
        assert!(!records.is_pending(image.digest) && records.parent_layers(image.digest).unwrap().is_none());
    }
}
