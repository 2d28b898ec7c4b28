//! What `push`, `diff` to a registry and `publish` share: the repository, and a delta published there.

use std::fs::File;
use std::path::Path;

use d4c_image::delta::{self, NewDelta, Published};
use d4c_image::registry::{Access, Repository};
use d4c_image::source::{Reference, Source};
use d4c_sys::Map;
use dimg::Digest;
use dimg::format::Stat;
use serde_json::json;

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::{Delta, RegistryArgs};
use crate::progress::{Progress, Unit};
use crate::units::Bytes;

/// What makes a source of a reference.
pub(super) const SCHEME: &str = "docker://";

/// The reference that `text` is, with or without `docker://`.
///
/// # Errors
/// It is none.
pub(super) fn reference(text: &str) -> Result<Reference, Failure> {
    let whole = if text.starts_with(SCHEME) { text.to_owned() } else { format!("{SCHEME}{text}") };
    match Source::parse(&whole)? {
        Source::Registry(reference) => Ok(reference),
        _ => Err(Failure::usage(text, "not a reference to a repository")),
    }
}

/// The repository that `text` names, with or without `docker://`, to be written to.
///
/// # Errors
/// It is no reference, or the registry cannot be reached as configured.
pub(super) fn repository(text: &str, registry: &RegistryArgs) -> Result<Repository, Failure> {
    let reference = reference(text)?;
    let name = format!("{SCHEME}{}/{}", reference.registry(), reference.repository());
    Ok(Repository::open(&reference, Access::Push, &registry.options(), name)?)
}

/// Publishes the cdimg in `file`, which is at `path` or was meant for there, unless the pair is there already; what the repository has
/// then, and whether it was put there now.
///
/// # Errors
/// The file is no cdimg; the registry refuses it or does not have the image that it makes.
pub(super) fn put(
    repository: &Repository,
    (file, path): (File, &Path),
    progress: &Progress,
) -> Result<(Published, bool), Failure> {
    let opened = Delta::of(&file, path)?;
    let Some(cdimg) = opened.file.cdimg() else {
        let why = "a dimg has no manifest and config; d4c pack adds them";
        return Err(Failure::usage(path.display(), why));
    };
    let stat = Stat::of(&opened.file, opened.bytes).map_err(Failure::delta(path))?;
    let new = NewDelta::of(cdimg, stat.full_bytes)?;
    let source = new.source.map(|source| source.manifest);
    progress.stage("look for deltas", Unit::Bytes, 0);
    delta::require(repository, new.subject.digest)?;
    if let Some(there) = delta::find(repository, new.subject.digest, source)? {
        return Ok((there, false));
    }
    progress.stage(format!("push {}", path.display()), Unit::Bytes, opened.bytes);
    let map = Map::file(&file).map_err(Failure::io("read file", path))?;
    map.advise_sequential();
    let digest = Digest::of(&map);
    Ok((delta::publish(repository, &new, (file, digest), Some(progress.on_bytes()))?, true))
}

/// Says what the repository has, and whether it was put there now.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn report(
    repository: &Repository,
    published: &Published,
    pushed: bool,
    config: &Config,
) -> Result<(), Failure> {
    let source = published.source.map(|source| source.manifest.to_string());
    let value = json!({
        "repository": repository.name(),
        "manifest": published.manifest.to_string(),
        "target": published.target.to_string(),
        "source": source,
        "bytes": published.bytes,
        "pushed": pushed,
    });
    config.output.report(&value, || {
        let (name, bytes) = (repository.name(), Bytes(published.bytes));
        let from = source.as_deref().unwrap_or("nothing");
        let done = if pushed { "pushed" } else { "there already" };
        format!("{name}: delta from {from} to {}, {bytes}: {done}\n", published.target)
    })
}

/// The file to publish.
///
/// # Errors
/// It is not there, or a pipe.
pub(super) fn open(path: &Path) -> Result<File, Failure> {
    const WHAT: &str = "read file";
    let file = File::open(path).map_err(Failure::io(WHAT, path))?;
    let meta = file.metadata().map_err(Failure::io(WHAT, path))?;
    if !meta.is_file() {
        return Err(Failure::new(Kind::Usage, WHAT, path.display(), "not a regular file"));
    }
    Ok(file)
}
