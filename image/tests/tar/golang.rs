//! Go's `archive/tar`, which containerd unpacks layers with: what it reads in a tar is what the entries have to say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use d4c_image::tar::ParsedLayer;
use dimg::Digest;
use dimg::index::{Entry, Kind};

use super::writers::{run, scratch};

/// The program of `go/`, built when first asked for.
pub fn helper() -> &'static Path {
    static HELPER: OnceLock<PathBuf> = OnceLock::new();
    HELPER.get_or_init(|| {
        let helper = scratch("tarwriters");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/go");
        run(Command::new("go").args(["build", "-o"]).arg(&helper).arg(".").current_dir(source));
        helper
    })
}

/// Compares a layer's entries with what Go reads in its tar.
pub fn compare(writer: &str, tar: &Path, layer: &ParsedLayer) {
    let tar = File::open(tar).expect("open the tar");
    let read = run(Command::new(helper()).arg("read").stdin(Stdio::from(tar)));
    let read = String::from_utf8(read.stdout).expect("hexadecimal text");
    for (number, (go, entry)) in read.lines().zip(&layer.index.entries).enumerate() {
        assert_eq!(go, line(layer, entry), "{writer}: entry {number}");
    }
    assert_eq!(read.lines().count(), layer.index.entries.len(), "{writer}");
}

/// What the helper prints, made from an entry.
fn line(layer: &ParsedLayer, entry: &Entry) -> String {
    let hex = |text: &[u8]| text.iter().fold(".".to_owned(), |hex, byte| hex + &format!("{byte:02x}"));
    let index = &layer.index;
    let mut xattrs: Vec<String> =
        index.xattrs(entry).map(|(key, value)| format!("{}={}", hex(key), hex(value))).collect();
    xattrs.sort();
    let digest = entry.content.map_or(Digest::of(b""), |content| content.digest);
    [
        flag(layer, entry).to_string(),
        hex(&entry.path),
        hex(&entry.link),
        entry.mode.to_string(),
        entry.uid.to_string(),
        entry.gid.to_string(),
        hex(&entry.uname),
        hex(&entry.gname),
        entry.mtime.to_string(),
        entry.mtime_nsec.to_string(),
        entry.dev_major.to_string(),
        entry.dev_minor.to_string(),
        entry.size().to_string(),
        digest.hex(),
        xattrs.join(","),
    ]
    .join(" ")
}

fn flag(layer: &ParsedLayer, entry: &Entry) -> u8 {
    let old_sparse =
        || entry.raw.chunks_exact(512).any(|block| block[156] == b'S' && block[257..263] == *b"ustar ");
    match layer.index.shape(entry).kind {
        Kind::Regular if layer.index.shape(entry).sparse && old_sparse() => b'S',
        Kind::Regular => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Other(flag) => flag,
    }
}
