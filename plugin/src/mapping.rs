//! Containers in user namespaces: what they lie on is mounted with their owners, nothing is copied or made for it.
//!
//! containerd names the users of such a container in two labels of its snapshot. Each lower layer is mounted once more below
//! `<root>/mapped/<number of the snapshot>`, its owners mapped by the kernel, and the container's overlay lies on those. They
//! go with the snapshot, or when it is committed; whoever has mounted them keeps them.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use di3fs::mount::{Lower, mount_merged};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::error::{Error, Result};
use crate::snapshot::{LABEL_GID_MAPPING, LABEL_UID_MAPPING, Labels};

/// What the merged layer is mounted as, beside the others' numbers.
const MERGED: &str = "merged";

/// How a container's users and groups are numbered outside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    uids: String,
    gids: String,
    /// The user and the group that are 0 inside.
    root: (u32, u32),
}

impl Mapping {
    /// What the labels say: `inside:outside:count`, several of them with commas between; none where there is no such label.
    ///
    /// # Errors
    /// `InvalidArgument` for labels of which one is missing, is something else, or has nobody who is 0 inside.
    pub fn of(labels: &Labels) -> Result<Option<Self>> {
        let (uids, gids) = match (labels.get(LABEL_UID_MAPPING), labels.get(LABEL_GID_MAPPING)) {
            (None, None) => return Ok(None),
            (uids, gids) => (uids.map_or("", String::as_str), gids.map_or("", String::as_str)),
        };
        let parsed = |label: &str, text: &str| {
            lines(text).ok_or_else(|| Error::InvalidArgument { what: format!("label {label}: {text:?}") })
        };
        let (uids, user) = parsed(LABEL_UID_MAPPING, uids)?;
        let (gids, group) = parsed(LABEL_GID_MAPPING, gids)?;
        Ok(Some(Self { uids, gids, root: (user, group) }))
    }

    /// The user and the group that are 0 inside.
    pub fn root(&self) -> (u32, u32) {
        self.root
    }

    fn namespace(&self) -> Result<OwnedFd> {
        d4c_sys::user_namespace(&self.uids, &self.gids)
            .map_err(|error| Error::Unavailable { what: format!("make user namespace: {error}") })
    }
}

/// The lines of a map of `user_namespaces(7)`, and what 0 is outside.
fn lines(text: &str) -> Option<(String, u32)> {
    let (mut lines, mut root) = (String::new(), None);
    for one in text.split(',') {
        let mut numbers = one.split(':').map(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        if numbers.next().is_some() || count == 0 {
            return None;
        }
        if inside == 0 {
            root = Some(outside);
        }
        writeln!(lines, "{inside} {outside} {count}").ok()?;
    }
    Some((lines, root?))
}

/// The mapped layers of all snapshots.
#[derive(Debug)]
pub struct Mapped {
    dir: PathBuf,
}

impl Mapped {
    /// Those below `root`, where what is left of snapshots that are not there any more is removed.
    pub fn open(root: &Path, is_there: impl Fn(u64) -> bool) -> Self {
        let mapped = Self { dir: root.join("mapped") };
        // Mostly nobody is mapped, and there is no such directory.
        for entry in fs::read_dir(&mapped.dir).into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(number) = number.filter(|&number| !is_there(number)) {
                mapped.end(number);
            }
        }
        mapped
    }

    /// `lower` with the owners of `mapping`, for the snapshot of this number. As it is where its owners are those already:
    /// containerd, not told that we map (`remap-ids`), changes them in a snapshot of its own.
    ///
    /// # Errors
    /// The kernel, or the file system of a layer, cannot do it.
    pub fn lower(&self, number: u64, lower: Lower, mapping: &Mapping) -> Result<Lower> {
        let Some(top) = lower.as_directories().layers.into_iter().next() else { return Ok(lower) };
        let owner = owner(&top)?;
        if mapping.root() != (0, 0) && owner == mapping.root() {
            return Ok(lower);
        }
        let dir = self.dir.join(number.to_string());
        fs::create_dir_all(&dir).map_err(Error::io("make directory", &dir))?;
        let namespace = mapping.namespace()?;
        let mut renewed = false;
        let mut layers = Vec::with_capacity(lower.layers.len());
        for (at, layer) in lower.layers.iter().enumerate() {
            let target = dir.join(at.to_string());
            make_dir(&target)?;
            // What was served anew since is another file system: its mount goes over the old one, which may be in use.
            if identity(&target)? != identity(layer)? {
                d4c_sys::mount_mapped(layer, &target, &namespace).map_err(|error| Error::Unavailable {
                    what: format!("map owners of {}: {error}", layer.display()),
                })?;
                renewed = true;
            }
            layers.push(target);
        }
        let mut mapped = Lower { layers, data_only: lower.data_only, merged: None };
        if lower.merged.is_some() {
            let target = dir.join(MERGED);
            make_dir(&target)?;
            if renewed || identity(&target)?.0 == identity(&dir)?.0 {
                let last = mapped.layers.last().cloned().into_iter().collect();
                let served = Lower { layers: last, data_only: mapped.data_only.clone(), merged: None };
                mount_merged(&served, &target)
                    .map_err(|error| Error::Unavailable { what: error.to_string() })?;
            }
            mapped.merged = Some(target);
        }
        Ok(mapped)
    }

    /// Unmounts what was mounted for the snapshot of this number, and removes its directory; whoever uses it keeps it.
    pub fn end(&self, number: u64) {
        let dir = self.dir.join(number.to_string());
        let Ok(entries) = fs::read_dir(&dir) else { return };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        // The merged one lies on another.
        paths.sort_unstable_by_key(|path| !path.ends_with(MERGED));
        for path in &paths {
            while umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) == Ok(()) {}
            if let Err(error) = fs::remove_dir(path) {
                tracing::warn!(path = %path.display(), %error, "mapped layer not removed");
            }
        }
        if let Err(error) = fs::remove_dir(&dir) {
            tracing::warn!(path = %dir.display(), %error, "mapped layers not removed");
        }
    }
}

fn make_dir(path: &Path) -> Result<()> {
    match nix::unistd::mkdir(path, nix::sys::stat::Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Error::io("make directory", path)(errno.into())),
    }
}

/// The file system and the node of what is at `path`.
fn identity(path: &Path) -> Result<(u64, u64)> {
    let seen = fs::metadata(path).map_err(Error::io("look at directory", path))?;
    Ok((seen.dev(), seen.ino()))
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let seen = fs::metadata(path).map_err(Error::io("look at directory", path))?;
    Ok((seen.uid(), seen.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        [(LABEL_UID_MAPPING, uids), (LABEL_GID_MAPPING, gids)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn labels_are_maps() {
        assert_eq!(Mapping::of(&Labels::new()).unwrap(), None);
        let mapping = Mapping::of(&labels("1:500:9,0:100000:1", "0:7:65536")).unwrap().unwrap();
        assert_eq!(mapping.uids, "1 500 9\n0 100000 1\n");
        assert_eq!((mapping.gids.as_str(), mapping.root()), ("0 7 65536\n", (100_000, 7)));
        for (uids, gids) in [
            ("", "0:1:1"),
            ("0:1:1", ""),
            ("1:1:1", "0:1:1"),
            ("0:1:0", "0:1:1"),
            ("0:1:1:1", "0:1:1"),
            ("0:-1:1", "0:1:1"),
        ] {
            let error = Mapping::of(&labels(uids, gids)).unwrap_err().to_string();
            assert!(error.contains("label containerd.io/snapshot/"), "{error}");
        }
    }
}
