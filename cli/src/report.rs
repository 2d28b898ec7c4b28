//! A delta file in numbers, for people and as the object of `stat --json`.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use d4c_image::manifest::Document;
use dimg::format::{DeltaFile, Stat};
use serde_json::Value;

use crate::failure::{Failure, Kind};
use crate::image::Delta;
use crate::units::Bytes;

/// The numbers of a file, what pulling would have cost included.
///
/// # Errors
/// The file is damaged.
pub(crate) fn stat(delta: &Delta) -> Result<Stat, Failure> {
    let mut stat = Stat::of(&delta.file, delta.bytes).map_err(Failure::delta(&delta.path))?;
    stat.pull_bytes = pull_bytes(&delta.file);
    Ok(stat)
}

/// The object of `stat --json`.
///
/// # Errors
/// It cannot be written as JSON, which does not happen to numbers and digests.
pub(crate) fn json(path: &Path, stat: &Stat) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(stat)
        .map_err(|error| Failure::new(Kind::Failed, "write JSON", path.display(), error))?;
    value["file"] = path.display().to_string().into();
    Ok(value)
}

/// Compressed bytes of the target's layers that the parent does not have, as the manifest in the file names them.
fn pull_bytes(file: &DeltaFile) -> Option<u64> {
    let Ok(Document::Image(manifest)) = Document::parse(file.cdimg()?.manifest(), "manifest") else {
        return None;
    };
    let parent: HashSet<_> =
        file.dimg().parent().into_iter().flat_map(|parent| parent.layers.iter().copied()).collect();
    let layers = manifest.layers.iter().zip(file.dimg().target().diff_ids());
    Some(layers.filter(|(_, diff_id)| !parent.contains(diff_id)).map(|(layer, _)| layer.size).sum())
}

/// One line of a file just made.
pub(crate) fn line(path: &Path, stat: &Stat) -> String {
    let contents = &stat.contents;
    let mut line = format!(
        "{}: {}, {} new, {} patched, {} reused contents",
        path.display(),
        Bytes(stat.bytes),
        contents.new,
        contents.patched,
        contents.reused
    );
    if let Some(pull) = stat.pull_bytes {
        let _ = write!(line, "; a pull is {}", Bytes(pull));
    }
    line.push('\n');
    line
}

/// The table of `stat`.
pub(crate) fn table(path: &Path, stat: &Stat) -> String {
    let mut text = format!("{}\n", path.display());
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    row("format", stat.format.to_owned());
    row("size", format!("{:>12}", Bytes(stat.bytes)));
    row("metadata", format!("{:>12}", Bytes(stat.metadata_bytes)));
    row("data", format!("{:>12}", Bytes(stat.data_bytes)));
    row("makes", format!("{:>12}", Bytes(stat.full_bytes)));
    if let Some(pull) = stat.pull_bytes {
        row("pull", format!("{:>12}", Bytes(pull)));
    }
    let contents = &stat.contents;
    row("new", format!("{:>12}  in {}", contents.new, Bytes(contents.stored_bytes)));
    row("patched", format!("{:>12}  in {}", contents.patched, Bytes(contents.patch_bytes)));
    row("reused", format!("{:>12}", contents.reused));
    for (name, codec) in &stat.by_codec {
        let (contents, bytes, made) = (codec.contents, Bytes(codec.bytes), Bytes(codec.made_bytes));
        row(&format!("  {name}"), format!("{contents:>12}  in {bytes}, making {made}"));
    }
    text
}

/// The listing of `show`.
pub(crate) fn listing(path: &Path, stat: &Stat) -> String {
    let mut text = format!("{}: {}, {}\n", path.display(), stat.format, Bytes(stat.bytes));
    let _ = writeln!(text, "target  manifest {}", stat.target.manifest);
    let _ = writeln!(text, "        config   {}", stat.target.config);
    for (number, layer) in stat.target.layers.iter().enumerate() {
        let of = if layer.same { "  (the parent's)" } else { "" };
        let (diff_id, entries, bytes) = (&layer.diff_id, layer.entries, Bytes(layer.tar_bytes));
        let _ = writeln!(text, "  layer {number:<3} {diff_id} {entries:>7} entries {bytes:>10}{of}");
    }
    match &stat.parent {
        None => text.push_str("parent  none: a base image\n"),
        Some(parent) => {
            let _ = writeln!(text, "parent  manifest {}", parent.manifest);
            for (number, diff_id) in parent.layers.iter().enumerate() {
                let _ = writeln!(text, "  layer {number:<3} {diff_id}");
            }
        }
    }
    let contents = &stat.contents;
    let all = contents.new + contents.patched + contents.reused;
    let _ = writeln!(
        text,
        "contents {all}: {} new, {} patched, {} reused",
        contents.new, contents.patched, contents.reused
    );
    for (name, codec) in &stat.by_codec {
        let (contents, bytes, made) = (codec.contents, Bytes(codec.bytes), Bytes(codec.made_bytes));
        let _ = writeln!(text, "  {name:<10}{contents:>8} in {bytes:>10}, making {made:>10}");
    }
    let (metadata, data) = (Bytes(stat.metadata_bytes), Bytes(stat.data_bytes));
    let _ = writeln!(text, "bytes   {metadata} metadata, {data} data");
    text
}
