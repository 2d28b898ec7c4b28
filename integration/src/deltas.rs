//! The delta files of a series, made once for each build of `d4c` and kept in the cache.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::images::{Series, TAGS, cache};
use crate::program::{built, d4c};
use crate::tree::sha256;

/// Files of builds that were not used for so long are removed.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A base file and a delta for each further release of the series of that name, at the default level. They are everyone's: not
/// to be written to.
///
/// # Errors
/// Fails when `d4c` does, or the cache cannot be written to.
pub fn deltas(name: &str) -> Result<Vec<String>> {
    let series = Series::named(name)?;
    let program = sha256(&built("d4c"))?;
    let images = sha256(&series.layout().join("index.json"))?;
    let all = cache().join("deltas");
    let build = all.join(&program[..16]);
    let dir = build.join(format!("{name}-{}", &images[..16]));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // One makes them, and the others of this moment wait.
    let lock = dir.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    File::open(&build)?.set_modified(SystemTime::now())?;
    remove_old(&all)?;
    let file = |tag: &str| dir.join(format!("{tag}.cdimg")).to_string_lossy().into_owned();
    if !PathBuf::from(file(TAGS[0])).exists() {
        d4c(["convert", &series.source(TAGS[0]), &file(TAGS[0])])?.success()?;
    }
    for pair in TAGS.windows(2) {
        if !PathBuf::from(file(pair[1])).exists() {
            d4c(["diff", &series.source(pair[0]), &series.source(pair[1]), &file(pair[1])])?.success()?;
        }
    }
    Ok(TAGS.iter().map(|tag| file(tag)).collect())
}

fn remove_old(all: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > KEPT {
            // Another test may be doing the same.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}
