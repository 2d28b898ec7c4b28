//! `dir:` with every kind of entry; GNU tar is the judge of what was written. Needs root, for devices and owners.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::*;
use d4c_image::source::Options;
use d4c_sys::FileTime;
use dimg::Digest;

/// A tree with everything in it.
fn tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/file"), vec![b'x'; 1000]).unwrap();
    fs::write(at("dir-file"), "comes after all of dir").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at(&"n".repeat(150)), "long name").unwrap();
    let deep = at(&format!("{}/{}", "d".repeat(120), "e".repeat(200)));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "deep").unwrap();
    fs::write(at("umlaut-ä"), "not ascii").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"latin-\xe4")), "not utf-8").unwrap();
    fs::hard_link(at("dir/file"), at("a-link")).unwrap();
    symlink("dir/file", at("symlink")).unwrap();
    symlink("x".repeat(200), at("long-symlink")).unwrap();
    d4c_sys::mknod(&at("fifo"), libc::S_IFIFO | 0o600, 0, 0).unwrap();
    d4c_sys::mknod(&at("null"), libc::S_IFCHR | 0o666, 1, 3).unwrap();
    d4c_sys::mknod(&at("block"), libc::S_IFBLK | 0o660, 259, 1_000_000).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    chown(at("empty"), Some(3_000_000), Some(u32::MAX - 1)).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    d4c_sys::lset_xattr(&at("dir/file"), b"user.note", b"a\0b\nc").unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    d4c_sys::lset_xattr(&at("dir/file"), b"security.capability", &capability).unwrap();
    d4c_sys::lset_xattr(&at("dir"), b"trusted.machine", b"not of the tree").unwrap();
    let time = |name: &str, seconds, nanoseconds| {
        let time = FileTime::new(seconds, nanoseconds);
        d4c_sys::lutimens(&at(name), time, time).unwrap();
    };
    time("dir/file", 1_700_000_000, 123_456_789);
    time("dir-file", -100, 500_000_000);
    time("symlink", 1, 1);
    time("dir", 1_600_000_000, 0);
    time("", 1_500_000_000, 7);
}

fn make() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    tree(&root);
    (dir, root)
}

/// Everything of a tree that an image keeps, as text.
fn facts(root: &Path) -> Vec<String> {
    let list = run("find", &[&root.display().to_string(), "-printf", "%P\\0"]);
    let mut facts: Vec<_> = list
        .split('\0')
        .filter(|path| !path.ends_with("socket") && !path.contains('\u{fffd}'))
        .map(|path| {
            let whole = root.join(path);
            let meta = whole.symlink_metadata().unwrap();
            let attributes: Vec<_> = d4c_sys::llist_xattr(&whole)
                .unwrap()
                .into_iter()
                .filter(|name| !name.starts_with(b"trusted."))
                .map(|name| d4c_sys::lget_xattr(&whole, &name).unwrap().unwrap())
                .collect();
            let (size, links) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.nlink()) };
            format!(
                "{path} {:o} {}:{} {size} {links} {}.{:09} {:x} {:?} {attributes:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.rdev(),
                meta.is_symlink().then(|| fs::read_link(&whole).unwrap())
            )
        })
        .collect();
    facts.sort();
    facts
}

#[test]
fn gnu_tar_gets_the_tree_back() {
    let (dir, root) = make();
    let image = open(&format!("dir:{}", root.display()));
    assert!(image.is_synthesized());
    assert_eq!(image.layers().len(), 1);
    let layer = image.layer(0).unwrap();
    assert_eq!(Digest::of(&layer), layer.diff_id());
    assert_eq!(layer.len() as u64, image.layers()[0].size);

    let tar = dir.path().join("layer.tar").display().to_string();
    fs::write(&tar, &layer[..]).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let flags = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", &tar, "-C"];
    run("tar", &[&flags[..], &[&out.display().to_string()]].concat());
    let (before, after) = (facts(&root), facts(&out));
    for (before, after) in std::iter::zip(&before, &after) {
        assert_eq!(before, after);
    }
    assert_eq!(before.len(), after.len());
    assert_eq!(fs::read(out.join(OsStr::from_bytes(b"latin-\xe4"))).unwrap(), b"not utf-8");
    assert!(!out.join("socket").exists());
    assert!(d4c_sys::llist_xattr(&out.join("dir")).unwrap().is_empty());
    assert_eq!(out.join("a-link").metadata().unwrap().ino(), out.join("dir/file").metadata().unwrap().ino());

    let names = run("tar", &["-tf", &tar]);
    let names: Vec<_> = names.lines().collect();
    assert_eq!(names[..2], ["./", "a-link"]);
    let sorted = names.iter().position(|name| *name == "dir-file").unwrap();
    assert_eq!(names[sorted - 3..=sorted], ["dir/", "dir/file", "dir/sub/", "dir-file"]);
}

#[test]
fn the_same_tree_has_the_same_digest() {
    let (dir, root) = make();
    let first = open(&format!("dir:{}", root.display()));
    let copy = dir.path().join("copy");
    run("cp", &["-a", &root.display().to_string(), &copy.display().to_string()]);
    let second = open(&format!("dir:{}/", copy.display()));
    assert_eq!(first.manifest_digest(), second.manifest_digest());
    assert_eq!(first.config_digest(), second.config_digest());
    let link = dir.path().join("link");
    symlink("copy", &link).unwrap();
    assert_eq!(open(&format!("dir:{}", link.display())).manifest_digest(), first.manifest_digest());

    let options = Options { platform: Some("linux/arm/v6".parse().unwrap()), ..Options::default() };
    let arm = open_with(&format!("dir:{}", root.display()), &options).unwrap();
    assert_eq!(arm.config().platform.to_string(), "linux/arm/v6");
    assert_eq!(arm.layers()[0].diff_id, first.layers()[0].diff_id);

    let changed = FileTime::new(1_700_000_000, 123_456_788);
    d4c_sys::lutimens(&copy.join("dir/file"), changed, changed).unwrap();
    assert_ne!(open(&format!("dir:{}", copy.display())).manifest_digest(), first.manifest_digest());
}

/// One pinned digest: a change here breaks every delta made from a `dir:` image.
#[test]
fn the_form_is_pinned() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("etc")).unwrap();
    fs::write(at("etc/hello"), "hello\n").unwrap();
    symlink("etc/hello", at("link")).unwrap();
    for (name, mode) in [("", 0o755), ("etc", 0o755), ("etc/hello", 0o644)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for name in ["link", "etc/hello", "etc", ""] {
        let time = FileTime::new(1_700_000_000, 25_000_000);
        d4c_sys::lutimens(&at(name), time, time).unwrap();
    }
    let options = Options { platform: Some("linux/amd64".parse().unwrap()), ..Options::default() };
    let image = open_with(&format!("dir:{}", dir.path().display()), &options).unwrap();
    let listing = (image.layers()[0].diff_id.to_string(), image.manifest_digest().to_string());
    assert_eq!(listing, (PINNED.0.to_owned(), PINNED.1.to_owned()));
}

const PINNED: (&str, &str) = (
    "sha256:40443ccc12a1ea428e61173c32a127db48da56256c00e872bd4c7ae9bcbff615",
    "sha256:208447397ecbe5fd63f3a1db29be97c5e0d4eae6cc9d1110aad9aaa74017615b",
);

#[test]
fn skopeo_and_umoci_take_what_is_made() {
    let (dir, root) = make();
    let image = open(&format!("dir:{}", root.display()));
    let layout = dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        fs::write(blob(&layout.display().to_string(), Digest::of(bytes)), bytes).unwrap();
    };
    put(image.manifest_bytes());
    put(image.config_bytes());
    put(&image.layer(0).unwrap());
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"t"}}}}]}}"#,
        image.manifest_digest(),
        image.manifest_bytes().len()
    );
    fs::write(layout.join("index.json"), index).unwrap();
    let source = format!("oci:{}:t", layout.display());
    assert_eq!(open(&source).manifest_bytes(), image.manifest_bytes());
    let told = skopeo(&["inspect", "--format", "{{.Digest}} {{.Architecture}}", &source]);
    assert!(told.starts_with(&image.manifest_digest().to_string()), "{told}");
    let bundle = dir.path().join("bundle").display().to_string();
    run("umoci", &["unpack", "--image", &format!("{}:t", layout.display()), &bundle]);
    let unpacked = Path::new(&bundle).join("rootfs");
    assert_eq!(facts(&root), facts(&unpacked));
}

#[test]
fn trees_that_are_none_are_refused() {
    fails("dir:/nonexistent", 3, "read root file system: /nonexistent: No such file");
    fails("dir:/etc/passwd", 4, "is not a directory");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = format!("dir:{}", dir.path().display());
    fs::write(dir.path().join(".wh.x"), "").unwrap();
    fails(&source, 1, "means a deletion in a layer");
    fs::rename(dir.path().join(".wh.x"), dir.path().join("x")).unwrap();
    d4c_sys::lset_xattr(&dir.path().join("x"), b"user.a=b", b"").unwrap();
    fails(&source, 1, "has a = in its name");
    fs::remove_file(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("x"), vec![1; 5000]).unwrap();
    let limit = Options { max_layer_bytes: Some(4000), ..Options::default() };
    assert_eq!(failure_with(&source, &limit).class().exit_code(), 5);
    let small = Tmpfs::mount("1m");
    let full = Options { temp_dir: Some(small.0.path().into()), ..Options::default() };
    fs::remove_file(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("y"), vec![1; 3_000_000]).unwrap();
    let error = failure_with(&source, &full);
    assert_eq!(error.class().exit_code(), 5, "{error}");
    assert!(error.to_string().starts_with("write layer to: "), "{error}");
}
