//! Whether a route works here, found out by taking it with an image of one file.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dimg::Digest;
use dimg::content::{Bytes, ContentSource};
use dimg::index::{Content, LayerIndex};

use super::{Image, MountError, Options, Route, Served};
use crate::lazy::Contents;
use crate::store::ObjectStore;
use crate::table::Table;
use crate::tree::Tree;

const BYTES: &[u8] = b"made when it was opened";

/// The file systems on which it works, with second names of objects or without: that does not change while we run.
static WORKS: Mutex<Option<HashSet<(u64, bool)>>> = Mutex::new(None);

/// Checks that a file that is not there is made when it is opened, and is read. `store` is where objects would be; what
/// the check needs it makes below `state`, and removes.
pub(super) fn check(store: &ObjectStore, state: &Path) -> Result<(), MountError> {
    let (root, fresh) = (store.root(), store.fresh().is_some());
    let device = fs::metadata(root).map_err(MountError::io("look at store", root))?.dev();
    let kind = (device, fresh);
    let works = || WORKS.lock().unwrap_or_else(PoisonError::into_inner);
    if works().as_ref().is_some_and(|works| works.contains(&kind)) {
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("probe.").tempdir_in(state);
    let dir = dir.map_err(MountError::io("make directory", state))?;
    take(dir.path(), fresh)?;
    works().get_or_insert_default().insert(kind);
    Ok(())
}

/// What works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The route.
    pub route: Route,
    /// A container's mount may lie on data-only layers itself ([`Lower::container`](super::Lower::container)).
    pub directly: bool,
}

/// The first route by which lower layers of a container's mount can be served here so that a successor can go on with
/// them, or [`Route::Overlay`], which needs nothing. `wanted` is the only one to be tried. What the check needs it makes
/// below `dir`, on the file system of the objects, and removes.
///
/// # Errors
/// The wanted one does not work, or none was found to while there is no room in `dir` to find out.
pub fn find_route(dir: &Path, wanted: Option<Route>) -> Result<Found, MountError> {
    for route in wanted.as_ref().map_or(&Route::ALL[..], std::slice::from_ref) {
        if *route == Route::Overlay {
            break;
        }
        match contain(dir, *route, false) {
            Ok(()) => {}
            Err(error) if wanted.is_some() || !has_room(dir) => return Err(error),
            Err(error) => {
                tracing::info!(%route, %error, "route does not work here");
                continue;
            }
        }
        let directly = *route == Route::Erofs
            && contain(dir, *route, true)
                .inspect_err(|error| tracing::info!(%error, "containers lie on an overlay mount of ours"))
                .is_ok();
        return Ok(Found { route: *route, directly });
    }
    Ok(Found { route: Route::Overlay, directly: false })
}

/// Whether there is more room in `dir` than [`find_route`] needs; what it reads but cannot make is an I/O error like any other.
pub fn has_room(dir: &Path) -> bool {
    let write = || tempfile::tempfile_in(dir)?.write_all(&[1; 256 << 10]);
    write().err().is_none_or(|error| !crate::is_no_space(&error))
}

/// Mounts as containerd would, without any option of ours but those of [`Lower::container`](super::Lower::container).
fn contain(dir: &Path, route: Route, directly: bool) -> Result<(), MountError> {
    let temporary = tempfile::Builder::new().prefix("probe.").tempdir_in(dir);
    let temporary = temporary.map_err(MountError::io("make directory", dir))?;
    let dir = temporary.path();
    let image = image(&dir.join("store"), true)?;
    let failed = |why: String| MountError::Probe { route, why };
    let [root, state, upper, work] = ["root", "state", "upper", "work"].map(|name| dir.join(name));
    for path in [&root, &state, &upper, &work] {
        super::make_dir(path)?;
    }
    let options = Options { route: Some(route), ..Options::default() };
    let mut served = Served::start(&image, &state, &options)?;
    served.merge(&state)?;
    if !served.can_resume() {
        return Err(failed("a successor of this process could not go on with it".to_owned()));
    }
    let options = served.lower().container(&upper, &work, directly)?.join(",");
    let (kind, flags) = (Some("overlay"), nix::mount::MsFlags::empty());
    nix::mount::mount(kind, &root, kind, flags, Some(options.as_str()))
        .map_err(|errno| MountError::io("mount overlay", &root)(errno.into()))?;
    let read = fs::read(root.join("file"));
    nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH)
        .map_err(|errno| MountError::io("unmount", &root)(errno.into()))?;
    match read {
        Ok(bytes) if bytes == BYTES => Ok(()),
        Ok(_) => Err(failed("other bytes came back".to_owned())),
        Err(error) => Err(failed(format!("open of a missing file: {error}"))),
    }
}

/// An image of one file that is not made yet.
fn image(store: &Path, fresh: bool) -> Result<Image, MountError> {
    let store = Arc::new(ObjectStore::open_trial(store, fresh)?);
    let contents = Arc::new(Contents::new(store, Vec::new(), vec![Arc::new(Probe)]));
    let content = Content { digest: Digest::of(BYTES), size: BYTES.len() as u64 };
    let layer = LayerIndex::of_file(b"file", content);
    let tree = Tree::merge(&[Arc::new(layer)])
        .map_err(|error| MountError::Probe { route: Route::Erofs, why: error.to_string() })?;
    Ok(Image { tree: Arc::new(tree), contents })
}

fn take(dir: &Path, fresh: bool) -> Result<(), MountError> {
    let image = image(&dir.join("store"), fresh)?;
    let failed =
        |why: &dyn std::fmt::Display| MountError::Probe { route: Route::Erofs, why: why.to_string() };
    let (root, state) = (dir.join("root"), dir.join("state"));
    super::make_dir(&root)?;
    super::make_dir(&state)?;
    let table = Arc::new(Table::new(Arc::clone(&image.tree)));
    let served = Served::erofs(&image, &|| Arc::clone(&table), &state, &Options::default())?;
    let mounted = served.mount(&root, None)?;
    let read =
        fs::read(root.join("file")).map_err(|error| failed(&format!("open of a missing file: {error}")));
    mounted.unmount()?;
    if read? == BYTES { Ok(()) } else { Err(failed(&"other bytes came back")) }
}

struct Probe;

impl ContentSource for Probe {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok((content.digest == Digest::of(BYTES)).then(|| Bytes::from(BYTES.to_vec())))
    }
}
