//! `d4c merge`: deltas in a row as one, and deltas that do not follow each other.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use std::fs;

use common::Folder;
use serde_json::Value;

fn series() -> Folder {
    let folder = Folder::new();
    folder.ok("convert oci:i:v1 v1.cdimg");
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    folder.ok("diff oci:i:v2 oci:i:v3 b.cdimg");
    folder
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn merged_deltas_make_what_they_make_in_a_row() {
    let folder = series();
    let merged = json(&folder.ok("merge a.cdimg b.cdimg m.cdimg --json"));
    let stat = json(&folder.ok("stat m.cdimg --json"));
    assert_eq!(merged["bytes"], stat["bytes"]);
    folder.ok("verify m.cdimg --base oci:i:v1");
    let after = json(&folder.ok("patch v1.cdimg a.cdimg b.cdimg oci:twice:x --json"));
    let at_once = json(&folder.ok("patch v1.cdimg m.cdimg oci:once:x --json"));
    for key in ["manifest", "config", "diff_ids", "written_manifest"] {
        assert_eq!(after[key], at_once[key], "{key}");
    }
    folder.ok("diff oci:i:v1 oci:i:v3 direct.cdimg");
    let direct = json(&folder.ok("stat direct.cdimg --json"));
    let bytes = |stat: &Value| stat["bytes"].as_u64().unwrap();
    assert!(bytes(&stat) * 10 <= bytes(&direct) * 11, "{stat} {direct}");
    assert_eq!(stat["target"], direct["target"]);
    assert_eq!(stat["parent"], direct["parent"]);
}

#[test]
fn a_base_image_and_deltas_are_a_base_image() {
    let folder = series();
    folder.ok("merge v1.cdimg a.cdimg b.cdimg m.cdimg");
    assert_eq!(json(&folder.ok("stat m.cdimg --json"))["parent"], Value::Null);
    folder.ok("verify m.cdimg");
    let target = |file: &str| {
        let target = &json(&folder.ok(&format!("stat {file} --json")))["target"];
        let ids = |layer: &Value| layer["diff_id"].clone();
        (target["manifest"].clone(), target["layers"].as_array().unwrap().iter().map(ids).collect::<Vec<_>>())
    };
    assert_eq!(target("m.cdimg"), target("b.cdimg"));
}

#[test]
fn neither_threads_nor_the_output_change_a_byte() {
    let folder = series();
    folder.ok("merge a.cdimg b.cdimg one.cdimg --threads 1");
    folder.ok("merge a.cdimg b.cdimg eight.cdimg --threads 8 --memory 64MiB");
    let one = fs::read(folder.path("one.cdimg")).unwrap();
    assert_eq!(one, fs::read(folder.path("eight.cdimg")).unwrap());
    assert_eq!(one, folder.run("merge a.cdimg b.cdimg -").stdout);
    // Parts without manifest and config give such a part.
    folder.ok("unpack b.cdimg parts");
    folder.ok("merge a.cdimg parts/image.dimg m.dimg");
    assert_eq!(json(&folder.ok("stat m.dimg --json"))["format"], "dimg");
    folder.ok("verify m.dimg --base oci:i:v1");
}

#[test]
fn a_system_that_refuses_threads_only_makes_it_slow() {
    let folder = series();
    // No stack of this size is to be had, so that every thread is refused.
    let alone = |words: &str| {
        let output = folder.command(words).env("RUST_MIN_STACK", (1u64 << 60).to_string()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    alone("diff oci:i:v1 oci:i:v2 alone.cdimg --threads 2");
    assert_eq!(fs::read(folder.path("alone.cdimg")).unwrap(), fs::read(folder.path("a.cdimg")).unwrap());
    alone("merge a.cdimg b.cdimg m.cdimg --threads 2");
    alone("verify m.cdimg --base oci:i:v1 --threads 2");
    alone("patch v1.cdimg m.cdimg dir:out --threads 2");
    assert!(folder.path("out/etc/text").is_file());
}

#[test]
fn what_does_not_follow_is_refused() {
    let folder = series();
    let before = folder.names();
    let (code, line) = folder.fails("merge b.cdimg a.cdimg m.cdimg");
    assert_eq!(code, 4);
    assert!(line.starts_with("d4c: delta file: a.cdimg: match parent: layer 0: "), "{line}");
    let line = "d4c: merge deltas: v1.cdimg: a base image does not follow another file";
    assert_eq!(folder.fails("merge a.cdimg v1.cdimg m.cdimg"), (4, line.to_owned()));
    let line = "d4c: read file: no.cdimg: no such file or directory";
    assert_eq!(folder.fails("merge a.cdimg no.cdimg m.cdimg"), (3, line.to_owned()));
    assert_eq!(folder.fails("merge a.cdimg b.cdimg").0, 2);
    assert_eq!(folder.names(), before);
}

#[test]
fn damage_is_told_and_leaves_nothing() {
    let folder = series();
    let whole = fs::read(folder.path("b.cdimg")).unwrap();
    for at in (0..whole.len()).step_by(127) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        for bytes in [&bytes[..], &whole[..at]] {
            fs::write(folder.path("bad.cdimg"), bytes).unwrap();
            let output = folder.run("merge a.cdimg bad.cdimg m.cdimg --quiet");
            let error = String::from_utf8(output.stderr).unwrap();
            if output.status.success() {
                // The byte was of something that is not needed any more.
                folder.ok("verify m.cdimg --base oci:i:v1");
                fs::remove_file(folder.path("m.cdimg")).unwrap();
                continue;
            }
            assert_eq!(output.status.code(), Some(4), "{at}: {error}");
            assert!(error.lines().count() == 1 && error.contains("bad.cdimg"), "{at}: {error}");
            assert!(!folder.names().iter().any(|name| name.starts_with(['m', '.'])), "{:?}", folder.names());
        }
    }
}
