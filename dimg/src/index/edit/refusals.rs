//! One test per check of an edit's decoding and application, and of the writer.

use super::values::{self, Col, SPECS};
use super::*;
use crate::index::check::check_layers;
use crate::index::columns::Columns;
use crate::index::{Content, Kind};
use crate::limits::{
    MAX_ENTRIES, MAX_NAME_BYTES, MAX_PAX_VALUE_BYTES, MAX_SHAPES, MAX_TAIL_BYTES, MAX_TAIL_ZERO_BYTES,
};
use crate::wire::{Reader, put_i64, put_u64};

type Data = Vec<(Col, Vec<u8>)>;
/// Columns replaced, and the error that they are to give.
type Check<'a> = (&'a [(Col, Vec<u8>)], &'a str);

fn varint(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, value);
    bytes
}

fn signed(value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_i64(&mut bytes, value);
    bytes
}

/// A layer with one new entry: the file `a`, empty, of shape `Regular`.
fn one_new() -> Data {
    let zeros = [
        Col::Mtimes,
        Col::MtimeNsecs,
        Col::PathPrefixes,
        Col::Modes,
        Col::Shapes,
        Col::LinkPrefixes,
        Col::LinkLengths,
        Col::PaxCounts,
        Col::Uids,
        Col::Gids,
        Col::BareSizes,
        Col::SparseCounts,
        Col::RawLengths,
    ];
    let mut data: Data = zeros.into_iter().map(|column| (column, vec![0])).collect();
    data.extend([
        (Col::Runs, vec![1, 2]),
        (Col::Tails, vec![0, 0]),
        (Col::Contents, vec![1]),
        (Col::NewSizes, vec![0]),
        (Col::NewDigests, Digest::of(b"").0.to_vec()),
        (Col::PathLengths, vec![1]),
        (Col::Paths, b"a".to_vec()),
        (Col::ShapeTable, vec![0, 0, 0]),
        (Col::Names, vec![0, 1]),
        (Col::NameTable, vec![0]),
        (Col::Devices, vec![0, 0]),
    ]);
    data
}

/// A layer that is one entry copied from the parent, its fields of `mask` overridden.
fn one_changed(mask: u64) -> Data {
    vec![
        (Col::Runs, vec![1, 3]),
        (Col::RunPlaces, vec![0, 0]),
        (Col::Tails, vec![0, 0]),
        (Col::Gaps, vec![0]),
        (Col::Masks, varint(mask)),
    ]
}

fn with(mut data: Data, changes: &[(Col, Vec<u8>)]) -> Data {
    for (column, bytes) in changes {
        data.retain(|(there, _)| there != column);
        data.push((*column, bytes.clone()));
    }
    data
}

fn decode(data: &Data, entries: u64) -> Result<Edit, String> {
    let mut columns = Columns::new(&SPECS);
    for (column, bytes) in data {
        columns.get_mut(*column as usize).clone_from(bytes);
    }
    Edit::decode(&columns.to_raw(), &[LayerClaim::Entries(entries)]).map_err(|error| error.to_string())
}

fn parent() -> Vec<Arc<LayerIndex>> {
    decode(&one_new(), 1).unwrap().apply(&[]).unwrap()
}

#[test]
fn the_undamaged_is_read() {
    let layers = parent();
    assert_eq!(&*layers[0].entries[0].path, b"a");
    let touched = decode(&with(one_changed(2), &[(Col::Mtimes, signed(7))]), 1).unwrap();
    assert_eq!(touched.apply(&layers).unwrap()[0].entries[0].mtime, 7);
}

#[test]
fn each_check_of_a_new_entry_refuses() {
    let long = (MAX_NAME_BYTES + 1) as u64;
    let checks: &[Check<'_>] = &[
        (&[(Col::Contents, vec![])], "content at offset 0 of column contents: integer is cut short"),
        (&[(Col::Contents, vec![3])], "content at offset 0 of column contents: number 0 of 0 contents"),
        (
            &[(Col::NewDigests, vec![7; 31])],
            "digest at offset 0 of column new digests: 32 bytes wanted, 31 left",
        ),
        (&[(Col::NewSizes, vec![])], "size at offset 0 of column new sizes: integer is cut short"),
        (
            &[(Col::MtimeNsecs, signed(1_000_000_000))],
            "nanoseconds at offset 0 of column mtime nanoseconds: it is not within 0 and 999999999",
        ),
        (
            &[(Col::MtimeNsecs, signed(-1))],
            "nanoseconds at offset 0 of column mtime nanoseconds: it is not within 0 and 999999999",
        ),
        (
            &[(Col::Modes, signed(1 << 32))],
            "mode at offset 0 of column modes: it is not within 0 and 4294967295",
        ),
        (
            &[(Col::PathPrefixes, vec![1])],
            "shared bytes of a name at offset 0 of column path prefixes: 1 exceeds the limit of 0",
        ),
        (
            &[(Col::PathLengths, varint(long))],
            "bytes of a name at offset 0 of column path lengths: 65537 exceeds the limit of 65536",
        ),
        (&[(Col::Paths, vec![])], "name at offset 0 of column paths: 1 bytes wanted, 0 left"),
        (
            &[(Col::LinkPrefixes, vec![9])],
            "shared bytes of a name at offset 0 of column link prefixes: 9 exceeds the limit of 0",
        ),
        (
            &[(Col::Shapes, vec![1])],
            "number in a table at offset 0 of column shapes: 1 exceeds the limit of 0",
        ),
        (
            &[(Col::ShapeTable, vec![0x20, 0, 0])],
            "kind of a shape at offset 0 of column shape table: 0x20 is not known",
        ),
        (
            &[(Col::ShapeTable, vec![7])],
            "type flag of a shape at offset 1 of column shape table: 1 bytes wanted, 0 left",
        ),
        (
            &[(Col::ShapeTable, [&[0][..], &varint(4097)].concat())],
            "pax keys of a shape at offset 1 of column shape table: 4097 exceeds the limit of 4096",
        ),
        (
            &[(Col::ShapeTable, [&[0, 1][..], &varint(long)].concat())],
            "pax key of a shape at offset 2 of column shape table: 65537 exceeds the limit of 65536",
        ),
        (
            &[(Col::ShapeTable, [&[0, 0][..], &varint((1 << 20) + 1)].concat())],
            "style of a shape at offset 2 of column shape table: 1048577 exceeds the limit of 1048576",
        ),
        (
            &[(Col::PaxCounts, varint(4097))],
            "number of pax values at offset 0 of column pax counts: 4097 exceeds the limit of 4096",
        ),
        (
            &[(Col::PaxCounts, vec![1]), (Col::PaxValues, vec![0]), (Col::PaxTable, varint((1 << 20) + 1))],
            "pax value at offset 0 of column pax table: 1048577 exceeds the limit of 1048576",
        ),
        (
            &[(Col::Names, vec![0, 2])],
            "number in a table at offset 1 of column names: 2 exceeds the limit of 1",
        ),
        (
            &[(Col::NameTable, varint(long))],
            "owner's name at offset 0 of column name table: 65537 exceeds the limit of 65536",
        ),
        (
            &[(Col::Devices, vec![0])],
            "minor device number at offset 1 of column devices: integer is cut short",
        ),
        (&[(Col::BareSizes, vec![])], "bare size at offset 0 of column bare sizes: integer is cut short"),
        (
            &[(Col::SparseCounts, varint((1 << 20) + 1))],
            "number of extents at offset 0 of column sparse counts: 1048577 exceeds the limit of 1048576",
        ),
        (
            &[(Col::SparseCounts, vec![1]), (Col::SparseExtents, [varint(u64::MAX), varint(1)].concat())],
            "extent at offset 0 of column sparse extents: it ends above 2^64",
        ),
        (
            &[(Col::RawLengths, varint((16 << 20) + 1))],
            "bytes of headers at offset 0 of column raw lengths: 16777217 exceeds the limit of 16777216",
        ),
        (&[(Col::RawLengths, vec![2])], "headers at offset 0 of column raw headers: 2 bytes wanted, 0 left"),
        (&[(Col::RawHeaders, vec![7])], "end at offset 0 of column raw headers: 1 bytes too many"),
        (&[(Col::Uids, vec![0, 0])], "end at offset 1 of column uids: 1 bytes too many"),
    ];
    for (changes, why) in checks {
        assert_eq!(decode(&with(one_new(), changes), 1).unwrap_err(), *why);
    }
}

#[test]
fn each_check_of_runs_and_changes_refuses() {
    let huge = (MAX_ENTRIES as u64 + 1) << 1;
    let tail = (MAX_TAIL_BYTES + 1) as u64;
    let checks: &[(Data, &str)] = &[
        (
            with(one_new(), &[(Col::Tails, [varint(MAX_TAIL_ZERO_BYTES + 1), vec![0]].concat())]),
            "zero bytes of a tail at offset 0 of column tails: 1073741825 exceeds the limit of 1073741824",
        ),
        (
            with(one_new(), &[(Col::Tails, [&[0][..], &varint(tail)].concat())]),
            "bytes of a tail at offset 1 of column tails: 16777217 exceeds the limit of 16777216",
        ),
        (
            with(one_new(), &[(Col::Runs, varint(MAX_ENTRIES as u64 + 1))]),
            "number of runs at offset 0 of column runs: 4194305 exceeds the limit of 4194304",
        ),
        (with(one_new(), &[(Col::Runs, vec![1, 0])]), "run at offset 1 of column runs: it is empty"),
        (
            with(one_new(), &[(Col::Runs, [&[1][..], &varint(huge)].concat())]),
            "run at offset 1 of column runs: more than 4194304 entries",
        ),
        (
            with(one_new(), &[(Col::Runs, vec![0])]),
            "runs at offset 1 of column runs: they make 0 entries, META names 1",
        ),
        (
            with(one_changed(2), &[(Col::RunPlaces, [signed(-1), vec![0]].concat())]),
            "layer of a place at offset 0 of column run places: no image has such a layer",
        ),
        (
            with(one_changed(2), &[(Col::RunPlaces, [vec![0], signed(-1)].concat())]),
            "entry of a place at offset 0 of column run places: no layer has such an entry",
        ),
        (
            with(one_changed(2), &[(Col::RunPlaces, [vec![0], signed(4 << 20)].concat())]),
            "entry of a place at offset 0 of column run places: no layer has such an entry",
        ),
        (one_changed(0), "mask of changed fields at offset 0 of column change masks: 0x0 is not known"),
        (
            one_changed(1 << FIELDS),
            "mask of changed fields at offset 0 of column change masks: 0x10000 is not known",
        ),
        (
            with(one_changed(2), &[(Col::Gaps, vec![1]), (Col::Masks, vec![])]),
            "gap before a changed entry at offset 1 of column change gaps: more entries are changed than are copied",
        ),
        (
            with(
                one_changed(1),
                &[(Col::Contents, vec![2]), (Col::ContentPlaces, [signed(2048), vec![0]].concat())],
            ),
            "layer of a place at offset 0 of column content places: no image has such a layer",
        ),
    ];
    for (data, why) in checks {
        assert_eq!(decode(data, 1).unwrap_err(), *why);
    }
}

#[test]
fn tables_end_at_their_limit() {
    // A run of new entries, each with a shape of its own, one more than a file may have.
    let count = MAX_SHAPES + 1;
    let mut codes = Reader::new(&[0], "column shapes");
    let mut table = vec![(); count - 1];
    let error = values::get_from_table(&mut codes, &mut table, MAX_SHAPES, || Ok(())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "number in a table at offset 0 of column shapes: the table exceeds its limit of 1048576"
    );
}

#[test]
fn each_check_of_applying_refuses() {
    let layers = parent();
    let apply = |data: &Data, parent: &[Arc<LayerIndex>]| {
        decode(data, 1).unwrap().apply(parent).unwrap_err().to_string()
    };
    let at = |why: &str| format!("apply edit: entry 0 of layer 0: {why}");
    let touched = with(one_changed(2), &[(Col::Mtimes, signed(7))]);
    assert_eq!(apply(&touched, &[]), at("1 entries from entry 0 of layer 0 of the parent are not there"));
    let further = with(touched, &[(Col::RunPlaces, [vec![0], signed(1)].concat())]);
    assert_eq!(apply(&further, &layers), at("1 entries from entry 1 of layer 0 of the parent are not there"));
    let same = Edit { layers: vec![LayerEdit::Same(3)], ..Edit::default() };
    assert_eq!(same.apply(&layers).unwrap_err().to_string(), at("the parent has no layer 3"));
    let content =
        with(one_new(), &[(Col::Contents, vec![0]), (Col::NewSizes, vec![]), (Col::NewDigests, vec![])]);
    assert_eq!(apply(&content, &[]), at("a regular file has no content, or another kind has one"));
    let place = |entry| {
        let place = [signed(0), signed(entry)].concat();
        with(one_changed(1), &[(Col::Contents, vec![2]), (Col::ContentPlaces, place)])
    };
    assert_eq!(apply(&place(4), &layers), at("entry 4 of layer 0 of the parent has no content"));
    let shape = with(one_changed(1 << 5), &[(Col::Shapes, vec![0]), (Col::ShapeTable, vec![5, 0, 0])]);
    assert_eq!(apply(&shape, &layers), at("a regular file has no content, or another kind has one"));
    let pax = with(
        one_changed(1 << 7),
        &[(Col::PaxCounts, vec![1]), (Col::PaxValues, vec![0]), (Col::PaxTable, vec![0])],
    );
    assert_eq!(apply(&pax, &layers), at("the numbers of pax keys and values differ"));
    let raw = with(one_changed(1 << 15), &[(Col::RawLengths, vec![1]), (Col::RawHeaders, vec![0])]);
    assert_eq!(apply(&raw, &layers), at("headers are kept but the shape says not"));
    let sparse =
        with(one_changed(1 << 14), &[(Col::SparseCounts, vec![1]), (Col::SparseExtents, vec![0, 1])]);
    assert_eq!(apply(&sparse, &layers), at("data runs are there but the shape is not sparse"));
    let kept =
        [(Col::SparseCounts, vec![1]), (Col::SparseExtents, vec![0, 1]), (Col::ShapeTable, vec![16, 0, 0])];
    assert_eq!(apply(&with(one_new(), &kept), &[]), at("a data run is outside of the file"));

    let mut edit = decode(&one_new(), 1).unwrap();
    let LayerEdit::Edited(layer) = &mut edit.layers[0] else { panic!("it is edited") };
    layer.runs = vec![Run::New { count: 2 }];
    assert_eq!(edit.apply(&[]).unwrap_err().to_string(), "apply edit: entry 1 of layer 0: it is not there");
    let LayerEdit::Edited(layer) = &mut edit.layers[0] else { panic!("it is edited") };
    layer.runs.clear();
    assert_eq!(
        edit.apply(&[]).unwrap_err().to_string(),
        at("new or changed entries are outside of the runs")
    );
    let LayerEdit::Edited(layer) = &mut edit.layers[0] else { panic!("it is edited") };
    layer.runs = vec![Run::New { count: 1 }];
    layer.new[0].content = ContentRef::New(9);
    assert_eq!(edit.apply(&[]).unwrap_err().to_string(), at("there is no new content 9"));
    edit.shapes.clear();
    assert_eq!(edit.apply(&[]).unwrap_err().to_string(), at("there is no shape 0"));
}

#[test]
fn each_check_of_the_writer_refuses() {
    let regular = || {
        let mut layer = LayerIndex::clone(&parent()[0]);
        layer.entries[0].content = Some(Content { digest: Digest::of(b"abc"), size: 3 });
        layer
    };
    type Spoil = fn(&mut LayerIndex);
    let extents = |extents: &[(u64, u64)]| -> Box<[Extent]> {
        extents.iter().map(|&(offset, bytes)| Extent { offset, bytes }).collect()
    };
    let entry = |spoil: &dyn Fn(&mut LayerIndex)| {
        let mut layer = regular();
        spoil(&mut layer);
        check_layers(&[Arc::new(layer)]).unwrap_err().to_string()
    };
    let checks: [(Spoil, &str); 6] = [
        (|layer| layer.entries[0].shape = 1, "it has no shape"),
        (|layer| layer.entries[0].content = None, "a regular file has no content, or another kind has one"),
        (|layer| layer.shapes[0].kind = Kind::Fifo, "a regular file has no content, or another kind has one"),
        (|layer| layer.entries[0].pax = [Box::default()].into(), "the numbers of pax keys and values differ"),
        (|layer| layer.entries[0].mtime_nsec = 1_000_000_000, "the nanoseconds make a second"),
        (|layer| layer.entries[0].raw = [1].into(), "headers are kept but the shape says not"),
    ];
    for (spoil, why) in checks {
        assert_eq!(entry(&spoil), format!("check index: entry 0 of layer 0: {why}"));
    }
    for (runs, why) in [
        (extents(&[(0, 2), (1, 1)]), "the data runs of a sparse file overlap"),
        (extents(&[(1, u64::MAX)]), "a data run ends above 2^64"),
        (extents(&[(1, 3)]), "a data run is outside of the file"),
    ] {
        let spoil = |layer: &mut LayerIndex| {
            layer.shapes[0].sparse = true;
            layer.entries[0].sparse.clone_from(&runs);
        };
        assert_eq!(entry(&spoil), format!("check index: entry 0 of layer 0: {why}"));
    }
    let limits: [(Spoil, &str); 7] = [
        (|layer| layer.entries[0].path = vec![b'a'; MAX_NAME_BYTES + 1].into(), "bytes of a name"),
        (|layer| layer.entries[0].uname = vec![b'a'; MAX_NAME_BYTES + 1].into(), "bytes of a name"),
        (|layer| layer.tail.zero_bytes = MAX_TAIL_ZERO_BYTES + 1, "zero bytes of a layer's end"),
        (|layer| layer.tail.rest = vec![1; MAX_TAIL_BYTES + 1].into(), "bytes after a layer's end"),
        (|layer| layer.shapes[0].style = vec![1; (1 << 20) + 1].into(), "bytes of a style"),
        (
            |layer| {
                layer.shapes[0].pax_keys = vec![b"k"[..].into()];
                layer.entries[0].pax = [vec![0; MAX_PAX_VALUE_BYTES + 1].into()].into();
            },
            "bytes of a pax value",
        ),
        (
            |layer| {
                layer.shapes[0].raw = true;
                layer.entries[0].raw = vec![0; (16 << 20) + 1].into();
            },
            "bytes of an entry's headers",
        ),
    ];
    for (spoil, what) in limits {
        let error = entry(&spoil);
        assert!(error.starts_with(&format!("check index: {what}: more than the limit of ")), "{error}");
    }
    let many: Vec<_> = (0..=1024).map(|_| Arc::default()).collect();
    assert!(check_layers(&many).unwrap_err().to_string().contains("layers of an image"));
}
