//! A tree written by several threads.
//!
//! Directories first, then files in batches by directory, then further names of files, then the directories'
//! attributes from the deepest up.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use d4c_sys::on_threads;
use dimg::content::ContentSource;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use super::attributes::{Applier, Target, failed};
use super::dest::Dest;
use super::files::Maker;
use super::{CheckoutError, Options, Written};
use crate::tree::{Attributes, Body, NodeId, Tree};

/// Files of one directory that a thread takes at once.
const BATCH_FILES: usize = 64;

/// What is to be done, in the tree's order.
#[derive(Debug, Default)]
struct Plan {
    directories: Vec<(Box<[u8]>, NodeId)>,
    /// Files by directory; first names only.
    batches: Vec<Batch>,
    links: Vec<Link>,
    bytes: u64,
}

/// A further name of a file.
#[derive(Debug)]
struct Link {
    first: Box<[u8]>,
    path: Box<[u8]>,
}

#[derive(Debug)]
struct Batch {
    directory: Box<[u8]>,
    files: Vec<(Box<[u8]>, NodeId)>,
}

impl Plan {
    fn new(tree: &Tree) -> Self {
        let mut plan = Self::default();
        let mut first: HashMap<NodeId, Box<[u8]>> = HashMap::new();
        // The batch that is being filled, by directory.
        let mut open: HashMap<Box<[u8]>, usize> = HashMap::new();
        let mut walk = tree.walk();
        while let Some((path, id)) = walk.step() {
            let body = &tree.node(id).body;
            if matches!(body, Body::Directory(_)) {
                plan.directories.push((path.into(), id));
                continue;
            }
            if let Some(first) = first.get(&id) {
                plan.links.push(Link { first: first.clone(), path: path.into() });
                continue;
            }
            first.insert(id, path.into());
            if let Body::Regular(Some(content)) = body {
                plan.bytes = plan.bytes.saturating_add(content.size);
            }
            let (directory, name) = split(path);
            let batch = match open.get(directory) {
                Some(&batch) if plan.batches[batch].files.len() < BATCH_FILES => batch,
                _ => {
                    plan.batches.push(Batch { directory: directory.into(), files: Vec::new() });
                    open.insert(directory.into(), plan.batches.len() - 1);
                    plan.batches.len() - 1
                }
            };
            plan.batches[batch].files.push((name.into(), id));
        }
        plan
    }

    fn entries(&self) -> usize {
        let files: usize = self.batches.iter().map(|batch| batch.files.len()).sum();
        self.directories.len() + files + self.links.len()
    }
}

/// What a tree is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// To be seen as it is.
    Root,
    /// To be seen through an overlay mount, alone.
    Lower,
    /// To be one layer of an overlay mount.
    Layer,
}

/// Writes `tree` to `dest`.
pub(super) fn write(
    tree: &Tree,
    source: &dyn ContentSource,
    dest: &Path,
    options: &Options,
    use_: Use,
) -> Result<Written, CheckoutError> {
    let overlay = use_ != Use::Root;
    let plan = Plan::new(tree);
    let dest = Dest::new(dest)?;
    let root = dest.dir();
    let applier = Applier::new(root, overlay).map_err(|error| failed("look at directory", b"", error))?;
    for (path, _) in &plan.directories {
        nix::sys::stat::mkdirat(root, &**path, Mode::S_IRWXU)
            .map_err(|errno| failed("make directory", path, errno.into()))?;
    }
    write_files(tree, &plan, source, root, &applier, options.workers.get())?;
    for Link { first, path } in &plan.links {
        nix::unistd::linkat(root, &**first, root, &**path, AtFlags::empty())
            .map_err(|errno| failed("make hard link", path, errno.into()))?;
    }
    for (path, id) in plan.directories.iter().rev() {
        let directory = open_directory(root, path)?;
        let node = tree.node(*id);
        if overlay && node.as_directory().is_some_and(|directory| directory.opaque) {
            applier.make_opaque(&directory, path)?;
        }
        applier.apply(Target::Open(&directory), &node.attributes, path)?;
    }
    let described = match (&tree.node(Tree::ROOT).attributes, use_) {
        (attributes, Use::Root | Use::Lower) => attributes.clone(),
        (&Attributes { mtime, mtime_nsec, .. }, Use::Layer) => {
            Attributes { mtime, mtime_nsec, ..Attributes::of_missing_directory() }
        }
    };
    let describe = |root: &File| applier.apply(Target::Open(root), &described, b"");
    describe(root)?;
    if options.sync {
        d4c_sys::syncfs(root).map_err(|error| failed("flush", b"", error))?;
    }
    dest.finish(describe)?;
    Ok(Written {
        entries: plan.entries() as u64,
        bytes: plan.bytes,
        dropped_xattrs: applier.dropped_xattrs.load(Ordering::Relaxed),
    })
}

fn write_files(
    tree: &Tree,
    plan: &Plan,
    source: &dyn ContentSource,
    root: &File,
    applier: &Applier,
    workers: usize,
) -> Result<(), CheckoutError> {
    let (next, reflinks) = (AtomicUsize::new(0), AtomicBool::new(true));
    let (failure, stop) = (Mutex::new(None), AtomicBool::new(false));
    let work = || {
        let mut maker = Maker::new(applier, source, &reflinks);
        while !stop.load(Ordering::Relaxed) {
            let Some(batch) = plan.batches.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if let Err(error) = write_batch(tree, batch, root, &mut maker) {
                stop.store(true, Ordering::Relaxed);
                if let Ok(mut failure) = failure.lock() {
                    failure.get_or_insert(error);
                }
            }
        }
    };
    on_threads(workers.min(plan.batches.len()), work);
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

fn write_batch(tree: &Tree, batch: &Batch, root: &File, maker: &mut Maker<'_>) -> Result<(), CheckoutError> {
    let directory = open_directory(root, &batch.directory)?;
    let mut path = batch.directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    let prefix = path.len();
    for (name, id) in &batch.files {
        path.truncate(prefix);
        path.extend_from_slice(name);
        maker.make(&directory, name, tree.node(*id), &path)?;
    }
    Ok(())
}

/// Opens a directory of the tree by its path below `root`, which no link may be part of.
fn open_directory(root: &File, path: &[u8]) -> Result<File, CheckoutError> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let opened = match nix::fcntl::openat2(root, path, OpenHow::new().flags(flags).resolve(resolve)) {
        // Kernels before 5.6, and sandboxes that do not know the call: one component at a time.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let mut here = nix::fcntl::openat(root, ".", flags, Mode::empty());
            for part in path.split(|byte| *byte == b'/') {
                here = here.and_then(|here| nix::fcntl::openat(here, part, flags, Mode::empty()));
            }
            here
        }
        opened => opened,
    };
    opened.map(File::from).map_err(|errno| failed("open directory", path, errno.into()))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
