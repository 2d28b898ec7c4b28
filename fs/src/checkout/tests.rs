use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use dimg::index::{Kind, LayerIndex};

use super::*;
use crate::testing::{Members, Memory, Overlay, Tmpfs, need_root, scan};

/// The xattr security.capability that `setcap cap_net_raw+ep` writes.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// On a disk: extended attributes of every kind, overlay mounts.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn odd_layers(memory: &Memory) -> Vec<Arc<LayerIndex>> {
    let capable = memory.put(b"#!/bin/sh\n");
    let big = memory.put(&vec![5; 3 << 20]);
    let lower = Members::default()
        .with_xattrs(Kind::Directory, b"./", &[("user.root", b"r")], |e| {
            (e.mode, e.uid, e.mtime) = (0o750, 9, 5)
        })
        .with_xattrs(Kind::Directory, b"d", &[("user.d", b"d\0")], |e| {
            (e.mode, e.uid, e.gid, e.mtime, e.mtime_nsec) = (0o3777, 3_000_000, 4, -12_345, 999_999_999);
        })
        .with_xattrs(Kind::Regular, b"d/ping", &[("security.capability", CAPABILITY)], |e| {
            (e.mode, e.uid, e.content) = (0o4755, 7, Some(capable));
        })
        .add(Kind::Regular, b"d/big", |e| (e.mode, e.content, e.mtime_nsec) = (0o400, Some(big), 123_456_789))
        .add(Kind::CharDevice, b"d/null", |e| (e.mode, e.dev_major, e.dev_minor) = (0o666, 1, 3))
        .add(Kind::BlockDevice, b"d/loop", |e| (e.dev_major, e.dev_minor, e.gid) = (7, 0x12345, 6))
        .add(Kind::Fifo, b"d/fifo", |e| (e.mode, e.mtime) = (0o620, 1))
        .add(Kind::Symlink, b"d/link", |e| {
            (e.link, e.uid, e.mtime_nsec) = (b"\xff/../x".as_slice().into(), 5, 7)
        })
        .add(Kind::Regular, b"d/\xff\xfe name", |_| {})
        .link("d/hard", "d/ping")
        .link("d/slink", "d/link")
        .file("gone/a", memory, "a")
        .file("gone/b", memory, "b")
        .file("opq/a", memory, "a")
        .file("kept/sub/file", memory, "kept")
        .link("kept/other", "kept/sub/file")
        .add(Kind::Directory, b"kept/sub", |e| (e.mode, e.mtime) = (0o700, 42));
    let upper = Members::default()
        .empty("gone/.wh.a")
        .empty("opq/.wh..wh..opq")
        .file("opq/new", memory, "new")
        .file("kept/sub/more", memory, "more")
        .link("third", "kept/other")
        .with_xattrs(Kind::Directory, b"ov", &[("trusted.overlay.opaque", b"y"), ("trusted.x", b"1")], |_| {})
        .with_xattrs(
            Kind::Regular,
            b"ov/f",
            &[("trusted.overlay.redirect", b"/etc"), ("user.overlay.x", b"2")],
            |_| {},
        )
        .file("d/ping", memory, "replaced");
    let top =
        Members::default().empty(".wh.ov").dir("ov").dir("gone").empty(".wh..wh.aufs").empty("kept/.wh.sub");
    vec![lower.index(), upper.index(), top.index()]
}

#[test]
fn root_every_kind_of_file_gets_what_the_image_says() {
    need_root();
    let (memory, dir) = (Memory::default(), disk());
    let layers = odd_layers(&memory);
    let tree = Tree::merge(&layers[..1]).unwrap();
    let dest = dir.path().join("root");
    let written = checkout_root(&tree, &memory, &dest, &Options::default()).unwrap();
    assert_eq!((written.entries, written.dropped_xattrs), (tree.walk().count() as u64, 0));
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let lines = scan(&dest);
    let find = |name: &str| lines.iter().find(|line| line.starts_with(&format!("{name} "))).unwrap().as_str();
    assert_eq!(lines[0], " 40750 9:0 5.000000000 user.root=[114]");
    assert_eq!(find("d"), "d 43777 3000000:4 -12345.999999999 user.d=[100, 0]");
    let script = dimg::Digest::of(b"#!/bin/sh\n");
    let ping =
        format!("104755 7:0 1700000000.000000000 10 {script} security.capability={CAPABILITY:?} is d/hard");
    assert_eq!(find("d/ping"), format!("d/ping {ping}"));
    assert_eq!(find("d/hard"), format!("d/hard {ping}"));
    assert!(find("d/big").starts_with("d/big 100400 0:0 1700000000.123456789 3145728 "));
    assert_eq!(find("d/null"), "d/null 20666 0:0 1700000000.000000000 dev 103");
    assert_eq!(find("d/loop"), "d/loop 60644 0:6 1700000000.000000000 dev 12300745");
    assert_eq!(find("d/fifo"), "d/fifo 10620 0:0 1.000000000");
    assert_eq!(find("d/link"), "d/link 120777 5:0 1700000000.000000007 -> \u{fffd}/../x is d/link");
    assert!(find("d/\u{fffd}\u{fffd} name").contains(empty));
    assert_eq!(find("kept/sub"), "kept/sub 40700 0:0 42.000000000");
    assert_eq!(find("gone"), "gone 40755 0:0 0.000000000");
}

#[test]
fn root_an_overlay_of_the_layers_is_the_merged_tree() {
    need_root();
    let (memory, dir) = (Memory::default(), disk());
    let layers = odd_layers(&memory);
    let mut tree = Tree::default();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (number, index) in layers.iter().enumerate() {
        let path = dir.path().join(number.to_string());
        let layer = Layer::new(index).unwrap();
        let (upper, _) = checkout_layer(&tree, &layer, &memory, &path, &Options::default()).unwrap();
        tree.cover(&upper);
        paths.push(path);
        let merged = Tree::merge(&layers[..=number]).unwrap();
        assert_eq!(crate::testing::text(&tree), crate::testing::text(&merged));
        let root = dir.path().join(format!("root-{number}"));
        checkout_root(&tree, &memory, &root, &Options::default()).unwrap();
        let (mut seen, mut want) = (scan_overlay(&paths), scan(&root));
        // The root of a snapshot is containerd's, not the image's.
        seen.remove(0);
        want.remove(0);
        for (seen, want) in seen.iter().zip(&want) {
            assert_eq!(seen, want, "layer {number}");
        }
        assert_eq!(seen.len(), want.len());
        let meta = paths[number].metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o755, 0, 0));
    }
}

/// What an overlay mount shows. Directories of the lowest layer alone are mounted by binding them: an overlay has two.
fn scan_overlay(layers: &[PathBuf]) -> Vec<String> {
    if layers.len() == 1 {
        return scan(&layers[0]);
    }
    scan(Overlay::new(layers).path())
}

#[test]
fn hostile_names_stay_inside() {
    let (memory, dir) = (Memory::default(), disk());
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let layer = Members::default()
        .symlink("a", outside.to_str().unwrap())
        .file("a/passwd", &memory, "hostile")
        .symlink("b", "../../../../../../../../..")
        .file("b/escaped", &memory, "hostile")
        .file("../../outside/up", &memory, "hostile")
        .symlink("c", "a")
        .link("c/hard", "a/passwd");
    let layer = if nix::unistd::geteuid().is_root() { layer } else { layer.dir("plain") };
    let dest = dir.path().join("root");
    checkout_root(&Tree::merge(&[layer.index()]).unwrap(), &memory, &dest, &Options::default()).unwrap();
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
    let inside = dest.join(outside.strip_prefix("/").unwrap());
    assert_eq!(fs::read(inside.join("passwd")).unwrap(), b"hostile");
    assert_eq!(fs::metadata(inside.join("hard")).unwrap().nlink(), 2);
    assert!(dest.join("escaped").exists() && dest.join("outside/up").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn the_destination_is_new_or_empty() {
    let (memory, dir) = (Memory::default(), disk());
    let tree = Tree::merge(&[Members::default().file("f", &memory, "x").index()]).unwrap();
    let write = |dest: &str| checkout_root(&tree, &memory, &dir.path().join(dest), &Options::default());
    fs::create_dir(dir.path().join("empty")).unwrap();
    symlink("empty", dir.path().join("link")).unwrap();
    write("link").unwrap();
    assert_eq!(fs::read(dir.path().join("empty/f")).unwrap(), b"x");
    write("new").unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    for used in ["new", "file", "dangling"] {
        assert!(matches!(write(used), Err(CheckoutError::DestinationInUse { .. })), "{used}");
    }
    assert!(matches!(write("no/such/parent"), Err(CheckoutError::Io { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn missing_and_wrong_contents_leave_nothing() {
    let (memory, dir) = (Memory::default(), disk());
    let dest = dir.path().join("root");
    let good = Members::default().add(Kind::Directory, b"d", |e| e.mode = 0).file("d/f", &memory, "x");
    let absent = dimg::index::Content { digest: dimg::Digest::of(b"absent"), size: 6 };
    let layer = good.add(Kind::Regular, b"d/g", |e| e.content = Some(absent));
    let error = checkout_root(&Tree::merge(&[layer.index()]).unwrap(), &memory, &dest, &Options::default());
    let error = error.unwrap_err();
    assert!(matches!(error, CheckoutError::MissingContent { .. }), "{error}");
    assert!(error.to_string().starts_with("write file: /d/g: its content sha256:"), "{error}");
    let mut wrong = memory.put(b"abc");
    wrong.size = 4;
    let layer = Members::default().add(Kind::Regular, b"g", |e| e.content = Some(wrong));
    let error = checkout_root(&Tree::merge(&[layer.index()]).unwrap(), &memory, &dest, &Options::default());
    assert!(matches!(error.unwrap_err(), CheckoutError::WrongSize { expected: 4, actual: 3, .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn root_a_full_disk_is_said_and_nothing_is_left() {
    let (memory, small) = (Memory::default(), Tmpfs::new("512k"));
    let big = memory.put(&vec![1; 1 << 20]);
    let layer =
        Members::default().file("a/b", &memory, "x").add(Kind::Regular, b"big", |e| e.content = Some(big));
    let tree = Tree::merge(&[layer.index()]).unwrap();
    for dest in [small.path().join("root"), small.path().to_owned()] {
        let error = checkout_root(&tree, &memory, &dest, &Options::default()).unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
    }
}

#[test]
fn root_a_mount_is_filled_in_place() {
    let (memory, small) = (Memory::default(), Tmpfs::new("512k"));
    let layer = Members::default().add(Kind::Directory, b".", |e| e.mode = 0o711).file("a/b", &memory, "x");
    let tree = Tree::merge(&[layer.index()]).unwrap();
    checkout_root(&tree, &memory, small.path(), &Options { sync: true, ..Options::default() }).unwrap();
    let names: Vec<_> = fs::read_dir(small.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    let meta = small.path().metadata().unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.mtime()), (0o711, 1_700_000_000));
}

#[test]
fn root_long_runs_of_zeros_take_no_space() {
    need_root();
    let (memory, dir) = (Memory::default(), disk());
    let mut bytes = vec![0; 4 << 20];
    bytes[2 << 20] = 1;
    let content = memory.put(&bytes);
    let layer = Members::default().add(Kind::Regular, b"sparse", |e| e.content = Some(content)).index();
    let tree = Tree::merge(&[layer]).unwrap();
    let file = dir.path().join("root/sparse");
    checkout_root(&tree, &memory, &dir.path().join("root"), &Options::default()).unwrap();
    assert!(fs::read(&file).unwrap() == bytes && file.metadata().unwrap().blocks() < 1024);
}

#[test]
fn any_number_of_workers_writes_the_same() {
    let (memory, dir) = (Memory::default(), disk());
    let mut layer = Members::default();
    for number in 0..300 {
        layer = layer.file(&format!("d{}/f{number}", number % 3), &memory, &number.to_string());
    }
    let tree = Tree::merge(&[layer.index()]).unwrap();
    let scans: Vec<_> = [1, 2, 8]
        .map(|workers| {
            let dest = dir.path().join(workers.to_string());
            let workers = NonZeroUsize::new(workers).unwrap();
            checkout_root(&tree, &memory, &dest, &Options { workers, sync: false }).unwrap();
            scan(&dest)
        })
        .into();
    assert!(scans[0] == scans[1] && scans[1] == scans[2]);
    assert_eq!(scans[0].len(), 304);
}
