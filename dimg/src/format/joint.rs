//! The section TABLES: the columns of INDEX, RECIPES and FRAMES (`FORMAT.md`, section 4.1).
//!
//! Small columns are compressed together, behind the table of all, large ones each by itself: whichever is smallest.

use crate::engine::EngineError;
use crate::engine::compress::{Codec, Kind, Level, Packed, pack, pack_smallest};
use crate::format::blob;
use crate::index::columns::{Columns, Spec};
use crate::limits::MAX_SECTION_BYTES;
use crate::wire::{Reader, WireError, put_u64, put_usize};

/// In place of a codec: the column stands behind the table.
const JOINT: u64 = 7;
/// Of a section that is smaller all contexts of the compressor are tried.
const SMALL_BYTES: u64 = 16 << 10;
/// Columns from this size on stand by themselves in one of the ways that are tried.
const LARGE_BYTES: usize = 1 << 10;
/// Columns from this size on that do not compress do not stand with others.
const NOISE_BYTES: u64 = 16;
const NAME: &str = "section TABLES";
const TABLE: &str = "table of columns";

/// The section's bytes.
///
/// # Errors
/// The compressor fails.
pub(crate) fn encode(tables: &[&Columns], level: Level) -> Result<Vec<u8>, EngineError> {
    let columns: Vec<(&[u8], Kind)> = tables.iter().flat_map(|table| table.iter()).collect();
    let packed = columns
        .iter()
        .map(|(data, kind)| pack(&[data], *kind, level, blob::WINDOW_LOG))
        .collect::<Result<Vec<_>, _>>()?;
    let noise = |packed: &Packed| packed.codec == Codec::Raw && packed.raw_bytes >= NOISE_BYTES;
    let ways: [&dyn Fn(usize) -> bool; 3] =
        [&|at| noise(&packed[at]), &|at| noise(&packed[at]) || columns[at].0.len() >= LARGE_BYTES, &|_| true];
    let mut best: Option<Vec<u8>> = None;
    for own in ways {
        let made = assemble(&columns, &packed, own, level)?;
        if best.as_ref().is_none_or(|best| made.len() < best.len()) {
            best = Some(made);
        }
    }
    Ok(best.unwrap_or_default())
}

fn assemble(
    columns: &[(&[u8], Kind)],
    packed: &[Packed],
    own: &dyn Fn(usize) -> bool,
    level: Level,
) -> Result<Vec<u8>, EngineError> {
    let mut joint = vec![0; columns.len().div_ceil(8)];
    let (mut bodies, mut stored) = (Vec::new(), Vec::new());
    for (at, ((data, _), packed)) in columns.iter().zip(packed).enumerate() {
        if data.is_empty() {
            continue;
        }
        joint[at / 8] |= 1 << (at % 8);
        if own(at) {
            put_head(&mut joint, packed);
            stored.extend_from_slice(&packed.stored);
        } else {
            put_u64(&mut joint, packed.raw_bytes << 3 | JOINT);
            bodies.extend_from_slice(data);
        }
    }
    joint.extend_from_slice(&bodies);
    let packed = match joint.len() as u64 <= SMALL_BYTES && level != Level::Fast {
        true => pack_smallest(&joint, blob::WINDOW_LOG)?,
        false => pack(&[&joint], Kind::Bytes, level, blob::WINDOW_LOG)?,
    };
    let mut out = Vec::with_capacity(packed.stored.len() + stored.len() + 8);
    put_head(&mut out, &packed);
    out.extend_from_slice(&packed.stored);
    out.extend_from_slice(&stored);
    Ok(out)
}

fn put_head(out: &mut Vec<u8>, packed: &Packed) {
    put_u64(out, packed.raw_bytes << 3 | u64::from(packed.codec.tag()));
    if packed.codec != Codec::Raw {
        put_usize(out, packed.stored.len());
    }
}

/// A blob's raw bytes, codec and stored bytes; no codec stands for [`JOINT`].
fn head(reader: &mut Reader<'_>, total: &mut u64) -> Result<(u64, Option<Codec>, usize), WireError> {
    let before = reader.clone();
    let head = reader.u64("head of a column")?;
    let (raw_bytes, tag) = (head >> 3, head & 7);
    *total = total.saturating_add(raw_bytes);
    if *total > MAX_SECTION_BYTES {
        let why = format!("{total} bytes of columns exceed the limit of {MAX_SECTION_BYTES}");
        return Err(before.error("raw bytes of a column", why));
    }
    let limit = usize::try_from(MAX_SECTION_BYTES).unwrap_or(usize::MAX);
    let codec = match u8::try_from(tag).ok().and_then(Codec::from_tag) {
        None if tag == JOINT => return Ok((raw_bytes, None, 0)),
        None => return Err(before.error("codec of a column", format!("{tag} is not known"))),
        Some(codec) => codec,
    };
    let stored_bytes = match codec {
        Codec::Raw => usize::try_from(raw_bytes).unwrap_or(usize::MAX),
        _ => reader.count(limit, "stored bytes of a column")?,
    };
    Ok((raw_bytes, Some(codec), stored_bytes))
}

/// Reads what [`encode`] wrote: columns of `specs`.
///
/// # Errors
/// The bytes are not what the format allows.
pub(crate) fn decode<const N: usize>(
    specs: [&'static [Spec]; N],
    bytes: &[u8],
) -> Result<[Columns; N], WireError> {
    let mut reader = Reader::new(bytes, NAME);
    let before = reader.clone();
    let (raw_bytes, codec, stored_bytes) = head(&mut reader, &mut 0)?;
    let codec = codec.ok_or_else(|| before.error("codec of a column", format!("{JOINT} is not known")))?;
    let at = reader.clone();
    let joint = blob::unpack(codec, reader.take(stored_bytes, TABLE)?, raw_bytes)
        .map_err(|error| at.error(TABLE, error.to_string()))?;
    let mut table = Reader::new(&joint, TABLE);
    let names: Vec<&'static Spec> = specs.iter().copied().flatten().collect();
    let before = table.clone();
    let bits = table.take(names.len().div_ceil(8), "which columns there are")?;
    let is_there = |at: usize| bits.get(at / 8).is_some_and(|bits| bits >> (at % 8) & 1 != 0);
    if (names.len()..8 * bits.len()).any(is_there) {
        return Err(before.error("which columns there are", "one that is not known"));
    }
    let (mut heads, mut total) = (Vec::with_capacity(names.len()), 0);
    for at in 0..names.len() {
        if !is_there(at) {
            heads.push(None);
            continue;
        }
        let before = table.clone();
        let head = head(&mut table, &mut total)?;
        if head.0 == 0 {
            return Err(before.error("raw bytes of a column", "an empty column stands in the table"));
        }
        heads.push(Some(head));
    }
    let mut read = names.iter().zip(heads).map(|(spec, head)| {
        let Some((raw_bytes, codec, stored_bytes)) = head else { return Ok(Vec::new()) };
        let Some(codec) = codec else {
            let count = usize::try_from(raw_bytes).unwrap_or(usize::MAX);
            return table.take(count, spec.name).map(<[u8]>::to_vec);
        };
        let before = reader.clone();
        let stored = reader.take(stored_bytes, spec.name)?;
        blob::unpack(codec, stored, raw_bytes).map_err(|error| before.error(spec.name, error.to_string()))
    });
    let mut all = Vec::with_capacity(N);
    for specs in specs {
        let data = read.by_ref().take(specs.len()).collect::<Result<Vec<_>, _>>()?;
        all.push(Columns::of(specs, data));
    }
    drop(read);
    table.end()?;
    reader.end()?;
    let end = reader.clone();
    all.try_into().map_err(|_| end.error(TABLE, "tables are missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static FIRST: [Spec; 9] = [const { Spec { name: "column a", kind: Kind::Numbers } }; 9];
    static SECOND: [Spec; 1] = [Spec { name: "column b", kind: Kind::Bytes }];

    fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let tables = decode([&FIRST, &SECOND], bytes).map_err(|error| error.to_string())?;
        Ok(tables.iter().flat_map(|table| table.iter().map(|(data, _)| data.to_vec())).collect())
    }

    proptest! {
        #[test]
        fn columns_come_back(a: Vec<u8>, b in 0usize..3000, c: Vec<u8>, at in 0usize..9, fast: bool) {
            let mut data = vec![Vec::new(); 9];
            (data[at], data[8]) = (a, vec![7; b]);
            let level = if fast { Level::Fast } else { Level::Default };
            let (first, second) = (Columns::of(&FIRST, data.clone()), Columns::of(&SECOND, vec![c.clone()]));
            let bytes = encode(&[&first, &second], level).unwrap();
            data.push(c);
            prop_assert_eq!(parse(&bytes), Ok(data));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn each_check_refuses() {
        // A head; two bytes of bits; heads; bodies; stored columns.
        let joint = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap() << 3], bytes].concat();
        let read = |table: &[u8], rest: &[u8]| parse(&[&joint(table)[..], rest].concat());
        let there = |at: usize, data: &[u8]| {
            let mut all = vec![Vec::new(); 10];
            all[at] = data.to_vec();
            Ok(all)
        };
        assert_eq!(read(&[1, 0, 1 << 3 | 7, 5], &[]), there(0, &[5]));
        assert_eq!(read(&[0, 2, 1 << 3], &[5]), there(9, &[5]));
        for (table, rest, why) in [
            (
                &[0][..],
                &[][..],
                "which columns there are at offset 0 of table of columns: 2 bytes wanted, 1 left",
            ),
            (&[0, 4], &[], "which columns there are at offset 0 of table of columns: one that is not known"),
            (&[1, 0], &[], "head of a column at offset 2 of table of columns: integer is cut short"),
            (
                &[1, 0, 7],
                &[],
                "raw bytes of a column at offset 2 of table of columns: an empty column stands in the table",
            ),
            (
                &[1, 0, 1 << 3 | 5, 1],
                &[],
                "codec of a column at offset 2 of table of columns: 5 is not known",
            ),
            (&[1, 0, 2 << 3 | 7, 1], &[], "column a at offset 3 of table of columns: 2 bytes wanted, 1 left"),
            (&[1, 0, 1 << 3 | 7, 1, 1], &[], "end at offset 4 of table of columns: 1 bytes too many"),
            (&[1, 0, 1 << 3], &[], "column a at offset 4 of section TABLES: 1 bytes wanted, 0 left"),
            (&[1, 0, 1 << 3], &[1, 1], "end at offset 5 of section TABLES: 1 bytes too many"),
            (
                &[1, 0, 0xf8, 0xff, 0xff, 0xff, 0x7f, 1],
                &[],
                "raw bytes of a column at offset 2 of table of columns: 4294967295 bytes of columns exceed the limit of 1073741824",
            ),
        ] {
            assert_eq!(read(table, rest), Err(why.to_owned()));
        }
        assert!(parse(&[]).unwrap_err().contains("head of a column"));
        assert!(parse(&[7]).unwrap_err().contains("codec of a column at offset 0 of section TABLES: 7"));
        assert!(parse(&[2 << 3 | 1, 2, 1, 1]).unwrap_err().starts_with("table of columns at offset 2"));
    }
}
