//! Columns to values.

use super::super::{ContentRef, FIELDS, NewEntry, PlaceCoder, Value};
use super::{Before, Budget, Col, LINK, PATH};
use crate::Digest;
use crate::index::columns::Columns;
use crate::index::{Content, Entry, Extent, Kind, Shape};
use crate::limits::{
    MAX_CONTENTS, MAX_NAME_BYTES, MAX_PAX_RECORDS, MAX_PAX_VALUE_BYTES, MAX_RAW_HEADER_BYTES, MAX_SHAPES,
    MAX_SPARSE_EXTENTS, MAX_STYLE_BYTES,
};
use crate::wire::{Reader, WireError};

/// Reads values from columns.
pub(in crate::index::edit) struct ValueReader<'a> {
    readers: Vec<Reader<'a>>,
    pub(in crate::index::edit) shapes: Vec<Shape>,
    names: Vec<&'a [u8]>,
    pax: Vec<&'a [u8]>,
    path: Vec<u8>,
    link: Vec<u8>,
    before: Before,
    pub(in crate::index::edit) content_places: PlaceCoder,
    pub(in crate::index::edit) contents: Vec<Content>,
    budget: Budget,
}

fn get_front_coded(
    readers: &mut [Reader<'_>],
    [prefixes, lengths, bytes]: [Col; 3],
    before: &[u8],
) -> Result<Vec<u8>, WireError> {
    let shared = readers[prefixes as usize].count(before.len(), "shared bytes of a name")?;
    let rest = readers[lengths as usize].count(MAX_NAME_BYTES - shared, "bytes of a name")?;
    let rest = readers[bytes as usize].take(rest, "name")?;
    Ok([&before[..shared], rest].concat())
}

/// An entry of a table: code 0 is the next one, read by `next`; k + 1 is number k.
pub(in crate::index::edit) fn get_from_table<T>(
    codes: &mut Reader<'_>,
    table: &mut Vec<T>,
    limit: usize,
    next: impl FnOnce() -> Result<T, WireError>,
) -> Result<usize, WireError> {
    let before = codes.clone();
    let code = codes.count(table.len(), "number in a table")?;
    if code > 0 {
        return Ok(code - 1);
    }
    if table.len() >= limit {
        return Err(before.error("number in a table", format!("the table exceeds its limit of {limit}")));
    }
    table.push(next()?);
    Ok(table.len() - 1)
}

/// Distinct values of a table of names or pax values.
const MAX_TABLE: usize = 1 << 24;

impl<'a> ValueReader<'a> {
    pub(in crate::index::edit) fn new(columns: &'a Columns) -> Self {
        Self {
            readers: columns.readers(),
            shapes: Vec::new(),
            names: Vec::new(),
            pax: Vec::new(),
            path: Vec::new(),
            link: Vec::new(),
            before: Before::default(),
            content_places: PlaceCoder::default(),
            contents: Vec::new(),
            budget: Budget::default(),
        }
    }

    pub(in crate::index::edit) fn col(&mut self, column: Col) -> &mut Reader<'a> {
        &mut self.readers[column as usize]
    }

    /// Checks that every column is used up.
    pub(in crate::index::edit) fn end(&self) -> Result<(), WireError> {
        self.readers.iter().try_for_each(Reader::end)
    }

    fn content(&mut self) -> Result<ContentRef, WireError> {
        let before = self.col(Col::Contents).clone();
        match self.col(Col::Contents).u64("content")? {
            0 => Ok(ContentRef::None),
            1 => {
                if self.contents.len() >= MAX_CONTENTS {
                    let why = format!("more than {MAX_CONTENTS} new contents");
                    return Err(before.error("content", why));
                }
                let mut digest = [0; 32];
                digest.copy_from_slice(self.col(Col::NewDigests).take(32, "digest")?);
                let size = self.col(Col::NewSizes).u64("size")?;
                let number = u32::try_from(self.contents.len());
                self.contents.push(Content { digest: Digest(digest), size });
                number.map(ContentRef::New).map_err(|_| before.error("content", "too many"))
            }
            2 => {
                let reader = &mut self.readers[Col::ContentPlaces as usize];
                Ok(ContentRef::Parent(self.content_places.get(reader, 1)?))
            }
            code => match u32::try_from(code - 3) {
                Ok(number) if (number as usize) < self.contents.len() => Ok(ContentRef::New(number)),
                _ => {
                    let why = format!("number {} of {} contents", code - 3, self.contents.len());
                    Err(before.error("content", why))
                }
            },
        }
    }

    fn mtime(&mut self) -> Result<i64, WireError> {
        self.before.mtime = self.before.mtime.wrapping_add(self.col(Col::Mtimes).i64("mtime")?);
        Ok(self.before.mtime)
    }

    /// A number that is the sum of the one before and a difference, at most `limit`.
    fn sum(&mut self, column: Col, what: &'static str, before: u32, limit: u32) -> Result<u32, WireError> {
        let reader = self.col(column);
        let at = reader.clone();
        let sum = i64::from(before).checked_add(reader.i64(what)?);
        sum.and_then(|sum| u32::try_from(sum).ok())
            .filter(|&sum| sum <= limit)
            .ok_or_else(|| at.error(what, format!("it is not within 0 and {limit}")))
    }

    fn nsec(&mut self) -> Result<u32, WireError> {
        self.before.nsec = self.sum(Col::MtimeNsecs, "nanoseconds", self.before.nsec, 999_999_999)?;
        Ok(self.before.nsec)
    }

    fn path(&mut self) -> Result<Box<[u8]>, WireError> {
        self.path = get_front_coded(&mut self.readers, PATH, &self.path)?;
        self.budget.copy(&self.path, &self.readers[Col::PathPrefixes as usize])
    }

    fn mode(&mut self) -> Result<u32, WireError> {
        self.before.mode = self.sum(Col::Modes, "mode", self.before.mode, u32::MAX)?;
        Ok(self.before.mode)
    }

    fn shape(&mut self) -> Result<u32, WireError> {
        let [codes, table] = self.two(Col::Shapes, Col::ShapeTable);
        let (mut codes, mut table) = (codes.clone(), table.clone());
        let budget = &mut self.budget;
        let number =
            get_from_table(&mut codes, &mut self.shapes, MAX_SHAPES, || get_shape(&mut table, budget))?;
        *self.col(Col::Shapes) = codes;
        *self.col(Col::ShapeTable) = table;
        Ok(u32::try_from(number).expect("MAX_SHAPES is far below 2^32"))
    }

    fn two(&mut self, a: Col, b: Col) -> [&mut Reader<'a>; 2] {
        self.readers.get_disjoint_mut([a as usize, b as usize]).expect("two different columns of the table")
    }

    fn link(&mut self) -> Result<Box<[u8]>, WireError> {
        let link = get_front_coded(&mut self.readers, LINK, &self.link)?;
        let boxed = self.budget.copy(&link, &self.readers[Col::LinkPrefixes as usize])?;
        if !link.is_empty() {
            self.link = link;
        }
        Ok(boxed)
    }

    fn pax(&mut self) -> Result<Box<[Box<[u8]>]>, WireError> {
        let count = self.col(Col::PaxCounts).count(MAX_PAX_RECORDS, "number of pax values")?;
        let mut values = Vec::with_capacity(count.min(self.col(Col::PaxValues).remaining()));
        let [codes, table] = self
            .readers
            .get_disjoint_mut([Col::PaxValues as usize, Col::PaxTable as usize])
            .expect("two different columns of the table");
        for _ in 0..count {
            let number = get_from_table(codes, &mut self.pax, MAX_TABLE, || {
                table.bytes(MAX_PAX_VALUE_BYTES, "pax value")
            })?;
            values.push(self.budget.copy_item(self.pax[number], codes)?);
        }
        Ok(values.into())
    }

    fn name(&mut self) -> Result<Box<[u8]>, WireError> {
        let [codes, table] = self
            .readers
            .get_disjoint_mut([Col::Names as usize, Col::NameTable as usize])
            .expect("two different columns of the table");
        let number = get_from_table(codes, &mut self.names, MAX_TABLE, || {
            table.bytes(MAX_NAME_BYTES, "owner's name")
        })?;
        self.budget.copy(self.names[number], codes)
    }

    fn uid(&mut self) -> Result<u64, WireError> {
        let difference = self.col(Col::Uids).i64("uid")?;
        self.before.uid = self.before.uid.wrapping_add_signed(difference);
        Ok(self.before.uid)
    }

    fn gid(&mut self) -> Result<u64, WireError> {
        let difference = self.col(Col::Gids).i64("gid")?;
        self.before.gid = self.before.gid.wrapping_add_signed(difference);
        Ok(self.before.gid)
    }

    fn device(&mut self) -> Result<(u64, u64), WireError> {
        let reader = self.col(Col::Devices);
        Ok((reader.u64("major device number")?, reader.u64("minor device number")?))
    }

    fn bare_size(&mut self) -> Result<u64, WireError> {
        self.col(Col::BareSizes).u64("bare size")
    }

    fn sparse(&mut self) -> Result<Box<[Extent]>, WireError> {
        let count = self.col(Col::SparseCounts).count(MAX_SPARSE_EXTENTS, "number of extents")?;
        let reader = &mut self.readers[Col::SparseExtents as usize];
        let mut extents = Vec::with_capacity(count.min(reader.remaining()));
        let mut end = 0u64;
        for _ in 0..count {
            let before = reader.clone();
            let (gap, bytes) = (reader.u64("gap before an extent")?, reader.u64("bytes of an extent")?);
            let offset = end.checked_add(gap);
            let next = offset.and_then(|offset| offset.checked_add(bytes));
            let (Some(offset), Some(next)) = (offset, next) else {
                return Err(before.error("extent", "it ends above 2^64"));
            };
            end = next;
            extents.push(Extent { offset, bytes });
        }
        self.budget.spend(count * size_of::<Extent>(), &self.readers[Col::SparseExtents as usize])?;
        Ok(extents.into())
    }

    fn raw(&mut self) -> Result<Box<[u8]>, WireError> {
        let count = self.col(Col::RawLengths).count(MAX_RAW_HEADER_BYTES, "bytes of headers")?;
        let bytes = self.col(Col::RawHeaders).take(count, "headers")?;
        self.budget.copy(bytes, &self.readers[Col::RawLengths as usize])
    }

    /// The values of a changed entry.
    pub(in crate::index::edit) fn values(&mut self, mask: u32) -> Result<Vec<Value>, WireError> {
        let mut values = Vec::with_capacity(mask.count_ones() as usize);
        for field in (0..FIELDS).filter(|field| mask >> field & 1 == 1) {
            values.push(match field {
                0 => Value::Content(self.content()?),
                1 => Value::Mtime(self.mtime()?),
                2 => Value::MtimeNsec(self.nsec()?),
                3 => Value::Path(self.path()?),
                4 => Value::Mode(self.mode()?),
                5 => Value::Shape(self.shape()?),
                6 => Value::Link(self.link()?),
                7 => Value::Pax(self.pax()?),
                8 => Value::Uid(self.uid()?),
                9 => Value::Gid(self.gid()?),
                10 => Value::Uname(self.name()?),
                11 => Value::Gname(self.name()?),
                12 => {
                    let (major, minor) = self.device()?;
                    Value::Device(major, minor)
                }
                13 => Value::BareSize(self.bare_size()?),
                14 => Value::Sparse(self.sparse()?),
                _ => Value::Raw(self.raw()?),
            });
        }
        Ok(values)
    }

    /// A new entry.
    pub(in crate::index::edit) fn entry(&mut self) -> Result<NewEntry, WireError> {
        let content = self.content()?;
        let (mtime, mtime_nsec, path, mode) = (self.mtime()?, self.nsec()?, self.path()?, self.mode()?);
        let (shape, link, pax) = (self.shape()?, self.link()?, self.pax()?);
        let (uid, gid, uname, gname) = (self.uid()?, self.gid()?, self.name()?, self.name()?);
        let (dev_major, dev_minor) = self.device()?;
        let (bare_size, sparse, raw) = (self.bare_size()?, self.sparse()?, self.raw()?);
        let entry = Entry {
            shape,
            path,
            mode,
            uid,
            gid,
            uname,
            gname,
            mtime,
            mtime_nsec,
            dev_major,
            dev_minor,
            link,
            pax,
            content: None,
            bare_size,
            sparse,
            raw,
        };
        Ok(NewEntry { entry, content })
    }
}

fn get_shape(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Shape, WireError> {
    let before = reader.clone();
    let byte = reader.byte("kind of a shape")?;
    let kind = match byte & 7 {
        0 => Kind::Regular,
        1 => Kind::HardLink,
        2 => Kind::Symlink,
        3 => Kind::CharDevice,
        4 => Kind::BlockDevice,
        5 => Kind::Directory,
        6 => Kind::Fifo,
        _ => Kind::Other(reader.byte("type flag of a shape")?),
    };
    if byte >> 5 != 0 {
        return Err(before.error("kind of a shape", format!("{byte:#x} is not known")));
    }
    let keys = reader.count(MAX_PAX_RECORDS, "pax keys of a shape")?;
    let mut pax_keys = Vec::with_capacity(keys.min(reader.remaining()));
    for _ in 0..keys {
        let key = reader.bytes(MAX_NAME_BYTES, "pax key of a shape")?;
        pax_keys.push(budget.copy_item(key, reader)?);
    }
    let style = reader.bytes(MAX_STYLE_BYTES, "style of a shape")?;
    Ok(Shape {
        kind,
        raw: byte & 8 != 0,
        sparse: byte & 16 != 0,
        pax_keys,
        style: budget.copy(style, reader)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::SPECS;
    use super::*;

    #[test]
    fn empty_keys_and_values_take_memory() {
        let shape = |bytes: usize| get_shape(&mut Reader::new(&[0, 2, 0, 0, 0], "test"), &mut Budget(bytes));
        assert_eq!(shape(32).unwrap().pax_keys.len(), 2);
        assert!(shape(31).unwrap_err().why.contains("exceed"));
        let mut columns = Columns::new(&SPECS);
        columns.get_mut(Col::PaxCounts as usize).push(2);
        columns.get_mut(Col::PaxValues as usize).extend([0, 1]);
        columns.get_mut(Col::PaxTable as usize).push(0);
        let pax = |bytes: usize| {
            let mut reader = ValueReader::new(&columns);
            reader.budget = Budget(bytes);
            reader.pax()
        };
        assert_eq!(pax(32).unwrap().len(), 2);
        assert!(pax(31).unwrap_err().why.contains("exceed"));
    }
}
