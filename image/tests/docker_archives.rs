//! Docker archives of old forms, and hostile ones, written entry by entry.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::*;
use dimg::Digest;
use tar::{Builder, EntryType, Header};

/// A layer of one file, as `tar` bytes.
fn layer(text: &str) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    put(&mut builder, "file", text.as_bytes());
    builder.into_inner().unwrap()
}

fn put(builder: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, bytes).unwrap();
}

fn link(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(0);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
}

fn config(layers: &[&[u8]]) -> String {
    let ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

/// Writes an archive of `layers` at the given paths; `more` adds what else there is.
fn archive(
    path: &Path,
    layers: &[&[u8]],
    paths: &[&str],
    more: impl FnOnce(&mut Builder<Vec<u8>>),
) -> String {
    let mut builder = Builder::new(Vec::new());
    put(&mut builder, "./config.json", config(layers).as_bytes());
    more(&mut builder);
    let paths: Vec<_> = paths.iter().map(|path| format!("\"{path}\"")).collect();
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":["x:1"],"Layers":[{}]}}]"#, paths.join(","));
    put(&mut builder, "manifest.json", manifest.as_bytes());
    std::fs::write(path, builder.into_inner().unwrap()).unwrap();
    format!("docker-archive:{}", path.display())
}

#[test]
fn linked_layers_of_old_archives() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (layer("a"), layer("b"));
    let source = archive(
        &dir.path().join("a.tar"),
        &[&a, &b, &a, &b],
        &["one/layer.tar", "two/layer.tar", "three/layer.tar", "./four/layer.tar"],
        |builder| {
            put(builder, "one/layer.tar", &a);
            put(builder, "two/layer.tar", b"an older member of the same name");
            put(builder, "two/layer.tar", &b);
            link(builder, EntryType::Symlink, "three/layer.tar", "../one/layer.tar");
            link(builder, EntryType::Link, "four/layer.tar", "two/layer.tar");
        },
    );
    let image = open(&source);
    assert_eq!(image.layers().len(), 4);
    assert_eq!(read_all(&image), 2 * (a.len() + b.len()));
    assert!(image.is_synthesized());
}

#[test]
fn compressed_layers_are_told_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (layer("a"), layer("b"));
    let half = a.len() / 2;
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip(&a[..half]), gzip(&a[half..]), gzip(b"")].concat();
    // A skippable frame first, in between and last, as zstd:chunked has them.
    let skip = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    let frame = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let frames = [skip.clone(), frame(&b[..half]), skip.clone(), frame(&b[half..]), skip].concat();
    let source = archive(&dir.path().join("a.tar"), &[&a, &b], &["1.tar", "2.tar"], |builder| {
        put(builder, "1.tar", &members);
        put(builder, "2.tar", &frames);
    });
    let image = open(&source);
    assert_eq!(read_all(&image), a.len() + b.len());
    assert_eq!(image.layers()[0].size, a.len() as u64);
    assert_eq!(image.layers()[0].digest, image.layers()[0].diff_id);

    let cut = archive(&dir.path().join("b.tar"), &[&a], &["1.tar"], |builder| {
        put(builder, "1.tar", &members[..members.len() - 30]);
    });
    fails(&cut, 4, "decompress layer");
    let junk = archive(&dir.path().join("c.tar"), &[&a], &["1.tar"], |builder| {
        put(builder, "1.tar", &[&members[..], b"junk behind the end"].concat());
    });
    fails(&junk, 4, "decompress layer");
}

#[test]
fn names_cannot_leave_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let a = layer("a");
    let file = |name: &str| dir.path().join(name);
    let secret = file("secret");
    std::fs::write(&secret, &a).unwrap();
    for (number, path) in
        ["../secret", "/etc/passwd", "x/../../secret", secret.to_str().unwrap()].iter().enumerate()
    {
        let source = archive(&file(&format!("{number}.tar")), &[&a], &[path], |_| {});
        fails(&source, 4, "leaves the archive");
    }
    let cases = [
        ("/etc/passwd", "leaves the archive"),
        ("../../secret", "leaves the archive"),
        ("../x/layer.tar", "16 links in a row"),
        ("gone", "missing from the archive"),
    ];
    for (number, (target, why)) in cases.iter().enumerate() {
        let source = archive(&file(&format!("l{number}.tar")), &[&a], &["x/layer.tar"], |builder| {
            link(builder, EntryType::Symlink, "x/layer.tar", target);
        });
        fails(&source, 4, why);
    }
}

#[test]
fn broken_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (layer("a"), layer("b"));
    let file = |name: &str| dir.path().join(name);
    let wrong = archive(&file("1"), &[&a], &["1.tar"], |builder| put(builder, "1.tar", &b));
    fails(&wrong, 4, &format!("digest is {}, expected {}", Digest::of(&b), Digest::of(&a)));
    let fewer = archive(&file("2"), &[&a, &b], &["1.tar"], |builder| put(builder, "1.tar", &a));
    fails(&fewer, 4, "the config has 2 diff IDs, the archive 1 layers");

    let whole = archive(&file("3"), &[&a], &["1.tar"], |builder| put(builder, "1.tar", &a));
    let bytes = std::fs::read(file("3")).unwrap();
    for length in (0..bytes.len() - 2048).step_by(100) {
        std::fs::write(file("3"), &bytes[..length]).unwrap();
        let error = failure(&whole);
        assert_eq!(error.class().exit_code(), 4, "cut at {length}: {error}");
    }

    let json = |text: &str| {
        let mut builder = Builder::new(Vec::new());
        put(&mut builder, "manifest.json", text.as_bytes());
        std::fs::write(file("4"), builder.into_inner().unwrap()).unwrap();
        format!("docker-archive:{}", file("4").display())
    };
    fails(&json("[]"), 3, "has no image");
    fails(&json("{}"), 4, "read manifest");
    fails(&json(r#"[{"Config":"a"},{"Config":"b","RepoTags":["y:2","x:1"]}]"#), 2, "names present: x:1, y:2");
    fails(&json(r#"[{"Config":"gone"}]"#), 4, "missing from the archive");
}
