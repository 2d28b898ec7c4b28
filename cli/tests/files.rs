//! The commands on files, end to end on small images.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use common::Folder;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_base_and_deltas_make_the_image_again() {
    let folder = Folder::new();
    folder.ok("convert oci:i:v1 v1.cdimg");
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    folder.ok("diff oci:i:v2 oci:i:v3 b.cdimg");
    folder.ok("verify v1.cdimg");
    folder.ok("verify a.cdimg --base v1.cdimg");
    let made = json(&folder.ok("patch v1.cdimg a.cdimg b.cdimg oci:out:v3 --json"));
    folder.ok("convert oci:out:v3 back.cdimg");
    folder.ok("convert oci:i:v3 v3.cdimg");
    let (back, v3) = (json(&folder.ok("stat back.cdimg --json")), json(&folder.ok("stat v3.cdimg --json")));
    assert_eq!(back["target"]["config"], v3["target"]["config"]);
    assert_eq!(back["target"]["layers"], v3["target"]["layers"]);
    assert_eq!(made["config"], v3["target"]["config"]);
    assert_eq!(made["manifest"], v3["target"]["manifest"]);
    assert_eq!(made["written_manifest"], back["target"]["manifest"]);

    let (alone, v1) =
        (json(&folder.ok("patch v1.cdimg oci:alone --json")), json(&folder.ok("stat v1.cdimg --json")));
    assert_eq!((&alone["config"], &alone["manifest"]), (&v1["target"]["config"], &v1["target"]["manifest"]));
    folder.ok("verify a.cdimg --base oci:alone");

    folder.ok("patch oci:i:v1 a.cdimg dir:root");
    let meta = |name: &str| fs::symlink_metadata(folder.path("root").join(name)).unwrap();
    assert_eq!(fs::read_to_string(folder.path("root/new")).unwrap(), "version 2\n");
    assert_eq!((meta("new").permissions().mode() & 0o7777, meta("new").mtime_nsec()), (0o4755, 250_000_000));
    assert_eq!((meta("hard").ino(), meta("hard").nlink()), (meta("etc/text").ino(), 2));
    assert!(meta("soft").is_symlink() && !folder.path("root/gone").exists());
    assert_eq!(fs::read_link(folder.path("root/soft")).unwrap().to_str(), Some("etc/text"));
    assert!(!folder.names().iter().any(|name| name.starts_with('.')));
}

#[test]
fn a_delta_costs_what_changed() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let stat = json(&folder.ok("stat a.cdimg --json"));
    let keys = [
        "file",
        "bytes",
        "format",
        "target",
        "parent",
        "metadata_bytes",
        "data_bytes",
        "contents",
        "by_codec",
        "full_bytes",
        "pull_bytes",
    ];
    assert!(keys.iter().all(|key| stat.get(key).is_some()), "{stat}");
    assert_eq!(stat["bytes"], fs::metadata(folder.path("a.cdimg")).unwrap().len());
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&stat["bytes"]) < 3000 && number(&stat["pull_bytes"]) > 200_000, "{stat}");
    let contents = &stat["contents"];
    let counts = ["new", "patched", "reused"].map(|kind| number(&contents[kind]));
    // `etc/text` and `new` changed; `noise-1` has another name; `empty` and `gone` are as they were.
    assert_eq!((counts[0] + counts[1], counts[2]), (2, 3));
    assert_eq!(number(&stat["metadata_bytes"]) + number(&stat["data_bytes"]), number(&stat["bytes"]));
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = Folder::new();
    for level in ["fast", "default"] {
        folder.ok(&format!("diff oci:i:v1 oci:i:v3 one.cdimg --threads 1 --level {level}"));
        folder.ok(&format!("diff oci:i:v1 oci:i:v3 eight.cdimg --threads 8 --level {level}"));
        assert_eq!(
            fs::read(folder.path("one.cdimg")).unwrap(),
            fs::read(folder.path("eight.cdimg")).unwrap()
        );
    }
}

#[test]
fn every_codec_makes_the_same_image() {
    let folder = Folder::new();
    for codec in ["auto", "plain", "bsdiff", "store"] {
        folder.ok(&format!("diff oci:i:v1 oci:i:v2 {codec}.cdimg --codec {codec}"));
        folder.ok(&format!("verify {codec}.cdimg --base oci:i:v1"));
    }
    let by = json(&folder.ok("stat bsdiff.cdimg --json"));
    assert!(by["by_codec"]["bsdiff"]["contents"].as_u64() >= Some(1), "{by}");
}

#[test]
fn parts_come_apart_and_together() {
    let folder = Folder::new();
    folder.ok("convert oci:i:v1 v1.cdimg");
    folder.ok("unpack v1.cdimg parts");
    assert_eq!(common::names(&folder.path("parts")), ["config.json", "image.dimg", "manifest.json"]);
    folder.ok(
        "pack --dimg parts/image.dimg --manifest parts/manifest.json --config parts/config.json back.cdimg",
    );
    folder.ok("unpack back.cdimg again");
    for name in common::names(&folder.path("parts")) {
        let read = |dir: &str| fs::read(folder.path(dir).join(&name)).unwrap();
        assert_eq!(read("parts"), read("again"), "{name}");
    }
    folder.ok("verify parts/image.dimg");
    assert!(folder.ok("show --dump back.cdimg").starts_with("cdimg version=2\n"));
    assert!(folder.ok("show back.cdimg").contains("parent  none: a base image\n"));
}

#[test]
fn standard_input_and_output_stream() {
    let folder = Folder::new();
    folder.ok("convert oci:i:v1 v1.cdimg");
    let d4c = env!("CARGO_BIN_EXE_d4c");
    let script = format!("{d4c} convert oci:i:v1 - | tee out | {d4c} verify - && cmp out v1.cdimg");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // Whoever reads may have enough.
    let script = format!("{d4c} show --dump v1.cdimg | head -n 1");
    let output =
        Command::new("bash").args(["-o", "pipefail", "-c", &script]).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // But not of a file.
    for words in ["convert oci:i:v1 -", "diff oci:i:v1 oci:i:v2 -"] {
        let script = format!("{d4c} {words} | (exec <&-; sleep 1); exit ${{PIPESTATUS[0]}}");
        let output = Command::new("bash").args(["-c", &script]).current_dir(&folder.0).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0), "{words}: {output:?}");
    }
    let script = format!("{d4c} verify - < v1.cdimg; {d4c} show - < v1.cdimg; {d4c} show - < i/index.json");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&folder.0).output().unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        said.starts_with("standard input: structure and ") && said.contains("\nstandard input: cdimg"),
        "{said}"
    );
    assert!(failed.starts_with("d4c: delta file: standard input: "), "{failed}");
}

#[test]
fn a_result_stands_below_no_bar() {
    let folder = Folder::new();
    fs::create_dir(folder.path("root")).unwrap();
    let mut state = 1u32;
    let noise = (0..6 << 20).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0] & 0x3f
    });
    fs::write(folder.path("root/noise"), noise.collect::<Vec<u8>>()).unwrap();
    let words = format!("{} convert --level best dir:root out.cdimg", env!("CARGO_BIN_EXE_d4c"));
    let output =
        Command::new("script").args(["-qec", &words, "/dev/null"]).current_dir(&folder.0).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("make 1 content "), "no bar was drawn: {said:?}");
    let (before, _) = said.split_once("out.cdimg: ").unwrap();
    assert!(before.ends_with("\r\x1b[2K"), "{said:?}");
}

#[test]
fn the_last_of_an_option_counts() {
    let folder = Folder::new();
    folder.ok(
        "convert --level best --level fast oci:i:v1 twice.cdimg --threads 1 --threads 2 -q -q --json --json",
    );
    folder.ok("convert --level fast oci:i:v1 once.cdimg");
    let read = |name| fs::read(folder.path(name)).unwrap();
    assert_eq!(read("twice.cdimg"), read("once.cdimg"));
    // Options may stand between the many and the last.
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    folder.ok("patch oci:i:v1 a.cdimg --threads 1 oci:out:v2");
    // What has a name there is not added without one.
    folder.ok("patch oci:i:v1 a.cdimg oci:out");
    let index = json(&fs::read_to_string(folder.path("out/index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{index}");
}

#[test]
fn help_and_man_pages_tell_the_order() {
    let folder = Folder::new();
    let help = folder.ok("--help");
    assert!(help.contains("\n  completions ") && help.contains("\n  man "), "{help}");
    folder.ok("man pages");
    for (command, order) in [
        ("merge", "<DELTA> <DELTA>... <OUT.cdimg>"),
        ("patch", "<BASE> [DELTA]... <DEST>"),
        ("mount", "<FILE>... <DIR>"),
    ] {
        let usage = format!("d4c {command} [OPTIONS] {order}");
        assert!(folder.ok(&format!("{command} --help")).contains(&usage), "{usage}");
        let page = fs::read_to_string(folder.path(&format!("pages/d4c-{command}.1"))).unwrap();
        assert!(page.contains(order), "{page}");
    }
}

#[test]
fn standard_output_by_its_path_carries_the_file_alone() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let piped = folder.run("diff oci:i:v1 oci:i:v2 /dev/stdout");
    assert!(piped.status.success() && piped.stdout == fs::read(folder.path("a.cdimg")).unwrap());
}
