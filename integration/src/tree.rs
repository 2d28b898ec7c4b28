//! Everything that a file system tree is, entry by entry, to compare two of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// One entry: all that a layer can say of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// `file`, `dir`, `symlink`, `char`, `block`, `fifo` or `socket`.
    pub kind: &'static str,
    /// The permissions, with setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// The size of a regular file.
    pub size: u64,
    /// The time of the last change of the contents: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The device numbers of a device.
    pub device: u64,
    /// The extended attributes, capabilities and ACLs with them.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The target of a symbolic link.
    pub target: Option<PathBuf>,
    /// The SHA-256 of a regular file.
    pub digest: Option<String>,
    /// The first path of the group of hard links that a non-directory is in; its own path when it is alone.
    pub first_link: PathBuf,
}

/// A tree: the entries by their paths, the root's path being empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    /// The entries.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// Reads the tree below `root`. Needs root for files of others.
    ///
    /// # Errors
    /// Fails, naming the path, when something cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut first_links = BTreeMap::new();
        tree.read(root, PathBuf::new(), &mut first_links)?;
        Ok(tree)
    }

    fn read(
        &mut self,
        root: &Path,
        path: PathBuf,
        first_links: &mut BTreeMap<(u64, u64), PathBuf>,
    ) -> Result<()> {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let entry = Entry::of(&full, &path, first_links)
            .with_context(|| format!("cannot read {}", full.display()))?;
        let is_dir = entry.kind == "dir";
        self.entries.insert(path.clone(), entry);
        if is_dir {
            let mut names: Vec<OsString> = fs::read_dir(&full)
                .and_then(|entries| entries.map(|entry| entry.map(|found| found.file_name())).collect())
                .with_context(|| format!("cannot list {}", full.display()))?;
            names.sort();
            for name in names {
                self.read(root, path.join(name), first_links)?;
            }
        }
        Ok(())
    }

    /// Checks that `other` is this tree in every entry and every attribute.
    ///
    /// # Errors
    /// Fails with the first differences.
    pub fn must_equal(&self, other: &Self) -> Result<()> {
        let differences = self.differences(other);
        ensure!(
            differences.is_empty(),
            "the trees differ in {} entries:\n{}",
            differences.len(),
            differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }

    /// What differs, a line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{}: missing", path.display())),
                Some(actual) if actual != expected => lines.push(difference(path, expected, actual)),
                Some(_) => {}
            }
        }
        let added = other.entries.keys().filter(|path| !self.entries.contains_key(*path));
        lines.extend(added.map(|path| format!("{}: not expected", path.display())));
        lines
    }

    /// The tree without the modification times of these directories: those that no layer has an entry for.
    #[must_use]
    pub fn without_mtime_of(mut self, paths: &[&str]) -> Self {
        for path in paths {
            if let Some(entry) = self.entries.get_mut(Path::new(path)) {
                entry.mtime = (0, 0);
            }
        }
        self
    }
}

fn difference(path: &Path, expected: &Entry, actual: &Entry) -> String {
    let mut what = Vec::new();
    let mut compare = |name: &str, expected: &dyn std::fmt::Debug, actual: &dyn std::fmt::Debug| {
        let (expected, actual) = (format!("{expected:?}"), format!("{actual:?}"));
        if expected != actual {
            what.push(format!("{name} {actual}, expected {expected}"));
        }
    };
    compare("kind", &expected.kind, &actual.kind);
    compare("mode", &format!("{:o}", expected.mode), &format!("{:o}", actual.mode));
    compare("owner", &expected.owner, &actual.owner);
    compare("size", &expected.size, &actual.size);
    compare("mtime", &expected.mtime, &actual.mtime);
    compare("device", &expected.device, &actual.device);
    compare("xattrs", &expected.xattrs, &actual.xattrs);
    compare("target", &expected.target, &actual.target);
    compare("digest", &expected.digest, &actual.digest);
    compare("first link", &expected.first_link, &actual.first_link);
    format!("{}: {}", path.display(), what.join("; "))
}

impl Entry {
    fn of(full: &Path, path: &Path, first_links: &mut BTreeMap<(u64, u64), PathBuf>) -> Result<Self> {
        let found = fs::symlink_metadata(full)?;
        let kind = kind(&found);
        let first_link = if kind == "dir" {
            path.to_owned()
        } else {
            first_links.entry((found.dev(), found.ino())).or_insert_with(|| path.to_owned()).clone()
        };
        Ok(Self {
            kind,
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            size: if kind == "file" { found.size() } else { 0 },
            mtime: (found.mtime(), found.mtime_nsec()),
            device: if kind == "char" || kind == "block" { found.rdev() } else { 0 },
            xattrs: xattrs(full)?,
            target: if kind == "symlink" { Some(fs::read_link(full)?) } else { None },
            digest: if kind == "file" { Some(sha256(full)?) } else { None },
            first_link,
        })
    }
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "dir",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

/// The attributes of an image: not what overlayfs keeps for itself in its lower directories, nor a host's security labels.
fn xattrs(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let is_ours = |name: &OsString| {
        let name = name.as_encoded_bytes();
        !name.starts_with(b"trusted.overlay.") && name != b"security.selinux"
    };
    let mut found = BTreeMap::new();
    for name in xattr::list(path)?.filter(is_ours) {
        if let Some(value) = xattr::get(path, OsStr::new(&name))? {
            found.insert(name, value);
        }
    }
    Ok(found)
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Fails when it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
