//! What is remembered of a registry between pulls, so that the next one asks less: that it speaks plain HTTP, and where it keeps lists of
//! referrers.
//!
//! All of it is a hint, in a small file (JSON) that may be lost, old or wrong: whoever goes by it finds out, and asks as if nothing had been
//! known. No credential is in it, and none is sent because of it. Writers do not wait for each other; the last one's file stays.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

/// Registries that the file has; those that were learned first go.
const MAX_KNOWN: usize = 256;
/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;
/// How long what was learned is gone by: registries are replaced by others, and learn the API.
const MAX_AGE_SECONDS: u64 = 7 * 24 * 3600;

/// Where a registry keeps lists of referrers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Lists {
    /// It has the referrers API.
    Api,
    /// At tags of the fallback.
    Tag,
}

/// What is known of a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// It does not speak TLS.
    #[serde(default)]
    pub(super) plain: bool,
    #[serde(default)]
    pub(super) lists: Option<Lists>,
    /// When this was learned, in seconds since 1970.
    #[serde(default)]
    since: u64,
}

type All = BTreeMap<String, Known>;

/// What is remembered of one registry.
#[derive(Debug)]
pub(super) struct Memory {
    /// None: nothing outlives this process.
    path: Option<PathBuf>,
    registry: String,
    known: Mutex<Known>,
}

impl Memory {
    /// What the file at `path` has of `registry`, `host[:port]`. One that cannot be read has nothing.
    pub(super) fn open(path: Option<&Path>, registry: &str) -> Self {
        let known = path.and_then(|path| read(path).remove(registry)).unwrap_or_default();
        Self { path: path.map(Path::to_owned), registry: registry.to_owned(), known: Mutex::new(known) }
    }

    pub(super) fn known(&self) -> Known {
        *self.lock()
    }

    /// Remembers what `change` makes of what was known. That it cannot be written costs the next pull a question, and nobody else anything.
    pub(super) fn learn(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.lock();
        let before = *known;
        change(&mut known);
        if *known == before {
            return;
        }
        known.since = now();
        if let Some(path) = &self.path {
            let _ = write(path, &self.registry, *known);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What is not too old.
fn read(path: &Path) -> All {
    let fits = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES);
    let bytes = if fits { fs::read(path).unwrap_or_default() } else { Vec::new() };
    let mut all: All = serde_json::from_slice(&bytes).unwrap_or_default();
    let now = now();
    all.retain(|_, known| now.saturating_sub(known.since) < MAX_AGE_SECONDS && known.since <= now);
    all
}

fn write(path: &Path, registry: &str, known: Known) -> std::io::Result<()> {
    let mut all = read(path);
    all.insert(registry.to_owned(), known);
    while all.len() > MAX_KNOWN {
        let oldest = all.iter().min_by_key(|(_, known)| known.since).map(|(name, _)| name.clone());
        oldest.and_then(|name| all.remove(&name));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(&all)?)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/registries.json");
        let open = |name: &str| Memory::open(Some(&path), name);
        assert_eq!(open("a:1").known(), Known::default());
        open("a:1").learn(|known| known.plain = true);
        open("b").learn(|known| known.lists = Some(Lists::Tag));
        open("a:1").learn(|known| known.lists = Some(Lists::Api));
        let (a, b) = (open("a:1").known(), open("b").known());
        assert_eq!((a.plain, a.lists, b.plain, b.lists), (true, Some(Lists::Api), false, Some(Lists::Tag)));
        assert_eq!(open("c").known(), Known::default());
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        open("b").learn(|known| known.lists = Some(Lists::Tag));
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written, "nothing new");
        // Without a file it is known to this one only.
        let alone = Memory::open(None, "a:1");
        alone.learn(|known| known.plain = true);
        assert!(alone.known().plain && !Memory::open(None, "a:1").known().plain);
    }

    #[test]
    fn files_that_are_old_damaged_or_large_know_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.json");
        let plain = |text: String| {
            fs::write(&path, text).unwrap();
            Memory::open(Some(&path), "a").known().plain
        };
        let of = |since: u64| format!(r#"{{"a":{{"plain":true,"since":{since}}}}}"#);
        assert!(plain(of(now() - 60)));
        assert!(!plain(of(now() - MAX_AGE_SECONDS)) && !plain(of(now() + 3600)));
        assert!(!plain("{".into()) && !plain(of(now()) + &" ".repeat(1 << 20)));
        let many: All = (0..=MAX_KNOWN)
            .map(|number| (format!("r{number}"), Known { since: now() - 1, ..Known::default() }))
            .collect();
        fs::write(&path, serde_json::to_vec(&many).unwrap()).unwrap();
        Memory::open(Some(&path), "new").learn(|known| known.plain = true);
        let left = read(&path);
        assert!(left.len() == MAX_KNOWN && left.contains_key("new"));
    }
}
