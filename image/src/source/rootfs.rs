//! `dir:`: a bare root file system as an image of one layer, by fixed rules.
//!
//! The same tree gives the same tar, and so the same digests, on any machine. What a tree is:
//! - every entry below the root and the root itself (`./`, first), in the order of a walk that takes the names
//!   in a directory by their bytes: with a directory comes all that is in it, then the next name;
//! - type, permissions with set-id and sticky bits, numeric owner and group, modification time with nanoseconds,
//!   link target, device numbers; of user and group no names, of times no others;
//! - hard links: the first path has the contents, later ones refer to it;
//! - extended attributes `user.*`, `security.capability` and the POSIX ACLs; others (labels of SELinux, what
//!   overlayfs or integrity measurement left there) belong to the machine, not to the tree;
//! - no sockets, as in any container layer.
//!
//! The manifest is an OCI manifest, the config names the platform (the host's unless one is asked for) and a
//! creation time of 1970-01-01.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dimg::Digest;

use super::blob::{Blob, MappedBytes};
use super::hash::HashThread;
use super::open::OpenImage;
use super::spool::Spool;
use super::tarwrite::{Header, Kind, write_end, write_header, write_padding};
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::{Descriptor, write_manifest};
use crate::platform::Platform;

const WHAT: &str = "read root file system";
const BUFFER_BYTES: usize = 256 << 10;
/// Deepest nesting of directories; paths are longer than the kernel takes long before.
const MAX_DEPTH: usize = 4096;

pub(super) fn open(root: &Path, options: &Options, name: String) -> Result<OpenImage, SourceError> {
    let io = |error| SourceError::io(WHAT, root)(error);
    if !root.metadata().map_err(io)?.is_dir() {
        return Err(SourceError::corrupt(WHAT, root.display().to_string(), "is not a directory"));
    }
    let spool = options.spool();
    let (bytes, diff_id) = write_layer(root, &spool)?;
    let config = write_config(&options.platform(), diff_id);
    let layer = (diff_id, bytes.len() as u64);
    let manifest = write_manifest((Digest::of(&config), config.len() as u64), &[layer]);
    let backend = Tree { bytes, name: name.clone() };
    OpenImage::synthesized(Box::new(backend), manifest, config, options, name)
}

/// The tar made of a tree.
struct Tree {
    bytes: MappedBytes,
    name: String,
}

impl Backend for Tree {
    fn blob(&self, _descriptor: &Descriptor) -> Result<Blob, SourceError> {
        Ok(Blob::Verified(self.bytes.clone()))
    }

    fn blob_name(&self, _descriptor: &Descriptor) -> String {
        self.name.clone()
    }
}

/// An image config of one layer: compact JSON, fields in a fixed order.
fn write_config(platform: &Platform, diff_id: Digest) -> Vec<u8> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let variant = platform.variant.as_deref().map(|variant| format!(r#","variant":{}"#, quoted(variant)));
    format!(
        r#"{{"created":"1970-01-01T00:00:00Z","architecture":{}{},"os":{},"config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},"history":[{{"created":"1970-01-01T00:00:00Z","created_by":"d4c dir"}}]}}"#,
        quoted(&platform.architecture),
        variant.unwrap_or_default(),
        quoted(&platform.os),
    )
    .into_bytes()
}

/// Paths of all entries below `root`, relative to it, in the order of the tar.
fn list(root: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut paths = Vec::new();
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        let whole = root.join(&dir);
        for entry in fs::read_dir(&whole).map_err(SourceError::io(WHAT, &whole))? {
            let entry = entry.map_err(SourceError::io(WHAT, &whole))?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type().map_err(SourceError::io(WHAT, &entry.path()))?;
            if kind.is_socket() {
                continue;
            }
            if entry.file_name().as_bytes().starts_with(b".wh.") {
                let why = "a name with .wh. in front means a deletion in a layer";
                let on = entry.path().display().to_string();
                return Err(SourceError::Unsupported { what: WHAT, on, why: why.into() });
            }
            if kind.is_dir() {
                if depth == MAX_DEPTH {
                    let on = entry.path().display().to_string();
                    return Err(SourceError::Limit { what: WHAT, on, limit_bytes: MAX_DEPTH as u64 });
                }
                pending.push((path.clone(), depth + 1));
            }
            paths.push(path);
        }
    }
    // Paths compare by component, so that a directory's entries stay together.
    paths.sort_unstable();
    Ok(paths)
}

/// Writes the tar of the tree into a temporary file.
fn write_layer(root: &Path, spool: &Spool) -> Result<(MappedBytes, Digest), SourceError> {
    let file = spool.file()?;
    let hash = HashThread::start(None);
    let mut layer = Layer {
        out: BufWriter::with_capacity(BUFFER_BYTES, Tee { file: &file, hash }),
        bytes: 0,
        spool,
        root,
        links: HashMap::new(),
        buffer: vec![0; BUFFER_BYTES],
    };
    layer.entry(Path::new(""))?;
    for path in list(root)? {
        layer.entry(&path)?;
    }
    let Layer { mut out, .. } = layer;
    let failed = |error| SourceError::io("write layer to", &spool.dir)(error);
    write_end(&mut out).map_err(failed)?;
    let tee = out.into_inner().map_err(|error| failed(error.into_error()))?;
    let diff_id = tee.hash.finish();
    Ok((spool.map(&file)?, diff_id))
}

/// A tar being written.
struct Layer<'a> {
    out: BufWriter<Tee<'a>>,
    bytes: u64,
    spool: &'a Spool,
    root: &'a Path,
    /// First paths of files with more names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    /// Adds the entry at `path`, relative to the root.
    fn entry(&mut self, path: &Path) -> Result<(), SourceError> {
        let whole = if path.as_os_str().is_empty() { self.root.to_owned() } else { self.root.join(path) };
        let io = |error| SourceError::io(WHAT, &whole)(error);
        // The root may be named by a link; what is in it is never followed.
        let meta = if path.as_os_str().is_empty() { whole.metadata() } else { whole.symlink_metadata() };
        let meta = meta.map_err(io)?;
        let kind = meta.file_type();
        let name = path.as_os_str().as_bytes();
        let mut target = Vec::new();
        let mut size = 0;
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if let Some(first) = self.first_link(path, &meta) {
            target = first;
            Kind::HardLink
        } else if kind.is_symlink() {
            target = fs::read_link(&whole).map_err(io)?.into_os_string().into_encoded_bytes();
            Kind::Symlink
        } else if kind.is_file() {
            size = meta.len();
            Kind::File
        } else if kind.is_char_device() {
            Kind::CharDevice
        } else if kind.is_block_device() {
            Kind::BlockDevice
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            return Ok(());
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let header = Header {
            name: match kind {
                Kind::Directory if name.is_empty() => b"./".to_vec(),
                Kind::Directory => [name, b"/"].concat(),
                _ => name.to_vec(),
            },
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size,
            seconds: meta.mtime(),
            nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
            target,
            // The attributes are those of the file, not of its name.
            xattrs: if kind == Kind::HardLink { BTreeMap::new() } else { xattrs(&whole)? },
            major: if is_device { libc::major(meta.rdev()) } else { 0 },
            minor: if is_device { libc::minor(meta.rdev()) } else { 0 },
        };
        let written = write_header(&mut self.out, &header).map_err(|error| self.write_error(error))?;
        self.count(written.saturating_add(size))?;
        if kind == Kind::File { self.contents(&whole, &meta) } else { Ok(()) }
    }

    /// The first path of the file, where it has more names and one was written.
    fn first_link(&mut self, path: &Path, meta: &Metadata) -> Option<Vec<u8>> {
        if meta.nlink() < 2 || meta.is_dir() {
            return None;
        }
        match self.links.entry((meta.dev(), meta.ino())) {
            Slot::Occupied(first) => Some(first.get().as_os_str().as_bytes().to_vec()),
            Slot::Vacant(slot) => {
                slot.insert(path.to_owned());
                None
            }
        }
    }

    fn contents(&mut self, path: &Path, meta: &Metadata) -> Result<(), SourceError> {
        let io = |error| SourceError::io(WHAT, path)(error);
        let changed = || {
            let (on, why) = (path.display().to_string(), "changed while it was read".to_owned());
            SourceError::Remote { what: WHAT, on, why }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(io)?;
        let now = file.metadata().map_err(io)?;
        if (now.dev(), now.ino(), now.len()) != (meta.dev(), meta.ino(), meta.len()) || !now.is_file() {
            return Err(changed());
        }
        let mut left = meta.len();
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(changed()),
                Ok(read) => {
                    left -= read as u64;
                    let written = self.out.write_all(&self.buffer[..read]);
                    written.map_err(|error| self.write_error(error))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
        }
        write_padding(&mut self.out, meta.len()).map_err(|error| self.write_error(error))
    }

    fn write_error(&self, error: io::Error) -> SourceError {
        SourceError::io("write layer to", &self.spool.dir)(error)
    }

    fn count(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.spool.limit_bytes {
            Some(limit_bytes) if self.bytes > limit_bytes => {
                Err(SourceError::Limit { what: WHAT, on: self.root.display().to_string(), limit_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// The attributes that belong to a tree.
fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, SourceError> {
    let io = |error| SourceError::io("read attributes", path)(error);
    let mut xattrs = BTreeMap::new();
    for name in d4c_sys::llist_xattr(path).map_err(io)? {
        let belongs = name.starts_with(b"user.")
            || matches!(
                &name[..],
                b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
            );
        if !belongs {
            continue;
        }
        if name.contains(&b'=') {
            let why = format!("attribute {:?} has a = in its name", OsStr::from_bytes(&name));
            return Err(SourceError::Unsupported { what: WHAT, on: path.display().to_string(), why });
        }
        if let Some(value) = d4c_sys::lget_xattr(path, &name).map_err(io)? {
            xattrs.insert(name, value);
        }
    }
    Ok(xattrs)
}

/// Writes to a file and hashes what it writes.
struct Tee<'a> {
    file: &'a File,
    hash: HashThread,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
