//! An index and its contents into the tar again.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};

use dimg::index::{Content, Entry, Extent, LayerIndex, Shape};
use dimg::{Digest, Hasher};

use super::block::BLOCK;
use super::build::{Kept, build};
use super::error::WriteError;
use super::indexer::PADDING;
use super::member::{self, Member, is_xattr};
use super::style::{MAX_STYLE_BYTES, Style};

/// Opens a content, expanded when it is a sparse file's.
pub type OpenContent<'a> = dyn FnMut(&Content) -> io::Result<Box<dyn Read + 'a>> + 'a;

const COPY_BYTES: usize = 256 << 10;

/// Writes the tar that `index` was made from; returns its bytes. Contents are streamed, in the order of the entries.
///
/// # Errors
/// `open`, a content or `out` fails; a content has another size than the index says; the index is not one of a tar
/// (see [`WriteError::Entry`]). That contents have their digests is not checked here: the tar's digest tells.
pub fn write(index: &LayerIndex, open: &mut OpenContent<'_>, out: &mut dyn Write) -> Result<u64, WriteError> {
    let mut writer = Writer { out, bytes: 0, buffer: vec![0; COPY_BYTES] };
    let mut headers = Headers::new(index);
    for number in 0..index.entries.len() {
        let entry = &index.entries[number];
        let padding = headers.build(number)?;
        writer.put(&headers.built)?;
        if let Some(content) = entry.content {
            writer.content(&content, index.shape(entry).sparse.then_some(&*entry.sparse), open)?;
        }
        writer.put(&padding)?;
    }
    check_tail(index)?;
    writer.zeros(index.tail.zero_bytes)?;
    writer.put(&index.tail.rest)?;
    writer.out.flush().map_err(WriteError::Output)?;
    Ok(writer.bytes)
}

/// SHA-256 of the tar that `index` was made from.
///
/// # Errors
/// As for [`write`].
pub fn diff_id(index: &LayerIndex, open: &mut OpenContent<'_>) -> Result<Digest, WriteError> {
    let mut hasher = Hasher::new();
    write(index, open, &mut hasher)?;
    Ok(hasher.finish())
}

/// Bytes of the tar that `index` was made from; no content is read.
///
/// # Errors
/// The index is not one of a tar.
pub fn tar_bytes(index: &LayerIndex) -> Result<u64, WriteError> {
    let mut headers = Headers::new(index);
    let mut bytes = 0u64;
    let mut add = |count: u64| {
        bytes = bytes.checked_add(count).ok_or(WriteError::Tail("the tar exceeds 64 bits of length"))?;
        Ok(())
    };
    for (number, entry) in index.entries.iter().enumerate() {
        let padding = headers.build(number)?;
        add(headers.built.len() as u64 + padding.len() as u64)?;
        add(data_bytes(index.shape(entry), entry))?;
    }
    check_tail(index)?;
    add(index.tail.zero_bytes)?;
    add(index.tail.rest.len() as u64)?;
    Ok(bytes)
}

fn data_bytes(shape: &Shape, entry: &Entry) -> u64 {
    match shape.sparse {
        true => entry.sparse.iter().fold(0, |sum, extent| sum.saturating_add(extent.bytes)),
        false => entry.content.map_or(0, |content| content.size),
    }
}

/// What follows the members must end the tar for every reader, or members could hide there.
fn check_tail(index: &LayerIndex) -> Result<(), WriteError> {
    let block = BLOCK as u64;
    match (index.tail.zero_bytes, index.tail.rest.first()) {
        (_, Some(0)) => Err(WriteError::Tail("zeros stand among other bytes")),
        (zeros, Some(_)) if zeros < 2 * block => {
            Err(WriteError::Tail("bytes follow that no end marker precedes"))
        }
        (zeros, None) if zeros < 2 * block && zeros % block != 0 => {
            Err(WriteError::Tail("the end marker is cut short"))
        }
        _ => Ok(()),
    }
}

/// Header blocks of an index's entries.
struct Headers<'a> {
    index: &'a LayerIndex,
    /// Styles by shape, decoded when first used.
    styles: Vec<Option<Style>>,
    built: Vec<u8>,
}

impl<'a> Headers<'a> {
    fn new(index: &'a LayerIndex) -> Self {
        Self { index, styles: vec![None; index.shapes.len()], built: Vec::new() }
    }

    /// Builds the headers of an entry into `self.built`, checks that they say what the entry does, and returns the
    /// padding that follows the content.
    fn build(&mut self, number: usize) -> Result<Vec<u8>, WriteError> {
        let entry = &self.index.entries[number];
        let misfit = |why| WriteError::Entry { entry: number, why };
        let place = usize::try_from(entry.shape).unwrap_or(usize::MAX);
        let shape = self.index.shapes.get(place).ok_or_else(|| misfit("no such shape"))?;
        if shape.pax_keys.len() != entry.pax.len() {
            return Err(misfit("more or fewer values than its shape has keys"));
        }
        self.built.clear();
        let (mut keys, mut values) = (&shape.pax_keys[..], &entry.pax[..]);
        let mut padding = None;
        if let ([others @ .., key], [other_values @ .., value]) = (keys, values)
            && **key == *PADDING
        {
            (keys, values, padding) = (others, other_values, Some(&**value));
        }
        if shape.raw {
            if !keys.iter().all(|key| is_xattr(key)) {
                return Err(misfit("raw headers with kept values that are no extended attributes"));
            }
            self.built.extend_from_slice(&entry.raw);
        } else {
            if self.styles[place].is_none() {
                let style = Some(&shape.style).filter(|style| style.len() <= MAX_STYLE_BYTES);
                let style = style.and_then(|style| Style::decode(style).ok());
                self.styles[place] = Some(style.ok_or_else(|| misfit("its style is malformed"))?);
            }
            let style = self.styles[place].as_ref().expect("it has been decoded just now");
            let mut kept = Kept::new(keys, values);
            build(style, entry, &mut kept, &mut self.built).map_err(misfit)?;
            if !kept.is_empty() {
                return Err(misfit("more kept values than the style has"));
            }
        }
        self.check(entry, shape).map_err(misfit)?;
        self.padding(number, data_bytes(shape, entry), padding).map_err(misfit)
    }

    /// Whether a reader of the headers sees what a reader of the entry sees.
    fn check(&self, entry: &Entry, shape: &Shape) -> Result<(), &'static str> {
        let member = member::read(&self.built, 0).map_err(|_| "its headers are malformed")?;
        if member.data_at != self.built.len() {
            return Err("its headers are not as long as they say");
        }
        if !same(&member, entry, shape) || !same_xattrs(&member, entry, self.index) {
            return Err("its headers say something else");
        }
        Ok(())
    }

    fn padding(&self, number: usize, data_bytes: u64, kept: Option<&[u8]>) -> Result<Vec<u8>, &'static str> {
        let count = usize::try_from(data_bytes.wrapping_neg() % BLOCK as u64).unwrap_or_default();
        let last = || {
            let tail = &self.index.tail;
            number + 1 == self.index.entries.len() && tail.zero_bytes == 0 && tail.rest.is_empty()
        };
        match kept {
            None => Ok(vec![0; count]),
            Some(kept) if kept.len() == count || kept.len() < count && last() => Ok(kept.to_vec()),
            Some(_) => Err("its padding has the wrong length"),
        }
    }
}

fn same(member: &Member<'_>, entry: &Entry, shape: &Shape) -> bool {
    let read = &member.entry;
    let sizes = |entry: &Entry| (entry.content.map(|content| content.size), entry.bare_size);
    let numbers = |entry: &Entry| {
        (entry.mode, entry.uid, entry.gid, entry.mtime, entry.mtime_nsec, entry.dev_major, entry.dev_minor)
    };
    (member.kind, member.sparse) == (shape.kind, shape.sparse)
        && numbers(read) == numbers(entry)
        && sizes(read) == sizes(entry)
        && read.path == entry.path
        && read.link == entry.link
        && read.uname == entry.uname
        && read.gname == entry.gname
        && read.sparse == entry.sparse
}

fn same_xattrs(member: &Member<'_>, entry: &Entry, index: &LayerIndex) -> bool {
    let read = member.xattrs();
    if read.is_empty() {
        return index.xattrs(entry).next().is_none();
    }
    let read: BTreeMap<_, _> =
        read.iter().map(|record| (&record.key[b"SCHILY.xattr.".len()..], record.value)).collect();
    index.xattrs(entry).count() == read.len()
        && index.xattrs(entry).all(|(key, value)| read.get(key) == Some(&value))
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(WriteError::Output)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), WriteError> {
        self.buffer.fill(0);
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            self.out.write_all(&self.buffer[..now]).map_err(WriteError::Output)?;
            self.bytes += now as u64;
            count -= now as u64;
        }
        Ok(())
    }

    /// Copies a content, of a sparse one just the runs.
    fn content(
        &mut self,
        content: &Content,
        extents: Option<&[Extent]>,
        open: &mut OpenContent<'_>,
    ) -> Result<(), WriteError> {
        if content.size == 0 {
            return Ok(());
        }
        let failed = |source| WriteError::Content { content: *content, source };
        let mut from = Reader { content: *content, from: open(content).map_err(failed)? };
        let mut at = 0;
        for extent in extents.map_or(&[Extent { offset: 0, bytes: content.size }][..], |extents| extents) {
            from.read(extent.offset - at, &mut self.buffer, |_| Ok(()))?;
            let (out, bytes) = (&mut *self.out, &mut self.bytes);
            from.read(extent.bytes, &mut self.buffer, |data| {
                *bytes += data.len() as u64;
                out.write_all(data).map_err(WriteError::Output)
            })?;
            at = extent.offset + extent.bytes;
        }
        from.read(content.size - at, &mut self.buffer, |_| Ok(()))?;
        from.end()
    }
}

struct Reader<'a> {
    content: Content,
    from: Box<dyn Read + 'a>,
}

impl Reader<'_> {
    fn read(
        &mut self,
        mut count: u64,
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(buffer.len()).min(buffer.len());
            let got = self.some(&mut buffer[..most])?;
            if got == 0 {
                return Err(WriteError::Size { content: self.content, why: "it is shorter" });
            }
            each(&buffer[..got])?;
            count -= got as u64;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), WriteError> {
        match self.some(&mut [0])? {
            0 => Ok(()),
            _ => Err(WriteError::Size { content: self.content, why: "it is longer" }),
        }
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        loop {
            match self.from.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|source| WriteError::Content { content: self.content, source });
                }
            }
        }
    }
}
