//! What containerd is to mount: one bind mount, or one overlay over the directories of the parents.

use std::path::Path;

use di3fs::mount::{Lower, MountError};

use crate::error::{Error, Result};
use crate::snapshot::Kind;
use crate::store::{Layers, Store};

/// One mount, as `mount(8)` would take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// The directory to bind, or `overlay`.
    pub source: String,
    /// Options; containerd shortens `lowerdir` when it must.
    pub options: Vec<String>,
}

/// Options of every overlay mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayOptions {
    /// The kernel knows the option `index`, which must be off: a lower directory is shared by many mounts.
    pub index_off: bool,
    /// Rename directories of lower layers in place. Off by default: a layer written so cannot be read without its
    /// overlay, and containerd makes diffs by comparing directories.
    pub redirect_dir: bool,
    /// A container's mount lies on data-only layers itself, not on an overlay mount of ours: it is the faster.
    pub directly: bool,
}

/// From this size on containerd rewrites options, to stay below a page.
const SHORT_BYTES: usize = 4096 - 512;

impl OverlayOptions {
    /// The options for this kernel.
    #[must_use]
    pub fn probe(redirect_dir: bool, directly: bool) -> Self {
        let index_off = Path::new("/sys/module/overlay/parameters/index").exists();
        Self { index_off, redirect_dir, directly }
    }

    /// The mounts of a snapshot.
    ///
    /// # Errors
    /// A path of `lower` cannot stand in mount options.
    pub(crate) fn mounts(self, store: &Store, layers: &Layers, lower: &Lower) -> Result<Vec<MountSpec>> {
        let files = store.fs_path(layers.number);
        let writable = layers.kind == Kind::Active;
        let directories = lower.as_directories();
        let bound = match directories.layers.as_slice() {
            [] => Some(&files),
            [parent] if !writable && directories.data_only.is_empty() => Some(parent),
            _ => None,
        };
        if let Some(source) = bound {
            let mode = if writable { "rw" } else { "ro" };
            return Ok(vec![MountSpec {
                kind: "bind",
                source: source.display().to_string(),
                options: vec![mode.to_owned(), "rbind".to_owned()],
            }]);
        }
        let mut options = Vec::new();
        if self.index_off {
            options.push("index=off".to_owned());
        }
        if self.redirect_dir {
            // Without an upper directory nothing can be renamed, but what was renamed must be found.
            options.push(format!("redirect_dir={}", if writable { "on" } else { "follow" }));
        }
        let work = store.work_path(layers.number);
        let layers = |directly| match writable {
            true => lower.container(&files, &work, directly),
            false => directories.option().map(|lower| vec![format!("lowerdir={lower}")]),
        };
        let failed = |error: MountError| Error::Internal { what: error.to_string() };
        let mut added = layers(self.directly).map_err(failed)?;
        let size = |options: &[String]| options.iter().map(|option| option.len() + 1).sum::<usize>();
        if self.directly && size(&options) + size(&added) >= SHORT_BYTES {
            // What is in it twice is then what does not fit.
            added = layers(false).map_err(failed)?;
        }
        options.extend(added);
        Ok(vec![MountSpec { kind: "overlay", source: "overlay".to_owned(), options }])
    }
}

/// Refuses a root whose path cannot stand in the options of an overlay mount.
///
/// # Errors
/// `Config` naming the character.
pub fn check_root(root: &Path) -> Result<()> {
    let text = root
        .to_str()
        .ok_or_else(|| Error::Config { what: format!("root: {}: the path must be utf-8", root.display()) })?;
    match text.chars().find(|c| matches!(c, ':' | ',' | '\\' | '"') || c.is_control()) {
        Some(c) => Err(Error::Config { what: format!("root: {text}: {c:?} cannot stand in mount options") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Labels;

    #[test]
    fn snapshots_are_bound_or_overlaid() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path()).unwrap();
        let root = store.root().display().to_string();
        let over = |options: OverlayOptions, kind, parents: &[u64], served: &Lower| {
            let layers = Layers { kind, number: 9, parents: parents.to_vec(), labels: Labels::new() };
            let above = parents.iter().map(|n| store.fs_path(*n));
            let lower = Lower { layers: above.chain(served.layers.clone()).collect(), ..served.clone() };
            let mut all = options.mounts(&store, &layers, &lower).unwrap();
            assert_eq!(all.len(), 1);
            let m = all.remove(0);
            format!("{} {} {}", m.kind, m.source, m.options.join(" ")).replace(&root, "R")
        };
        let mounts = |options, kind, parents: &[u64]| over(options, kind, parents, &Lower::default());
        let plain = OverlayOptions::default();
        assert_eq!(mounts(plain, Kind::Active, &[]), "bind R/snapshots/9/fs rw rbind");
        assert_eq!(mounts(plain, Kind::View, &[]), "bind R/snapshots/9/fs ro rbind");
        assert_eq!(mounts(plain, Kind::View, &[3]), "bind R/snapshots/3/fs ro rbind");
        let (upper, work) = ("upperdir=R/snapshots/9/fs", "workdir=R/snapshots/9/work");
        assert_eq!(
            mounts(plain, Kind::Active, &[3]),
            format!("overlay overlay {upper} lowerdir=R/snapshots/3/fs {work}")
        );
        let all = OverlayOptions { index_off: true, redirect_dir: true, directly: true };
        let lower = "lowerdir=R/snapshots/3/fs:R/snapshots/2/fs";
        assert_eq!(
            mounts(all, Kind::Active, &[3, 2]),
            format!("overlay overlay index=off redirect_dir=on {upper} {lower} {work}")
        );
        assert_eq!(
            mounts(all, Kind::View, &[3, 2]),
            format!("overlay overlay index=off redirect_dir=follow {lower}")
        );

        let served = Lower {
            layers: vec!["/metadata".into()],
            data_only: vec!["/objects".into(), "/missing".into()],
            merged: Some("/merged".into()),
        };
        let directly = OverlayOptions { directly: true, ..plain };
        assert_eq!(over(directly, Kind::View, &[], &served), "bind /merged ro rbind");
        assert_eq!(
            over(directly, Kind::View, &[3], &served),
            "overlay overlay lowerdir=R/snapshots/3/fs:/merged"
        );
        assert_eq!(
            over(plain, Kind::Active, &[], &served),
            format!("overlay overlay {upper} lowerdir=/merged {work}")
        );
        let bare = "lowerdir=R/snapshots/3/fs:/metadata::/objects::/missing";
        assert_eq!(
            over(directly, Kind::Active, &[3], &served),
            format!("overlay overlay {upper} lowerdir=R/snapshots/3/fs:/merged {work},{bare}")
        );
        // What containerd would have to shorten lies on directories alone.
        let many: Vec<u64> = (1000..1100).collect();
        let mounted = over(directly, Kind::Active, &many, &served);
        assert!(mounted.ends_with(&format!("/fs:/merged {work}")), "{mounted}");
    }

    #[test]
    fn roots_that_break_mount_options_are_refused() {
        assert!(check_root(Path::new("/var/lib/di3fs")).is_ok());
        for bad in ["/a:b", "/a,b", "/a\\b", "/a\nb"] {
            assert!(check_root(Path::new(bad)).unwrap_err().to_string().starts_with("config: root: "));
        }
    }
}
