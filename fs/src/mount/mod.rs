//! An image as a mounted file system that makes contents when they are opened.
//!
//! [`Served::start`] makes ready, below a directory of its own, what an overlay mount needs ([`Served::lower`]), or the
//! whole tree; [`Served::mount`] mounts it where it is wanted. There are four [`Route`]s, which show the same
//! tree; which of them this machine has is found out by trying.
//!
//! The process may die at any moment: what was mounted can be unmounted, and on the `erofs` route what was made can
//! still be opened. Contents that are not made yet fail then, unless another process holds the [`Served::device`]: then
//! those who ask wait until a successor takes over with [`Served::resume`].

mod error;
mod kept;
mod lower;
mod probe;
mod resume;
mod route;
mod table;

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags};

use crate::checkout::{self, checkout_lower, checkout_root};
use crate::fuse::{ObjectFs, Session};
use crate::lazy::Contents;
use crate::store::{self, ObjectStore};
use crate::table::Table;
use crate::tree::Tree;

pub use crate::fuse::TreeFs;
pub use error::MountError;
pub use lower::Lower;
pub use probe::{Found, find_route, has_room};
pub use resume::{clean, mount_merged, remove};
pub use route::{ParseRouteError, Route};
pub use table::{Ended, Mounted};

/// The image of metadata below a state.
pub const METADATA: &str = "metadata.erofs";

/// An image to be served: what it looks like, and how its contents are made.
#[derive(Debug, Clone)]
pub struct Image {
    /// The merged tree of its layers.
    pub tree: Arc<Tree>,
    /// Its contents.
    pub contents: Arc<Contents>,
}

impl Image {
    /// The file system that the route `fuse` serves, to be served by other means: to a virtual machine.
    pub fn file_system(&self) -> TreeFs {
        TreeFs::new(Arc::new(Table::new(Arc::clone(&self.tree))), Arc::clone(&self.contents), false)
    }
}

/// How an image is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// The only route to try; none for the first that works.
    pub route: Option<Route>,
    /// Threads that answer the kernel, each of which may be making a content; the default is twice the number of
    /// processors, but at least 4 and at most 16.
    pub threads: NonZeroUsize,
    /// What the tree is known by, the same for equal trees alone: the route `erofs` takes the image of metadata then that was
    /// written for it below the state, if it is whole.
    pub name: Option<String>,
    /// All contents are objects already: on the `erofs` route nothing is in user space then.
    pub complete: bool,
    /// It will be mounted by itself, without an overlay mount above it: [`Served::mount`] without changes.
    pub alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = NonZeroUsize::new((2 * cores).clamp(4, 16)).unwrap_or(NonZeroUsize::MIN);
        Self { route: None, threads, name: None, complete: false, alone: false }
    }
}

/// Where what is changed in a mounted image is written.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The files, as overlayfs writes them; of a file system that it takes.
    pub upper: PathBuf,
    /// overlayfs's own, empty and on the same file system.
    pub work: PathBuf,
}

impl Changes {
    /// Below a directory, which is made when it is not there: `upper` and `work`.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn below(dir: &Path) -> Result<Self, MountError> {
        make_dir(dir)?;
        let dir = fs::canonicalize(dir).map_err(MountError::io("find directory", dir))?;
        let [upper, work] = ["upper", "work"].map(|name| dir.join(name));
        make_dir(&work)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&upper);
        made.map_err(MountError::io("make directory", &upper))?;
        Ok(Self { upper, work })
    }
}

/// An image that is being served. What it mounted below its state is unmounted when it is dropped; mounts made of it stay.
#[derive(Debug)]
pub struct Served {
    route: Route,
    lower: Lower,
    /// Mounts that are not FUSE's.
    mounts: Vec<PathBuf>,
    session: Option<Session>,
}

impl Served {
    /// Serves `image` by the first route that works here, or the one that is asked for. `state` is a directory that is
    /// the image's alone, on the file system of the object store; it is made when it is not there.
    ///
    /// # Errors
    /// No route works, or not the one asked for; nothing stays mounted.
    pub fn start(image: &Image, state: &Path, options: &Options) -> Result<Self, MountError> {
        make_dir(state)?;
        let state = fs::canonicalize(state).map_err(MountError::io("find directory", state))?;
        let routes = options.route.as_ref().map_or(&Route::ALL[..], std::slice::from_ref);
        let once = OnceCell::new();
        // Where the image of metadata is there nobody needs it.
        let table = || Arc::clone(once.get_or_init(|| Arc::new(Table::new(Arc::clone(&image.tree)))));
        let mut failed = Vec::new();
        for route in routes {
            match Self::try_route(*route, image, &table, &state, options) {
                Ok(served) => {
                    tracing::info!(%route, names = image.tree.names(), "serving an image");
                    return Ok(served);
                }
                Err(error) if options.route.is_some() => return Err(error),
                Err(error) => {
                    tracing::info!(%route, %error, "route does not work here");
                    failed.push(format!("{route}: {error}"));
                }
            }
        }
        Err(MountError::NoRoute { why: failed.join("; ") })
    }

    fn try_route(
        route: Route,
        image: &Image,
        table: &dyn Fn() -> Arc<Table>,
        state: &Path,
        options: &Options,
    ) -> Result<Self, MountError> {
        match route {
            Route::Erofs => {
                probe::check(image.contents.store(), state)?;
                Self::erofs(image, table, state, options)
            }
            Route::FusePassthrough => Self::fuse(image, &table(), state, options, true),
            Route::Fuse => Self::fuse(image, &table(), state, options, false),
            Route::Overlay => Self::overlay(image, state, options),
        }
    }

    fn erofs(
        image: &Image,
        table: &dyn Fn() -> Arc<Table>,
        state: &Path,
        options: &Options,
    ) -> Result<Self, MountError> {
        let (file, objects) = (state.join(METADATA), state.join("objects"));
        if !options.name.as_ref().is_some_and(|name| kept::is_whole(name, &file)) {
            kept::write(&table(), options.name.as_deref().unwrap_or_default(), &file)?;
        }
        let mut served = Self::metadata(image.contents.store(), state)?;
        make_dir(&objects)?;
        if options.complete {
            return Ok(served);
        }
        served.lower.data_only = data_only(image.contents.store(), &objects);
        let fs = Arc::new(ObjectFs::new(Arc::clone(&image.contents), &image.tree.contents()));
        let session = Session::start(fs, &objects, false, options.threads);
        served.session = Some(session.map_err(MountError::io("mount fuse", &objects))?);
        Ok(served)
    }

    /// Serves an image again of which all contents are objects, and of which an earlier [`Served::start`] with the route `erofs` kept the
    /// image of metadata for `name` below `state`: nothing of it has to be known. None where that is not there, or damaged.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn again(store: &ObjectStore, state: &Path, name: &str) -> Result<Option<Self>, MountError> {
        let state = match fs::canonicalize(state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(MountError::io("find directory", state))?,
        };
        match kept::is_whole(name, &state.join(METADATA)) {
            true => Self::metadata(store, &state).map(Some),
            false => Ok(None),
        }
    }

    /// Mounts the image of metadata below `state`.
    fn metadata(store: &ObjectStore, state: &Path) -> Result<Self, MountError> {
        let (file, metadata) = (state.join(METADATA), state.join("metadata"));
        make_dir(&metadata)?;
        nix::mount::mount(Some(&file), &metadata, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>)
            .map_err(|errno| MountError::io("mount erofs image", &file)(errno.into()))?;
        let lower = Lower { layers: vec![metadata.clone()], data_only: vec![store.objects()], merged: None };
        Ok(Self { route: Route::Erofs, lower, mounts: vec![metadata], session: None })
    }

    fn fuse(
        image: &Image,
        table: &Arc<Table>,
        state: &Path,
        options: &Options,
        passthrough: bool,
    ) -> Result<Self, MountError> {
        let root = state.join("tree");
        make_dir(&root)?;
        let fs = Arc::new(TreeFs::new(Arc::clone(table), Arc::clone(&image.contents), !options.alone));
        let session = Session::start(fs, &root, passthrough, options.threads)
            .map_err(MountError::io("mount fuse", &root))?;
        if passthrough {
            // The store's file system may be stacked too deep.
            let try_one = || -> io::Result<()> {
                let file = tempfile::tempfile_in(image.contents.store().root())?;
                let id = d4c_sys::fuse_backing_open(session.device(), &file)?;
                d4c_sys::fuse_backing_close(session.device(), id)
            };
            let on = image.contents.store().root();
            try_one().map_err(MountError::io("register a file with fuse", on))?;
        }
        if !passthrough {
            settle(&root, table).map_err(MountError::io("use fuse", &root))?;
        }
        let route = if passthrough { Route::FusePassthrough } else { Route::Fuse };
        let lower = Lower { layers: vec![root], ..Lower::default() };
        Ok(Self { route, lower, mounts: Vec::new(), session: Some(session) })
    }

    fn overlay(image: &Image, state: &Path, options: &Options) -> Result<Self, MountError> {
        let root = state.join("root");
        image.contents.ensure_all(&image.tree.contents(), options.threads)?;
        if !root.exists() {
            let checkout = if options.alone { checkout_root } else { checkout_lower };
            checkout(&image.tree, &*image.contents, &root, &checkout::Options::default())?;
        }
        let lower = Lower { layers: vec![root], ..Lower::default() };
        Ok(Self { route: Route::Overlay, lower, mounts: Vec::new(), session: None })
    }

    /// The route that is taken.
    pub fn route(&self) -> Route {
        self.route
    }

    /// What an overlay mount of the image takes as its lower layers, as long as this is served.
    pub fn lower(&self) -> &Lower {
        &self.lower
    }

    /// Mounts the image at `dest`, a directory: read-only, or with changes written to the `changes`. The mounts below the
    /// state are given up: `dest` is the only one that is left to be seen, and unmounting it ends all.
    ///
    /// # Errors
    /// It cannot be mounted there.
    pub fn mount(mut self, dest: &Path, changes: Option<&Changes>) -> Result<Mounted, MountError> {
        let dest = fs::canonicalize(dest).map_err(MountError::io("find directory", dest))?;
        let failed = |errno: nix::errno::Errno| MountError::io("mount image", &dest)(errno.into());
        let none = None::<&str>;
        if self.lower.data_only.is_empty() && changes.is_none() {
            let root = self.lower.layers.first().map(PathBuf::as_path);
            nix::mount::mount(root, &dest, none, MsFlags::MS_BIND, none).map_err(failed)?;
            let mounted = Mounted::new(self.route, dest.clone())?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            nix::mount::mount(none, &dest, none, flags, none).map_err(failed)?;
            self.detach();
            return Ok(mounted.serving(self.session.take()));
        }
        let (options, flags) = match changes {
            None => {
                let lower = self.lower.option()?;
                (format!("lowerdir={lower},redirect_dir=on,metacopy=on"), MsFlags::MS_RDONLY)
            }
            // As a container's.
            Some(changes) => {
                (self.lower.container(&changes.upper, &changes.work, true)?.join(","), MsFlags::empty())
            }
        };
        nix::mount::mount(Some("di3fs"), &dest, Some("overlay"), flags, Some(options.as_str()))
            .map_err(failed)?;
        let mounted = Mounted::new(self.route, dest)?;
        self.detach();
        Ok(mounted.serving(self.session.take()))
    }

    /// Takes away what is mounted below the state; whatever uses it keeps it.
    fn detach(&mut self) {
        if let Some(session) = &mut self.session
            && let Err(error) = session.detach()
        {
            tracing::warn!(%error, "fuse not unmounted");
        }
        for path in std::mem::take(&mut self.mounts) {
            if let Err(error) = nix::mount::umount2(&path, MntFlags::MNT_DETACH) {
                tracing::warn!(path = %path.display(), %error, "not unmounted");
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The data-only layers of an image of which contents may be missing, in the order in which they are asked: see [`ObjectFs`], mounted at
/// `objects`.
fn data_only(store: &ObjectStore, objects: &Path) -> Vec<PathBuf> {
    let [first, last] = ObjectFs::layers(objects);
    match store.fresh() {
        Some(fresh) => vec![store.objects(), first, fresh.to_owned(), last],
        None => vec![store.objects(), objects.to_owned()],
    }
}

/// Has the kernel ask what it asks once, how directories and files are opened and files closed, while there is someone who
/// answers: whoever closed the first file while there is no process would wait for the next one.
fn settle(root: &Path, table: &Table) -> io::Result<()> {
    drop(fs::read_dir(root)?);
    table.first_file().map_or(Ok(()), |file| File::open(root.join(file)).map(drop))
}

fn make_dir(path: &Path) -> Result<(), MountError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(MountError::io("make directory", path))
}

impl From<store::StoreError> for MountError {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests;
