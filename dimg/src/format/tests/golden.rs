//! A pinned file: a change of the format shows here, and has to change the version.

use super::super::*;
use super::sample::original;
use crate::Digest;
use crate::content::Bytes;

const DUMP: &str = include_str!("golden.txt");
const BYTES: &[u8] = include_bytes!("golden.cdimg");

fn text(bytes: &[u8]) -> String {
    let file = DeltaFile::open(Bytes::from(bytes.to_vec())).unwrap();
    let mut text = Vec::new();
    dump(&file, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// With `UPDATE_GOLDEN=1` the pinned file and its dump are written anew.
#[test]
fn the_pinned_file_is_what_is_written() {
    let bytes = original().cdimg();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format/tests");
        std::fs::write(dir.join("golden.cdimg"), &bytes).unwrap();
        std::fs::write(dir.join("golden.txt"), text(&bytes)).unwrap();
        return;
    }
    assert_eq!(text(&bytes), DUMP);
    assert_eq!(Digest::of(&bytes), Digest::of(BYTES), "the dump is the same, the bytes are not");
}

#[test]
fn the_pinned_file_is_read() {
    assert_eq!(text(BYTES), DUMP);
    let file = DeltaFile::open(Bytes::from(BYTES.to_vec())).unwrap();
    let sample = original();
    assert_eq!(super::make_all(file.dimg(), &sample).unwrap().layers, sample.target);
    let stat = Stat::of(&file, BYTES.len() as u64).unwrap();
    assert_eq!((stat.contents.new, stat.contents.patched, stat.contents.reused), (2, 5, 2));
    assert_eq!(stat.metadata_bytes + stat.data_bytes, stat.bytes);
    assert_eq!(stat.by_codec.values().map(|share| share.bytes).sum::<u64>(), stat.data_bytes);
    let (manifest, config) = sample.documents();
    let cdimg = file.cdimg().unwrap();
    assert_eq!((cdimg.manifest(), cdimg.config()), (&manifest[..], &config[..]));
    let (head, data) = cdimg.dimg().alone();
    assert_eq!([&head, data].concat(), sample.dimg());
    let alone = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let (head, data) = alone.with_documents(&manifest, &config, Default::default()).unwrap();
    assert_eq!([&head, data].concat(), BYTES);
}
