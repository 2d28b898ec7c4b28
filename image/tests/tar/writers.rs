//! A real tree, written by the tools that write layers: each tar comes back bit for bit with few raw headers, its
//! entries say what Go reads, and a damaged one is refused or comes back too.
//!
//! Each writer's row of the table goes to standard error, captured or not: entries; those whose headers are kept raw,
//! sparse ones among them, because maps are always kept so; those with a field that the style keeps; shapes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use d4c_image::tar::ParseOptions;

use super::check::{SMALL, round_trip};
use super::golang;
use super::tree::{ODD, tree};

/// Runs a command that has to be there and to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = attempt(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command that has to be there; writers fail when their format cannot hold a member, but write the others.
fn attempt(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make setup` installs it"))
}

/// A path below the tests' own directory.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tar-writers");
    fs::create_dir_all(&dir).expect("create a directory");
    dir.join(name)
}

/// Writes the tree and its odd part with a writer, a function of tree and tar; checks both.
fn check(writer: &str, write: impl Fn(&Path, &Path)) {
    let name = writer.replace([' ', '/', '*'], "_");
    let whole = scratch(&format!("{name}.tar"));
    write(tree(), &whole);
    check_whole(writer, &whole);
    let odd = scratch(&format!("{name}.odd.tar"));
    write(&tree().join(ODD), &odd);
    check_damaged(&fs::read(&odd).expect("read the tar"));
    for tar in [whole, odd] {
        fs::remove_file(tar).expect("remove a tar");
    }
}

/// Round trip, raw headers, the table's row and Go's reading.
fn check_whole(writer: &str, tar: &Path) {
    let bytes = fs::read(tar).expect("read the tar");
    let layer =
        round_trip(&bytes, &ParseOptions::default()).unwrap_or_else(|error| panic!("{writer}: {error}"));
    let index = &layer.index;
    let count = |of: &dyn Fn(&dimg::index::Shape) -> bool| {
        index.entries.iter().filter(|e| of(index.shape(e))).count()
    };
    let raw = count(&|shape| shape.raw);
    let sparse = count(&|shape| shape.sparse);
    let kept = count(&|shape| shape.pax_keys.iter().any(|key| key.starts_with(b"=")));
    let (entries, shapes) = (index.entries.len(), index.shapes.len());
    writeln!(
        io::stderr(),
        "{writer:45} {entries:5} entries {raw:3} raw ({sparse} sparse) {kept:5} with kept fields {shapes:3} shapes"
    )
    .expect("write to standard error");
    assert!(entries > 300, "{writer} left out most of the tree");
    assert!(raw * 100 < entries, "{writer}: {raw} of {entries} entries need their raw headers");
    golang::compare(writer, tar, &layer);
}

/// Wrong bits, cuts and lost blocks: refused, or the tar comes back. The steps have no factor in common with a block's
/// length, so that over many members every field is met.
fn check_damaged(tar: &[u8]) {
    round_trip(tar, &SMALL).expect("the tar is sound");
    for end in (0..tar.len()).step_by(509) {
        let _ = round_trip(&tar[..end], &SMALL);
    }
    let mut damaged = tar.to_vec();
    for at in (0..tar.len()).step_by(41) {
        damaged[at] ^= 1 << (at % 8);
        let _ = round_trip(&damaged, &SMALL);
        damaged[at] = tar[at];
    }
    for at in (0..tar.len()).step_by(512).take(300) {
        let _ = round_trip(&[&tar[..at], &tar[at + 512..]].concat(), &SMALL);
    }
}

fn write_by(program: &str, options: &[&str], tree: &Path, tar: &Path) {
    attempt(Command::new(program).args(options).arg("-cf").arg(tar).arg("-C").arg(tree).arg("."));
}

#[test]
fn gnu_tar() {
    let options: [&[&str]; 11] = [
        &["--format=gnu"],
        &["--format=oldgnu"],
        &["--format=v7"],
        &["--format=ustar"],
        &["--format=pax"],
        &["--format=pax", "--xattrs", "--xattrs-include=*"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &[
            "--format=pax",
            "--sort=name",
            "--numeric-owner",
            "--pax-option=delete=atime,delete=ctime",
            "--mtime=@1700000000",
        ],
    ];
    for options in options {
        let short: Vec<&str> = options
            .iter()
            .map(|option| option.trim_start_matches("--").trim_start_matches("format="))
            .filter(|option| !option.contains("include") && !option.starts_with("pax-option"))
            .collect();
        check(&format!("tar {}", short.join(" ")), |tree, tar| write_by("tar", options, tree, tar));
    }
}

#[test]
fn bsdtar() {
    for format in ["pax", "ustar", "gnutar", "v7"] {
        check(&format!("bsdtar {format}"), |tree, tar| write_by("bsdtar", &["--format", format], tree, tar));
    }
}

#[test]
fn python() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tar/write.py");
    for format in ["gnu", "pax", "ustar"] {
        check(&format!("python {format}"), |tree, tar| {
            run(Command::new("python3").arg(&script).arg(format).arg(tree).arg(tar));
        });
    }
}

#[test]
fn go() {
    for tool in ["docker", "buildkit", "buildah", "ko", "open", "gnu"] {
        check(&format!("go as {tool}"), |tree, tar| {
            let out = File::create(tar).expect("create a tar");
            let status = Command::new(golang::helper()).args(["write", tool]).arg(tree).stdout(out).status();
            assert!(status.expect("run the helper").success(), "{tool}");
        });
    }
}

#[test]
fn umoci() {
    check("umoci insert", |tree, tar| {
        let image = scratch("umoci");
        let _ = fs::remove_dir_all(&image);
        let tagged = format!("{}:t", image.display());
        run(Command::new("umoci").arg("init").arg("--layout").arg(&image));
        run(Command::new("umoci").args(["new", "--image", &tagged]));
        run(Command::new("umoci").args(["insert", "--image", &tagged]).arg(tree).arg("/inserted"));
        let blobs = fs::read_dir(image.join("blobs/sha256")).expect("list the blobs");
        let sizes = blobs
            .map(|blob| blob.expect("list the blobs"))
            .map(|blob| (blob.metadata().expect("stat").len(), blob.path()));
        let (_, blob) = sizes.max().expect("there is a layer");
        let mut layer = flate2::read::GzDecoder::new(File::open(blob).expect("open the layer"));
        io::copy(&mut layer, &mut File::create(tar).expect("create a tar")).expect("decompress the layer");
        fs::remove_dir_all(&image).expect("remove the image");
    });
}
