//! The style of `FORMAT.md`, "Styles": its bytes are part of the format, and layer ids depend on their choice.

use tar::{Builder, EntryType, Header};

use super::check::{SMALL, round_trip, write_again};

/// As Go writes a file with nanoseconds: a pax header named after it, then a ustar header.
fn member() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let record = b"16 mtime=12.345\n";
    let extension = header("dir/PaxHeaders.0/file", EntryType::XHeader, 0, 0, 0, record.len());
    builder.append(&extension, &record[..]).expect("the header takes it");
    builder
        .append(&header("dir/file", EntryType::Regular, 0o644, 1000, 12, 0), &[][..])
        .expect("the header takes it");
    builder.into_inner().expect("the header takes it")
}

fn header(path: &str, kind: EntryType, mode: u32, owner: u64, mtime: u64, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).expect("the header takes it");
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_size(size as u64);
    header.set_mtime(mtime);
    header.set_device_major(0).expect("the header takes it");
    header.set_device_minor(0).expect("the header takes it");
    header.set_cksum();
    let sum = format!("{:06o}\0 ", header.cksum().expect("the header takes it"));
    header.as_old_mut().cksum.copy_from_slice(sum.as_bytes());
    header
}

#[test]
fn the_style_of_the_format_page() {
    let layer = round_trip(&member(), &SMALL).unwrap();
    let [shape] = &layer.index.shapes[..] else { panic!("the members have one shape") };
    let extension = [
        &b"\x01x\x01\x03\x0cPaxHeaders.0"[..],
        b"\x01\0\0\x01\0\0\x01\0\0\0\0\x01\0\0\x09",
        b"\x01\0\x01\0\x01\0\x01\0\0\x01\0\0\0\x01\x08\0",
    ];
    let main = b"0\x01\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0";
    assert_eq!(*shape.style, [&extension.concat(), &main[..]].concat());
    assert!(shape.pax_keys.is_empty());
}

#[test]
fn raw_headers_keep_extended_attributes_only() {
    let headers = member();
    let mut layer = round_trip(&headers, &SMALL).unwrap();
    let (shape, entry) = (&mut layer.index.shapes[0], &mut layer.index.entries[0]);
    (shape.raw, shape.style) = (true, Box::default());
    entry.raw = headers[..1536].into();
    let mut out = Vec::new();
    write_again(&headers, &layer, &mut out).unwrap();
    assert_eq!(out, headers);
    layer.index.shapes[0].pax_keys = vec![b"comment"[..].into()];
    layer.index.entries[0].pax = [b"text"[..].into()].into();
    let error = write_again(&headers, &layer, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("no extended attributes"), "{error}");
}
