//! What mounts whose process was killed left in the temporary directory: `.d4c-mount.….d4c`, objects for the most part.
//!
//! A mount has its directory locked as long as its process lives. What the process made can be opened as long as the image
//! is mounted, so one is removed only when nobody has it locked, no mount of any process comes from it, and it is old enough to
//! be none that is about to be locked.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dimg::Digest;

/// Directories younger than this may not be locked yet.
const NEW: Duration = Duration::from_secs(60);

/// The start of the name of a mount's directory, without the dot.
pub(super) const NAME: &str = "d4c-mount";

/// Removes what is surely nobody's in `dir`. What cannot be looked at or removed stays, with a line in the log.
pub(super) fn sweep(dir: &Path) {
    sweep_old(dir, NEW, mounts);
}

fn sweep_old(dir: &Path, age: Duration, mounts: impl FnOnce() -> Option<String>) {
    let mut left: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_ours(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((abandoned(&entry.path(), age)?, entry)))
        .collect();
    if left.is_empty() {
        return;
    }
    let Some(mounts) = mounts() else { return };
    left.retain(|(_, entry)| !mounts.contains(&*entry.file_name().to_string_lossy()));
    for (_lock, entry) in left {
        let path = entry.path();
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what a killed mount left"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "what a killed mount left stays"),
        }
    }
}

fn is_ours(name: &str) -> bool {
    let random = name.strip_prefix('.').and_then(|name| name.strip_prefix(NAME));
    let random = random.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".d4c"));
    random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The directory locked for us, if it is an old one of ours that nobody has locked.
fn abandoned(path: &Path, age: Duration) -> Option<File> {
    let meta = fs::symlink_metadata(path).ok()?;
    let old = SystemTime::now().duration_since(meta.modified().ok()?).is_ok_and(|since| since >= age);
    if !meta.is_dir() || meta.uid() != fs::metadata("/proc/self").ok()?.uid() || !old {
        return None;
    }
    let dir = File::open(path).ok()?;
    dir.try_lock().ok()?;
    Some(dir)
}

/// The mounts that processes see, equal lists once; none when one cannot be read.
fn mounts() -> Option<String> {
    let (mut seen, mut text) = (HashSet::new(), String::new());
    for entry in fs::read_dir("/proc").ok()? {
        let process = entry.ok()?.path();
        let name = process.file_name().unwrap_or_default().to_string_lossy();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        match fs::read(process.join("mountinfo")) {
            Ok(list) if seen.insert(Digest::of(&list)) => text.push_str(&String::from_utf8_lossy(&list)),
            Ok(_) => {}
            // One that has ended, if it was not collected yet.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {}
            Err(_) if !process.exists() => {}
            Err(_) => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_nobodys_goes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("store/objects")).unwrap();
            path
        };
        let [dead, mounted, alive] =
            [0, 1, 2].map(|number| make(&format!(".d4c-mount.000000000000000{number}.d4c")));
        let others = [".d4c-mount.d4c", ".d4c-mount.1.d4c", "d4c-mount.0000000000000001.d4c"].map(make);
        let lock = File::open(&alive).unwrap();
        lock.try_lock().unwrap();
        sweep_old(dir.path(), NEW, || panic!("all are new"));
        sweep_old(dir.path(), Duration::ZERO, || None);
        assert!(dead.exists());
        let line =
            format!("1 2 0:1 / /mnt ro - overlay overlay ro,lowerdir+={}/mount/0\n", mounted.display());
        sweep_old(dir.path(), Duration::ZERO, || Some(line));
        assert!(!dead.exists() && mounted.exists() && alive.exists());
        assert!(others.iter().all(|other| other.exists()));
    }
}
