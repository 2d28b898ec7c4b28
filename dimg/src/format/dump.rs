//! A file as text, one line for each thing in it: stable, so that two files can be compared line by line.

use super::{DeltaFile, Dimg, DimgError, LayerSource};
use crate::index::edit::{Change, ContentRef, Edit, Edited, LayerEdit, NewEntry, Place, Run, Value};
use crate::index::{Entry, Extent, Kind, Shape};
use std::fmt::{self, Display, Write as _};
use std::io::Write;

/// Bytes as text: printing ASCII as it is, the rest as `\xNN`.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'!'..=b'~' if byte != b'\\' && byte != b'"' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.layer, self.entry)
    }
}

impl Display for ContentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::New(number) => write!(f, "new:{number}"),
            Self::Parent(place) => write!(f, "parent:{place}"),
        }
    }
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Regular => "regular".to_owned(),
        Kind::HardLink => "hardlink".to_owned(),
        Kind::Symlink => "symlink".to_owned(),
        Kind::CharDevice => "char-device".to_owned(),
        Kind::BlockDevice => "block-device".to_owned(),
        Kind::Directory => "directory".to_owned(),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Other(flag) => format!("other:{}", Escaped(&[flag])),
    }
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 { seconds.to_string() } else { format!("{seconds}.{nanoseconds:09}") }
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(",")
}

fn extents(extents: &[Extent]) -> String {
    list(extents, |extent| format!("{}+{}", extent.offset, extent.bytes))
}

struct Out<'a>(&'a mut dyn Write);

impl Out<'_> {
    fn line(&mut self, line: fmt::Arguments<'_>) -> Result<(), DimgError> {
        writeln!(self.0, "{line}").map_err(DimgError::Output)
    }
}

/// Writes all that `file` says to `out`. Frames are listed, not decoded.
///
/// # Errors
/// The file is damaged, or `out` fails.
pub fn dump(file: &DeltaFile, out: &mut dyn Write) -> Result<(), DimgError> {
    let mut out = Out(out);
    if let Some(cdimg) = file.cdimg() {
        out.line(format_args!("cdimg version={}", super::VERSION))?;
        out.line(format_args!("manifest bytes={}", cdimg.manifest().len()))?;
        out.line(format_args!("config bytes={}", cdimg.config().len()))?;
    }
    let dimg = file.dimg();
    head(dimg, &mut out)?;
    let edit = dimg.edit()?;
    for (number, item) in edit.shapes.iter().enumerate() {
        shape(number, item, &mut out)?;
    }
    for (number, layer) in edit.layers.iter().enumerate() {
        if let LayerEdit::Edited(edited) = layer {
            edited_layer(number, edited, edit, &mut out)?;
        }
    }
    for (number, (content, recipe)) in dimg.contents()?.enumerate() {
        let mut line = format!("content {number} {} bytes={} base=", content.digest, content.size);
        match recipe.base {
            None => line.push_str("none"),
            Some(place) => line.push_str(&place.to_string()),
        }
        let stages = list(&recipe.stages, |stage| {
            let (codec, version, bytes) = (stage.codec, stage.version, stage.out_bytes);
            match codec.has_frame() {
                true => {
                    let (frame, slot) = (stage.frame, stage.slot);
                    format!("{codec}.{version}:frame={frame}:slot={slot}:bytes={bytes}")
                }
                false => format!("{codec}.{version}:bytes={bytes}"),
            }
        });
        out.line(format_args!("{line} stages={stages}"))?;
    }
    for (number, frame) in dimg.frames()?.iter().enumerate() {
        let (name, offset, bytes, check) = (frame.kind.name(), frame.offset, frame.bytes, frame.check);
        out.line(format_args!("frame {number} {name} offset={offset} bytes={bytes} check={check:08x}"))?;
    }
    Ok(())
}

fn head(dimg: &Dimg, out: &mut Out<'_>) -> Result<(), DimgError> {
    out.line(format_args!("dimg version={} bytes={}", super::VERSION, dimg.bytes()))?;
    for section in dimg.sections() {
        out.line(format_args!("{} offset={} bytes={}", section.name, section.offset, section.bytes))?;
    }
    let target = dimg.target();
    out.line(format_args!("target manifest={} config={}", target.manifest, target.config))?;
    let name = Escaped(target.name.as_bytes());
    out.line(format_args!("target contents={} name={name}", target.contents))?;
    for (number, layer) in target.layers.iter().enumerate() {
        let source = match layer.source {
            LayerSource::Parent(same) => format!("same={same}"),
            LayerSource::Made { id } => format!("id={id}"),
        };
        out.line(format_args!(
            "layer {number} diff_id={} entries={} tar_bytes={} {source}",
            layer.diff_id, layer.entries, layer.tar_bytes
        ))?;
    }
    if let Some(parent) = dimg.parent() {
        out.line(format_args!("parent manifest={}", parent.manifest))?;
        for (number, diff_id) in parent.layers.iter().enumerate() {
            out.line(format_args!("parent layer {number} diff_id={diff_id}"))?;
        }
    }
    Ok(())
}

fn shape(number: usize, shape: &Shape, out: &mut Out<'_>) -> Result<(), DimgError> {
    let mut line = format!("shape {number} {}", kind(shape.kind));
    for (is, name) in [(shape.raw, " raw"), (shape.sparse, " sparse")] {
        line.push_str(if is { name } else { "" });
    }
    if !shape.pax_keys.is_empty() {
        line.push_str(" pax=");
        line.push_str(&list(&shape.pax_keys, |key| Escaped(key).to_string()));
    }
    out.line(format_args!("{line} style={}", Hex(&shape.style)))
}

fn edited_layer(number: usize, layer: &Edited, edit: &Edit, out: &mut Out<'_>) -> Result<(), DimgError> {
    out.line(format_args!(
        "edit {number} tail zeros={} rest={}",
        layer.tail.zero_bytes,
        Hex(&layer.tail.rest)
    ))?;
    let (mut changes, mut new) = (layer.changes.iter().peekable(), layer.new.iter());
    let mut at = 0u32;
    for run in &layer.runs {
        let end = at.saturating_add(run.count());
        match *run {
            Run::Copied { from, count } => {
                out.line(format_args!("edit {number} entry {at} copied={count} from={from}"))?;
                while let Some(change) = changes.next_if(|change| change.at < end) {
                    changed(number, change, edit, out)?;
                }
            }
            Run::New { count } => {
                for (at, entry) in (at..).zip(new.by_ref().take(count as usize)) {
                    new_entry(number, at, entry, edit, out)?;
                }
            }
        }
        at = end;
    }
    Ok(())
}

fn changed(layer: usize, change: &Change, edit: &Edit, out: &mut Out<'_>) -> Result<(), DimgError> {
    let mut line = format!("edit {layer} entry {} changed", change.at);
    for value in &change.values {
        let text = match value {
            Value::Content(content) => content_text(*content, edit),
            Value::Mtime(seconds) => seconds.to_string(),
            Value::MtimeNsec(nanoseconds) => nanoseconds.to_string(),
            Value::Mode(mode) => format!("{mode:o}"),
            Value::Shape(number) => number.to_string(),
            Value::Path(name) | Value::Link(name) | Value::Uname(name) | Value::Gname(name) => {
                Escaped(name).to_string()
            }
            Value::Pax(values) => list(values, |value| Escaped(value).to_string()),
            Value::Uid(number) | Value::Gid(number) | Value::BareSize(number) => number.to_string(),
            Value::Device(major, minor) => format!("{major}:{minor}"),
            Value::Sparse(runs) => extents(runs),
            Value::Raw(bytes) => Hex(bytes).to_string(),
        };
        line.push_str(&format!(" {}={text}", value.name()));
    }
    out.line(format_args!("{line}"))
}

fn content_text(content: ContentRef, edit: &Edit) -> String {
    match content {
        ContentRef::New(number) => match edit.new_contents.get(number as usize) {
            Some(new) => format!("{content} size={}", new.size),
            None => content.to_string(),
        },
        _ => content.to_string(),
    }
}

fn new_entry(layer: usize, at: u32, new: &NewEntry, edit: &Edit, out: &mut Out<'_>) -> Result<(), DimgError> {
    let Entry { shape, path, mode, uid, gid, uname, gname, mtime, mtime_nsec, .. } = &new.entry;
    let mut line = format!(
        "edit {layer} entry {at} new shape={shape} path={} mode={mode:o} owner={uid}:{gid} names={}:{} mtime={}",
        Escaped(path),
        Escaped(uname),
        Escaped(gname),
        time(*mtime, *mtime_nsec)
    );
    let entry = &new.entry;
    let mut more = |show: bool, text: String| {
        if show {
            line.push(' ');
            line.push_str(&text);
        }
    };
    let device = (entry.dev_major, entry.dev_minor);
    more(device != (0, 0), format!("device={}:{}", device.0, device.1));
    more(!entry.link.is_empty(), format!("link={}", Escaped(&entry.link)));
    more(!entry.pax.is_empty(), format!("pax={}", list(&entry.pax, |value| Escaped(value).to_string())));
    more(new.content != ContentRef::None, format!("content={}", content_text(new.content, edit)));
    more(entry.bare_size != 0, format!("bare_size={}", entry.bare_size));
    more(!entry.sparse.is_empty(), format!("sparse={}", extents(&entry.sparse)));
    more(!entry.raw.is_empty(), format!("raw={}", Hex(&entry.raw)));
    out.line(format_args!("{line}"))
}
