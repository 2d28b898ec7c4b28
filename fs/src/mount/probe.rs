//! Whether the `erofs` route works here, found out by taking it with an image of one file.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dimg::Digest;
use dimg::content::{Bytes, ContentSource};
use dimg::index::{Content, Entry, Kind, LayerIndex, Shape};

use super::{Image, MountError, Options, Served};
use crate::lazy::Contents;
use crate::store::ObjectStore;
use crate::table::Table;
use crate::tree::Tree;

const BYTES: &[u8] = b"made when it was opened";

/// The file systems on which it works: that does not change while we run.
static WORKS: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

/// Checks that a file that is not there is made when it is opened, and is read. `store` is where objects would be; what
/// the check needs it makes below `state`, and removes.
pub(super) fn check(store: &Path, state: &Path) -> Result<(), MountError> {
    let device = fs::metadata(store).map_err(MountError::io("look at store", store))?.dev();
    let works = || WORKS.lock().unwrap_or_else(PoisonError::into_inner);
    if works().as_ref().is_some_and(|works| works.contains(&device)) {
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("probe.").tempdir_in(state);
    let dir = dir.map_err(MountError::io("make directory", state))?;
    take(dir.path())?;
    works().get_or_insert_default().insert(device);
    Ok(())
}

fn take(dir: &Path) -> Result<(), MountError> {
    let store = Arc::new(ObjectStore::open_volatile(&dir.join("store"))?);
    let contents = Arc::new(Contents::new(store, Vec::new(), vec![Arc::new(Probe)]));
    let failed = |why: &dyn std::fmt::Display| MountError::Probe { why: why.to_string() };
    let tree = Tree::merge(&[Arc::new(layer())]).map_err(|error| failed(&error))?;
    let image = Image { tree: Arc::new(tree), contents };
    let (root, state) = (dir.join("root"), dir.join("state"));
    super::make_dir(&root)?;
    super::make_dir(&state)?;
    let table = Table::new(Arc::clone(&image.tree));
    let served = Served::erofs(&image, &table, &state, &Options::default())?;
    let mounted = served.mount(&root)?;
    let read =
        fs::read(root.join("file")).map_err(|error| failed(&format!("open of a missing file: {error}")));
    mounted.unmount()?;
    if read? == BYTES { Ok(()) } else { Err(failed(&"other bytes came back")) }
}

fn layer() -> LayerIndex {
    let style = Box::default();
    let shape = Shape { kind: Kind::Regular, raw: false, sparse: false, pax_keys: Vec::new(), style };
    let entry = Entry {
        shape: 0,
        path: (*b"file").into(),
        mode: 0o444,
        uid: 0,
        gid: 0,
        uname: Box::default(),
        gname: Box::default(),
        mtime: 0,
        mtime_nsec: 0,
        dev_major: 0,
        dev_minor: 0,
        link: Box::default(),
        pax: Box::default(),
        content: Some(Content { digest: Digest::of(BYTES), size: BYTES.len() as u64 }),
        bare_size: 0,
        sparse: Box::default(),
        raw: Box::default(),
    };
    let mut layer = LayerIndex::default();
    layer.shapes.push(shape);
    layer.entries.push(entry);
    layer
}

struct Probe;

impl ContentSource for Probe {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok((content.digest == Digest::of(BYTES)).then(|| Bytes::from(BYTES.to_vec())))
    }
}
