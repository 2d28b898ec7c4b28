//! A tree to write: parts of this machine's files, and odd ones.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use d4c_sys::{FileTime, lset_xattr, lutimens, mknod};

use super::writers::run;

/// Parts of a Debian or Ubuntu system with some thousand small files; those that are not there are left out.
const PARTS: [&str; 4] =
    ["usr/share/perl", "usr/lib/git-core", "usr/lib/python3/dist-packages", "etc/alternatives"];

/// Directory of the odd files: all kinds, names, times and attributes, in some hundred blocks.
pub const ODD: &str = "odd";

/// The tree, made when first asked for.
pub fn tree() -> &'static Path {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    TREE.get_or_init(|| {
        let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tar-tree");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(&tree).expect("create the tree");
        for part in PARTS {
            let (from, to) = (Path::new("/").join(part), tree.join(part));
            if from.exists() {
                fs::create_dir_all(to.parent().expect("each part has a parent")).expect("create a directory");
                run(Command::new("cp").arg("-a").arg(from).arg(to));
            }
        }
        long_names(&tree);
        odd_files(&tree.join(ODD));
        sparse_file(&tree.join("sparse"));
        tree
    })
}

/// Two hundred files below directories with long names, as npm and Maven make them.
fn long_names(tree: &Path) {
    for package in 0..20 {
        let inner = format!(
            "node_modules/@organization/some-rather-long-package-name-{package}/node_modules/another-package"
        );
        let dir = tree.join("opt/application").join(inner).join("dist/generated/sources");
        fs::create_dir_all(&dir).expect("create a directory");
        for file in 0..8 {
            let path = dir.join(format!("module-{}-{file}.js", "x".repeat(5 * file)));
            fs::write(&path, format!("export const n = {package}{file};\n")).expect("write a file");
        }
    }
}

fn odd_files(odd: &Path) {
    fs::create_dir(odd).expect("create a directory");
    let file = |name: &[u8], data: &[u8]| {
        let path = odd.join(std::ffi::OsStr::from_bytes(name));
        fs::write(&path, data).expect("write a file");
        path
    };
    file(b"empty", b"");
    file("größe-日本".as_bytes(), b"utf-8");
    file(b"latin-\xe4\xff", b"not utf-8");
    file(&[b'n'; 200], b"long");
    let deep = odd.join(["d"; 3].map(|part| part.repeat(120)).join("/"));
    fs::create_dir_all(&deep).expect("create a directory");
    fs::write(deep.join("deep"), b"deep").expect("write a file");
    let set_uid = file(b"set-uid", b"#!/bin/sh\n");
    fs::set_permissions(&set_uid, fs::Permissions::from_mode(0o6755)).expect("set a mode");
    for (name, seconds) in [("old", -5), ("older", -5_000_000_000), ("far", 9_000_000_000), ("epoch", 0)] {
        for nanoseconds in [0, 500_000_000, 123_456_789] {
            let path = file(format!("{name}-{nanoseconds}").as_bytes(), b"time");
            let time = FileTime::new(seconds, nanoseconds);
            lutimens(&path, time, time).expect("set a time");
        }
    }
    for (name, value) in [("user.d4c", &b"value"[..]), ("user.binary", b"\0=\n\xff")] {
        lset_xattr(&file(name.as_bytes(), b"x"), name.as_bytes(), value).expect("set an attribute");
    }
    fs::hard_link(odd.join("empty"), odd.join("z-hard-link")).expect("make a hard link");
    fs::hard_link(&set_uid, odd.join("z-hard-link-2")).expect("make a hard link");
    symlink("short", odd.join("symlink")).expect("make a symbolic link");
    symlink("../".repeat(60) + "far", odd.join("long-symlink")).expect("make a symbolic link");
    mknod(&odd.join("fifo"), 0o010_644, 0, 0).expect("make a FIFO");
    if run(Command::new("id").arg("-u")).stdout == b"0\n" {
        mknod(&odd.join("char"), 0o020_600, 1, 3).expect("make a device");
        mknod(&odd.join("block"), 0o060_600, 259, 70_000).expect("make a device");
        lset_xattr(&set_uid, b"security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .expect("set a capability");
        let path = file(b"big-owner", b"uid");
        std::os::unix::fs::chown(path, Some(3_000_000), Some(2_100_000)).expect("set an owner");
    }
}

/// Nine runs of data, more than fit into one header.
fn sparse_file(path: &Path) {
    let sparse = fs::File::create(path).expect("create a file");
    for run in 0..9u64 {
        std::os::unix::fs::FileExt::write_at(&sparse, &[b'd'; 4096], run * 100_000 / 4096 * 4096)
            .expect("write a run");
    }
    sparse.set_len(3_000_000).expect("set a length");
}
