//! Layers by hand, and trees as text, for the tests of this crate.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dimg::Digest;
use dimg::content::{Bytes, ContentSource};
use dimg::index::{Content, Entry, Kind, LayerIndex, Shape};

use crate::tree::{Body, NodeId, Tree};

/// Contents in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<Digest, Vec<u8>>>);

impl Memory {
    pub(crate) fn put(&self, bytes: &[u8]) -> Content {
        let digest = Digest::of(bytes);
        self.0.lock().unwrap().insert(digest, bytes.to_vec());
        Content { digest, size: bytes.len() as u64 }
    }
}

impl ContentSource for Memory {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().get(&content.digest).cloned().map(Bytes::from))
    }
}

/// A source that counts how often it is asked, lacks what begins with "broken", and panics for what begins with "panics".
#[derive(Default)]
pub(crate) struct Counting {
    pub(crate) memory: Memory,
    pub(crate) asked: AtomicU64,
}

impl ContentSource for Counting {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.memory.open(content)?.filter(|bytes| !bytes.starts_with(b"broken"));
        assert!(found.as_ref().is_none_or(|bytes| !bytes.starts_with(b"panics")), "as wanted");
        Ok(found)
    }
}

/// Builds a layer member by member.
#[derive(Debug, Default)]
pub(crate) struct Members(LayerIndex);

impl Members {
    pub(crate) fn add(mut self, kind: Kind, path: &[u8], change: impl FnOnce(&mut Entry)) -> Self {
        self = self.with_xattrs(kind, path, &[], change);
        self
    }

    pub(crate) fn with_xattrs(
        mut self,
        kind: Kind,
        path: &[u8],
        xattrs: &[(&str, &[u8])],
        change: impl FnOnce(&mut Entry),
    ) -> Self {
        let key = |name: &str| format!("SCHILY.xattr.{name}").into_bytes().into();
        let pax_keys = xattrs.iter().map(|(name, _)| key(name)).collect();
        let shape = Shape { kind, raw: false, sparse: false, pax_keys, style: Box::default() };
        let number = self.0.shapes.iter().position(|known| *known == shape).unwrap_or_else(|| {
            self.0.shapes.push(shape);
            self.0.shapes.len() - 1
        });
        let mut entry = Entry {
            shape: u32::try_from(number).unwrap(),
            path: path.into(),
            mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            uname: Box::default(),
            gname: Box::default(),
            mtime: 1_700_000_000,
            mtime_nsec: 0,
            dev_major: 0,
            dev_minor: 0,
            link: Box::default(),
            pax: xattrs.iter().map(|(_, value)| (*value).into()).collect(),
            content: None,
            bare_size: 0,
            sparse: Box::default(),
            raw: Box::default(),
        };
        change(&mut entry);
        self.0.entries.push(entry);
        self
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.add(Kind::Directory, path.as_bytes(), |_| {})
    }

    pub(crate) fn file(self, path: &str, memory: &Memory, text: &str) -> Self {
        let content = memory.put(text.as_bytes());
        self.add(Kind::Regular, path.as_bytes(), |entry| entry.content = Some(content))
    }

    /// An empty file: also how whiteouts are written.
    pub(crate) fn empty(self, path: &str) -> Self {
        self.add(Kind::Regular, path.as_bytes(), |_| {})
    }

    pub(crate) fn symlink(self, path: &str, to: &str) -> Self {
        self.add(Kind::Symlink, path.as_bytes(), |entry| entry.link = to.as_bytes().into())
    }

    /// One more name, described as the first member of the file is, but for extended attributes: as GNU tar writes it.
    pub(crate) fn link(self, path: &str, to: &str) -> Self {
        let first = self.0.entries.iter().find(|entry| *entry.path == *to.as_bytes()).cloned();
        self.add(Kind::HardLink, path.as_bytes(), |entry| {
            if let Some(first) = first {
                (entry.mode, entry.uid, entry.gid) = (first.mode, first.uid, first.gid);
                (entry.mtime, entry.mtime_nsec) = (first.mtime, first.mtime_nsec);
            }
            entry.link = to.as_bytes().into();
        })
    }

    pub(crate) fn index(self) -> Arc<LayerIndex> {
        Arc::new(self.0)
    }
}

/// A tree as lines: type, permissions, path, and what it is; names of one file show the first one.
pub(crate) fn text(tree: &Tree) -> String {
    let mut first: HashMap<NodeId, String> = HashMap::new();
    let mut lines = String::new();
    for (path, id) in tree.walk() {
        let path = String::from_utf8_lossy(&path).into_owned();
        let node = tree.node(id);
        let mode = node.attributes.mode;
        let line = match (&node.body, first.get(&id)) {
            (Body::Directory(directory), _) => {
                format!("d {mode:o} {path}{}", if directory.opaque { " opaque" } else { "" })
            }
            (_, Some(first)) => format!("h {path} = {first}"),
            (Body::Regular(content), _) => {
                format!("f {mode:o} {path} {}", content.map_or(0, |content| content.size))
            }
            (Body::Symlink(target), _) => format!("l {path} -> {}", String::from_utf8_lossy(target)),
            (Body::CharDevice { major, minor }, _) => format!("c {path} {major}:{minor}"),
            (Body::BlockDevice { major, minor }, _) => format!("b {path} {major}:{minor}"),
            (Body::Fifo, _) => format!("p {path}"),
            (Body::Whiteout, _) => format!("w {path}"),
            (Body::Below(target), _) => format!("? {path} -> {}", String::from_utf8_lossy(target)),
        };
        first.entry(id).or_insert(path);
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// A mounted tmpfs of a bounded size, unmounted when dropped. Tests that use it have names that begin with `root_`.
#[derive(Debug)]
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    pub(crate) fn new(size: &str) -> Self {
        need_root();
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0755");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// An overlay mount of directories, the lowest first, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Overlay(tempfile::TempDir);

impl Overlay {
    pub(crate) fn new(layers: &[std::path::PathBuf]) -> Self {
        need_root();
        let dir = tempfile::tempdir().unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("overlay"), dir.path(), Some("overlay"), flags, Some(options.as_str()))
            .unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

pub(crate) fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: it mounts, changes owners, makes devices"
    );
}

/// Everything that a checkout promises of the files at `root`, as lines: path, type, mode, owner, size, times, device,
/// attributes, digest of the content, first name of the file.
pub(crate) fn scan(root: &std::path::Path) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut names: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str();
        let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
        let kind = meta.file_type();
        let mut line = format!("{name} {:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        line += &format!(" {}.{:09}", meta.mtime(), meta.mtime_nsec());
        if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" dev {:x}", meta.rdev());
        }
        if kind.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        }
        if kind.is_file() {
            line += &format!(" {} {}", meta.len(), Digest::of(&std::fs::read(&path).unwrap()));
        }
        for xattr in d4c_sys::llist_xattr(&path).unwrap() {
            let value = d4c_sys::lget_xattr(&path, &xattr).unwrap().unwrap_or_default();
            line += &format!(" {}={value:?}", String::from_utf8_lossy(&xattr));
        }
        if !kind.is_dir() {
            // By the names that are there: an overlay mount counts hidden ones too.
            names.entry(meta.ino()).or_default().push(lines.len());
        }
        lines.push(line);
        if kind.is_dir() {
            let mut below: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            below.sort();
            pending.extend(below.into_iter().rev());
        }
    }
    for group in names.values().filter(|group| group.len() > 1) {
        let first = lines[group[0]].split(' ').next().unwrap_or_default().to_owned();
        for line in group {
            lines[*line] += &format!(" is {first}");
        }
    }
    lines
}
