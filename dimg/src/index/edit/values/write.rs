//! Values to columns.

use super::super::{ContentRef, PlaceCoder, Value};
use super::{Before, Col, LINK, PATH, SPECS};
use crate::index::columns::Columns;
use crate::index::{Content, Entry, Extent, Kind, Shape};
use crate::wire::{put_bytes, put_i64, put_u64, put_usize};
use std::collections::HashMap;

/// Writes values to columns.
pub(in crate::index::edit) struct ValueWriter<'a> {
    pub(in crate::index::edit) columns: Columns,
    shapes: HashMap<&'a Shape, usize>,
    /// The last one: most are like the one before.
    shape: Option<(&'a Shape, usize)>,
    names: HashMap<&'a [u8], usize>,
    /// The last user's and the last group's.
    owners: [Option<(&'a [u8], usize)>; 2],
    pax: HashMap<&'a [u8], usize>,
    path: &'a [u8],
    link: &'a [u8],
    before: Before,
    pub(in crate::index::edit) content_places: PlaceCoder,
    pub(in crate::index::edit) contents: u32,
}

/// Appends a name by the length of the prefix that it shares with the one before; what follows goes to other columns.
fn put_front_coded(columns: &mut Columns, [prefixes, lengths, bytes]: [Col; 3], before: &[u8], name: &[u8]) {
    let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
    put_usize(columns.get_mut(prefixes as usize), shared);
    put_usize(columns.get_mut(lengths as usize), name.len() - shared);
    columns.get_mut(bytes as usize).extend_from_slice(&name[shared..]);
}

impl<'a> ValueWriter<'a> {
    pub(in crate::index::edit) fn new() -> Self {
        Self {
            columns: Columns::new(&SPECS),
            shapes: HashMap::new(),
            shape: None,
            names: HashMap::new(),
            owners: [None; 2],
            pax: HashMap::new(),
            path: &[],
            link: &[],
            before: Before::default(),
            content_places: PlaceCoder::default(),
            contents: 0,
        }
    }

    pub(in crate::index::edit) fn col(&mut self, column: Col) -> &mut Vec<u8> {
        self.columns.get_mut(column as usize)
    }

    /// A content; `new` gives a new one's digest and size.
    pub(in crate::index::edit) fn content(&mut self, content: ContentRef, new: impl FnOnce(u32) -> Content) {
        match content {
            ContentRef::None => self.col(Col::Contents).push(0),
            ContentRef::New(number) if number == self.contents => {
                let content = new(number);
                self.col(Col::Contents).push(1);
                self.col(Col::NewDigests).extend_from_slice(&content.digest.0);
                put_u64(self.col(Col::NewSizes), content.size);
                self.contents += 1;
            }
            ContentRef::Parent(place) => {
                self.col(Col::Contents).push(2);
                self.content_places.put(self.columns.get_mut(Col::ContentPlaces as usize), place, 1);
            }
            ContentRef::New(number) => put_u64(self.col(Col::Contents), u64::from(number) + 3),
        }
    }

    pub(in crate::index::edit) fn shape(&mut self, shape: &'a Shape) {
        if let Some((_, number)) = self.shape.filter(|(last, _)| std::ptr::eq(*last, shape)) {
            return put_usize(self.col(Col::Shapes), number + 1);
        }
        let next = self.shapes.len();
        let number = *self.shapes.entry(shape).or_insert(next);
        self.shape = Some((shape, number));
        if number < next {
            return put_usize(self.col(Col::Shapes), number + 1);
        }
        self.col(Col::Shapes).push(0);
        put_shape(self.col(Col::ShapeTable), shape);
    }

    fn mtime(&mut self, value: i64) {
        let difference = value.wrapping_sub(self.before.mtime);
        put_i64(self.col(Col::Mtimes), difference);
        self.before.mtime = value;
    }

    fn nsec(&mut self, value: u32) {
        let difference = i64::from(value) - i64::from(self.before.nsec);
        put_i64(self.col(Col::MtimeNsecs), difference);
        self.before.nsec = value;
    }

    fn path(&mut self, value: &'a [u8]) {
        put_front_coded(&mut self.columns, PATH, self.path, value);
        self.path = value;
    }

    fn mode(&mut self, value: u32) {
        let difference = i64::from(value) - i64::from(self.before.mode);
        put_i64(self.col(Col::Modes), difference);
        self.before.mode = value;
    }

    fn link(&mut self, value: &'a [u8]) {
        // Most entries have no target; they do not break the row of those that have.
        put_front_coded(&mut self.columns, LINK, self.link, value);
        if !value.is_empty() {
            self.link = value;
        }
    }

    fn pax(&mut self, values: &'a [Box<[u8]>]) {
        put_usize(self.col(Col::PaxCounts), values.len());
        for value in values {
            let next = self.pax.len();
            match self.pax.get(&**value) {
                Some(&number) => put_usize(self.col(Col::PaxValues), number + 1),
                None => {
                    self.pax.insert(value, next);
                    self.col(Col::PaxValues).push(0);
                    put_bytes(self.col(Col::PaxTable), value);
                }
            }
        }
    }

    fn uid(&mut self, value: u64) {
        let difference = value.wrapping_sub(self.before.uid).cast_signed();
        put_i64(self.col(Col::Uids), difference);
        self.before.uid = value;
    }

    fn gid(&mut self, value: u64) {
        let difference = value.wrapping_sub(self.before.gid).cast_signed();
        put_i64(self.col(Col::Gids), difference);
        self.before.gid = value;
    }

    /// The name of a user (`which` 0) or group (1).
    fn name(&mut self, value: &'a [u8], which: usize) {
        if let Some((_, number)) = self.owners[which].filter(|(last, _)| *last == value) {
            return put_usize(self.col(Col::Names), number + 1);
        }
        let next = self.names.len();
        let number = *self.names.entry(value).or_insert(next);
        self.owners[which] = Some((value, number));
        if number < next {
            return put_usize(self.col(Col::Names), number + 1);
        }
        self.col(Col::Names).push(0);
        put_bytes(self.col(Col::NameTable), value);
    }

    fn device(&mut self, major: u64, minor: u64) {
        let column = self.col(Col::Devices);
        put_u64(column, major);
        put_u64(column, minor);
    }

    fn sparse(&mut self, extents: &[Extent]) {
        put_usize(self.col(Col::SparseCounts), extents.len());
        let mut end = 0u64;
        for extent in extents {
            let column = self.col(Col::SparseExtents);
            put_u64(column, extent.offset.wrapping_sub(end));
            put_u64(column, extent.bytes);
            end = extent.offset.wrapping_add(extent.bytes);
        }
    }

    fn raw(&mut self, value: &[u8]) {
        put_usize(self.col(Col::RawLengths), value.len());
        self.col(Col::RawHeaders).extend_from_slice(value);
    }

    /// A value of a changed entry.
    pub(in crate::index::edit) fn value(
        &mut self,
        value: &'a Value,
        shapes: &'a [Shape],
        contents: &[Content],
    ) {
        match value {
            Value::Content(content) => self.content(*content, |number| contents[number as usize]),
            Value::Mtime(value) => self.mtime(*value),
            Value::MtimeNsec(value) => self.nsec(*value),
            Value::Path(value) => self.path(value),
            Value::Mode(value) => self.mode(*value),
            Value::Shape(number) => self.shape(&shapes[*number as usize]),
            Value::Link(value) => self.link(value),
            Value::Pax(values) => self.pax(values),
            Value::Uid(value) => self.uid(*value),
            Value::Gid(value) => self.gid(*value),
            Value::Uname(value) => self.name(value, 0),
            Value::Gname(value) => self.name(value, 1),
            Value::Device(major, minor) => self.device(*major, *minor),
            Value::BareSize(value) => put_u64(self.col(Col::BareSizes), *value),
            Value::Sparse(extents) => self.sparse(extents),
            Value::Raw(value) => self.raw(value),
        }
    }

    /// All of a new entry but its content.
    pub(in crate::index::edit) fn fields(&mut self, entry: &'a Entry, shape: &'a Shape) {
        self.mtime(entry.mtime);
        self.nsec(entry.mtime_nsec);
        self.path(&entry.path);
        self.mode(entry.mode);
        self.shape(shape);
        self.link(&entry.link);
        self.pax(&entry.pax);
        self.uid(entry.uid);
        self.gid(entry.gid);
        self.name(&entry.uname, 0);
        self.name(&entry.gname, 1);
        self.device(entry.dev_major, entry.dev_minor);
        put_u64(self.col(Col::BareSizes), entry.bare_size);
        self.sparse(&entry.sparse);
        self.raw(&entry.raw);
    }
}

fn put_shape(out: &mut Vec<u8>, shape: &Shape) {
    let (kind, flag) = match shape.kind {
        Kind::Regular => (0, None),
        Kind::HardLink => (1, None),
        Kind::Symlink => (2, None),
        Kind::CharDevice => (3, None),
        Kind::BlockDevice => (4, None),
        Kind::Directory => (5, None),
        Kind::Fifo => (6, None),
        Kind::Other(flag) => (7, Some(flag)),
    };
    out.push(kind | u8::from(shape.raw) << 3 | u8::from(shape.sparse) << 4);
    out.extend(flag);
    put_usize(out, shape.pax_keys.len());
    shape.pax_keys.iter().for_each(|key| put_bytes(out, key));
    put_bytes(out, &shape.style);
}
