//! Columns: byte strings with a number each, by themselves stored one after the other, each compressed or none (`FORMAT.md`,
//! section 4.5). A file has those of all its tables in one section (`format/joint.rs`).

use crate::engine::{
    EngineError,
    compress::{Codec, Kind, Level, pack},
};
use crate::format::blob;
use crate::limits::MAX_SECTION_BYTES;
use crate::wire::{Reader, WireError, put_usize};

/// What a column holds.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name in errors and listings.
    pub(crate) name: &'static str,
    /// What its bytes are like.
    pub(crate) kind: Kind,
}

/// The columns of a section. Their numbers in the file start at 1; here they are indices into the specs.
#[derive(Debug)]
pub(crate) struct Columns {
    specs: &'static [Spec],
    data: Vec<Vec<u8>>,
}

impl Columns {
    /// Empty columns.
    pub(crate) fn new(specs: &'static [Spec]) -> Self {
        Self { specs, data: vec![Vec::new(); specs.len()] }
    }

    /// Columns of these bytes.
    pub(crate) fn of(specs: &'static [Spec], data: Vec<Vec<u8>>) -> Self {
        Self { specs, data }
    }

    /// The bytes of a column, to be added to.
    pub(crate) fn get_mut(&mut self, index: usize) -> &mut Vec<u8> {
        &mut self.data[index]
    }

    /// The bytes of each column, in order, and what they are like.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        self.data.iter().zip(self.specs).map(|(data, spec)| (data.as_slice(), spec.kind))
    }

    /// A reader of each column, in order.
    pub(crate) fn readers(&self) -> Vec<Reader<'_>> {
        self.specs.iter().zip(&self.data).map(|(spec, data)| Reader::new(data, spec.name)).collect()
    }

    /// Every column as it is.
    pub(crate) fn to_raw(&self) -> Vec<u8> {
        let columns = self.data.iter().map(|data| (Codec::Raw, data.as_slice()));
        assemble(self.data.iter().map(Vec::len), columns)
    }

    /// Each column compressed as far as that makes it smaller.
    ///
    /// # Errors
    /// The compressor fails.
    pub(crate) fn to_packed(&self, level: Level) -> Result<Vec<u8>, EngineError> {
        let packed = self
            .specs
            .iter()
            .zip(&self.data)
            .map(|(spec, data)| pack(&[data], spec.kind, level, blob::WINDOW_LOG))
            .collect::<Result<Vec<_>, _>>()?;
        let columns = packed.iter().map(|packed| (packed.codec, packed.stored.as_slice()));
        Ok(assemble(self.data.iter().map(Vec::len), columns))
    }

    /// Reads what [`Columns::to_raw`] or [`Columns::to_packed`] made. Errors call the whole `of`.
    pub(crate) fn parse(specs: &'static [Spec], bytes: &[u8], of: &'static str) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, of);
        let count = reader.count(specs.len(), "number of columns")?;
        let mut table = Vec::with_capacity(count);
        let (mut last, mut total) = (0u8, 0u64);
        for _ in 0..count {
            let before = reader.clone();
            let id = reader.byte("column number")?;
            if id <= last {
                return Err(before.error("column number", format!("{id} follows {last}")));
            }
            last = id;
            let index = usize::from(id) - 1;
            if index >= specs.len() {
                return Err(before.error("column number", format!("{id} is not known")));
            }
            let before = reader.clone();
            let tag = reader.byte("codec of a column")?;
            let codec = Codec::from_tag(tag)
                .ok_or_else(|| before.error("codec of a column", format!("{tag} is not known")))?;
            let before = reader.clone();
            let raw_bytes = reader.u64("raw bytes of a column")?;
            total = total.saturating_add(raw_bytes);
            if raw_bytes == 0 {
                return Err(before.error("raw bytes of a column", "an empty column stands in the table"));
            }
            if total > MAX_SECTION_BYTES {
                let why = format!("{total} bytes of columns exceed the limit of {MAX_SECTION_BYTES}");
                return Err(before.error("raw bytes of a column", why));
            }
            let stored_bytes = reader.count(bytes.len(), "stored bytes of a column")?;
            table.push((index, codec, raw_bytes, stored_bytes));
        }
        let mut columns = Self::new(specs);
        for (index, codec, raw_bytes, stored_bytes) in table {
            let before = reader.clone();
            let stored = reader.take(stored_bytes, specs[index].name)?;
            columns.data[index] = blob::unpack(codec, stored, raw_bytes)
                .map_err(|error| before.error(specs[index].name, error.to_string()))?;
        }
        reader.end()?;
        Ok(columns)
    }
}

fn assemble<'a>(
    raw_bytes: impl Iterator<Item = usize>,
    columns: impl Iterator<Item = (Codec, &'a [u8])>,
) -> Vec<u8> {
    let (mut count, mut table, mut stored) = (0, Vec::new(), Vec::new());
    // A section has far fewer columns than there are numbers.
    for ((number, raw_bytes), (codec, bytes)) in (1..=u8::MAX).zip(raw_bytes).zip(columns) {
        if raw_bytes == 0 {
            continue;
        }
        count += 1;
        table.push(number);
        table.push(codec.tag());
        put_usize(&mut table, raw_bytes);
        put_usize(&mut table, bytes.len());
        stored.extend_from_slice(bytes);
    }
    let mut out = Vec::with_capacity(1 + table.len() + stored.len());
    put_usize(&mut out, count);
    out.extend_from_slice(&table);
    out.extend_from_slice(&stored);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static SPECS: [Spec; 3] = [
        Spec { name: "column a", kind: Kind::Numbers },
        Spec { name: "column b", kind: Kind::Bytes },
        Spec { name: "column c", kind: Kind::Content },
    ];

    fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Columns::parse(&SPECS, bytes, "test").map(|columns| columns.data).map_err(|error| error.to_string())
    }

    proptest! {
        #[test]
        fn columns_come_back(a: Vec<u8>, b in 0usize..3000, c: Vec<u8>) {
            let columns = Columns { specs: &SPECS, data: vec![a, vec![7; b], c] };
            prop_assert_eq!(parse(&columns.to_raw()), Ok(columns.data.clone()));
            let packed = columns.to_packed(Level::Default).unwrap();
            prop_assert!(packed.len() <= columns.to_raw().len());
            prop_assert_eq!(parse(&packed), Ok(columns.data));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn each_check_refuses() {
        for (bytes, why) in [
            (&[][..], "number of columns at offset 0 of test: integer is cut short"),
            (&[4], "number of columns at offset 0 of test: 4 exceeds the limit of 3"),
            (&[1, 0], "column number at offset 1 of test: 0 follows 0"),
            (&[2, 2, 0, 1, 1, 1, 0, 1, 1, 5, 5], "column number at offset 5 of test: 1 follows 2"),
            (&[1, 4], "column number at offset 1 of test: 4 is not known"),
            (&[1, 1, 9], "codec of a column at offset 2 of test: 9 is not known"),
            (
                &[1, 1, 0, 0, 0],
                "raw bytes of a column at offset 3 of test: an empty column stands in the table",
            ),
            (&[1, 1, 0, 1, 9, 7], "stored bytes of a column at offset 4 of test: 9 exceeds the limit of 6"),
            (&[1, 1, 0, 3, 3, 7], "column a at offset 5 of test: 3 bytes wanted, 1 left"),
            (&[1, 1, 0, 1, 1, 7, 7], "end at offset 6 of test: 1 bytes too many"),
        ] {
            assert_eq!(parse(bytes), Err(why.to_owned()));
        }
        let huge = parse(&[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 7]).unwrap_err();
        assert_eq!(
            huge,
            "raw bytes of a column at offset 3 of test: 34359738367 bytes of columns exceed the limit of 1073741824"
        );
        assert!(parse(&[1, 3, 0, 2, 1, 7]).unwrap_err().starts_with("column c at offset 5 of test: "));
    }
}
