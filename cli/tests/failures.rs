//! What a new user gets wrong: one clear line, the right exit status, nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Folder;
use serde_json::Value;

#[test]
fn usage_is_one_line_and_status_2() {
    let folder = Folder::new();
    let cases = [
        ("", "command: missing; d4c --help lists them"),
        ("dif", "dif: no such command; did you mean diff?"),
        ("diff oci:i:v1 oci:i:v2", "<OUT.cdimg>: missing"),
        ("diff a b c --levl best", "--levl: unexpected argument; did you mean --level?"),
        (
            "diff a b c --level worst",
            "--level <LEVEL>: \"worst\" where one of fast, default, best is expected",
        ),
        ("diff a b c --memory 1X", "--memory <SIZE>: \"1X\": not a size such as 512MiB"),
        ("diff a b c --memory 64", "--memory <SIZE>: \"64\": below 64MiB, which is needed at least"),
        ("serve --memory 1", "--memory <SIZE>: \"1\": below 64MiB, which is needed at least"),
        ("publish x:v3 --from-last 0", "--from-last <N>: \"0\": not a number above 0"),
        (
            "mount a b --route bad",
            "--route <ROUTE>: \"bad\" where one of auto, erofs, fuse-passthrough, fuse, overlay is expected",
        ),
        ("patch", "<BASE> [DELTA]... <DEST>: missing"),
        (
            "patch oci:i:v1 a.cdimg",
            "a.cdimg: not a destination; known: dir:PATH, oci:DIR[:TAG], oci-archive:FILE[:TAG]",
        ),
        ("mount a.cdimg", "<FILE>... <DIR>: needs more values"),
        ("merge a.cdimg --threads 1 out.cdimg", "<DELTA> <DELTA>... <OUT.cdimg>: needs more values"),
        ("mount", "<FILE>... <DIR>: missing"),
        ("merge", "<DELTA> <DELTA>... <OUT.cdimg>: missing"),
        ("show oci:i:v1", "oci:i:v1: a dimg or cdimg file is wanted here, not an image"),
        ("mount oci:i:v1 i", "oci:i:v1: a dimg or cdimg file is wanted here, not an image"),
        (
            "patch oci:i:v1 x.cdimg out",
            "out: not a destination; known: dir:PATH, oci:DIR[:TAG], oci-archive:FILE[:TAG]",
        ),
        ("patch oci:i:v1 x.cdimg dir:", "dir:: the destination has no path"),
    ];
    for (words, line) in cases {
        assert_eq!(folder.fails(words), (2, format!("d4c: command line: {line}")), "{words}");
    }
    let (code, line) = folder.fails("convert nginx out.cdimg");
    assert_eq!(code, 2);
    assert!(line.starts_with("d4c: image source: nginx: unknown kind; known: oci:DIR[:TAG], "), "{line}");
    assert_eq!(folder.names(), ["i"]);
}

#[test]
fn what_is_not_there_is_status_3() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let cases = [
        ("show no.cdimg", "d4c: read file: no.cdimg: no such file or directory"),
        ("verify a.cdimg --base no.cdimg", "d4c: read file: no.cdimg: no such file or directory"),
        ("convert oci:i:v1 no/out.cdimg", "d4c: create file: no/out.cdimg: no such file or directory"),
        ("patch oci:i:v1 a.cdimg dir:no/out", "d4c: write tree: no: no such file or directory"),
    ];
    for (words, line) in cases {
        assert_eq!(folder.fails(words), (3, line.to_owned()), "{words}");
    }
    for words in
        ["convert oci:i:v9 out.cdimg", "convert oci:nowhere:v1 out.cdimg", "convert a.cdimg out.cdimg"]
    {
        let (code, line) = folder.fails(words);
        assert!(code == 3 && line.starts_with("d4c: "), "{words}: {code} {line}");
    }
    assert_eq!(folder.names(), ["a.cdimg", "i"]);
}

#[test]
fn json_has_one_object() {
    let folder = Folder::new();
    let (code, text) = folder.fails("show no.cdimg --json");
    let value: Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({"error": {
        "kind": "not_found",
        "message": "read file: no.cdimg: no such file or directory",
        "path": "no.cdimg",
        "offset": null,
    }});
    assert_eq!((code, value), (3, expected));
}

#[test]
fn damage_is_status_4_wherever_it_is() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v3 a.cdimg");
    let whole = fs::read(folder.path("a.cdimg")).unwrap();
    let check = |bytes: &[u8], what: String| {
        fs::write(folder.path("bad.cdimg"), bytes).unwrap();
        let (code, line) = folder.fails("verify bad.cdimg --base oci:i:v1");
        assert_eq!(code, 4, "{what}: {line}");
        assert!(line.starts_with("d4c: ") && line.contains("bad.cdimg"), "{what}: {line}");
    };
    for length in (0..whole.len()).step_by(97) {
        check(&whole[..length], format!("cut at {length}"));
    }
    for at in (0..whole.len()).step_by(61) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        check(&bytes, format!("bit flipped at {at}"));
    }
    fs::write(folder.path("text"), "hello\n").unwrap();
    let line = "d4c: delta file: text: read file at offset 0: neither a cdimg nor a dimg";
    assert_eq!(folder.fails("show text"), (4, line.to_owned()));
}

#[test]
fn another_base_is_refused() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    for words in [
        "patch oci:i:v2 a.cdimg dir:out",
        "patch oci:i:v3 a.cdimg oci:out:x",
        "verify a.cdimg --base oci:i:v3",
    ] {
        let (code, line) = folder.fails(words);
        assert_eq!(code, 4);
        assert!(
            line.starts_with(
                "d4c: delta file: a.cdimg: match parent: layer 0: the delta was made against sha256:"
            ),
            "{line}"
        );
    }
    assert_eq!(folder.names(), ["a.cdimg", "i"]);
}

#[test]
fn nothing_is_overwritten_by_a_tree() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let line = "d4c: write tree: i: there already, and not an empty directory";
    assert_eq!(folder.fails("patch oci:i:v1 a.cdimg dir:i"), (1, line.to_owned()));
    let line = "d4c: create file: i: is a directory";
    assert_eq!(folder.fails("convert oci:i:v1 i"), (1, line.to_owned()));
}

#[test]
fn what_holds_no_file_to_load_says_so() {
    let folder = Folder::new();
    fs::create_dir(folder.path("empty")).unwrap();
    assert!(
        Command::new("tar").args(["-cf", "all.tar", "i"]).current_dir(&folder.0).status().unwrap().success()
    );
    for (name, kind) in [("empty", "folder"), ("all.tar", "tar file")] {
        let line = format!("d4c: load files: {name}: no *.cdimg in this {kind}");
        assert_eq!(folder.fails(&format!("load {name}")), (3, line));
    }
}

#[test]
fn no_containerd_and_no_plugin_is_one_line() {
    let folder = Folder::new();
    folder.ok("convert oci:i:v1 v1.cdimg");
    let cases = [
        ("status --control no.sock", "di3fs-snapshotter"),
        ("status --control other.sock --control no.sock", "di3fs-snapshotter"),
        ("images --control no.sock", "di3fs-snapshotter"),
        ("load v1.cdimg --control no.sock", "di3fs-snapshotter"),
        ("convert containerd:x out.cdimg --address no.sock", "containerd"),
    ];
    for (words, to) in cases {
        let line = format!("d4c: connect to {to}: no.sock: no such file or directory");
        assert_eq!(folder.fails(words), (1, line), "{words}");
    }
    let line = "d4c: fetch manifest: docker://127.0.0.1:1/x:latest: connection refused";
    assert_eq!(folder.fails("convert docker://127.0.0.1:1/x out.cdimg"), (1, line.to_owned()));
}

#[test]
fn what_there_is_no_room_for_is_status_5_and_leaves_nothing() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 --codec store a.cdimg");
    let there = folder.names();
    for words in [
        "convert oci:i:v1 out.cdimg",
        "diff oci:i:v1 oci:i:v2 --codec store out.cdimg",
        "patch oci:i:v1 a.cdimg oci:out",
        "patch oci:i:v1 a.cdimg oci-archive:out.tar",
        "patch oci:i:v1 a.cdimg dir:out",
        "unpack a.cdimg out",
    ] {
        let limited = format!("ulimit -f 1; exec \"$0\" {words}");
        let output = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_d4c")])
            .current_dir(&folder.0)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{words}: {said}");
        assert_eq!(folder.names(), there, "{words}");
    }
}

/// Runs it under a limit of the shell's.
fn limited(folder: &Folder, limit: &str, words: &str) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" {words}"), env!("CARGO_BIN_EXE_d4c")])
        .current_dir(&folder.0)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Removes what a command made.
fn remove(folder: &Folder, name: &str) {
    let path = folder.path(name);
    drop(fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)));
}

#[test]
fn where_descriptors_run_out_nothing_is_left() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    folder.ok("diff oci:i:v2 oci:i:v3 b.cdimg");
    let there = folder.names();
    for (count, words) in (6..14).flat_map(|count| {
        [
            (count, "patch oci:i:v1 a.cdimg dir:out"),
            (count, "patch oci:i:v1 a.cdimg b.cdimg oci:out"),
            (count, "merge a.cdimg b.cdimg out"),
            (count, "diff oci:i:v1 oci:i:v2 out"),
        ]
    }) {
        let (code, said) = limited(&folder, &format!("-n {count}"), words);
        if code == Some(0) {
            remove(&folder, "out");
        } else {
            assert_eq!(code, Some(5), "{count}: {words}: {said}");
            // With one less even the folder for what is written cannot be opened to be removed at first.
            assert!(count < 8 || said.lines().count() == 1, "{count}: {words}: {said}");
        }
        assert_eq!(folder.names(), there, "{count}: {words}: {said}");
    }
}

#[test]
fn where_memory_ends_it_is_told_and_nothing_is_left() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let there = folder.names();
    let mut failed = 0;
    for mib in (20..150).step_by(5) {
        let limit = format!("-v {}", mib << 10);
        if limited(&folder, &limit, "--version").0 != Some(0) {
            continue;
        }
        for words in ["diff --level best oci:i:v1 oci:i:v2 out", "verify a.cdimg --base oci:i:v1"] {
            let (code, said) = limited(&folder, &limit, words);
            if code == Some(0) {
                remove(&folder, "out");
            } else {
                failed += 1;
                // Where a thread finds none as it starts, glibc has said so before.
                let ours = said.lines().filter(|line| !line.starts_with("Fatal glibc error: ")).count();
                assert_eq!((code, ours), (Some(5), 1), "{mib} MiB: {words}: {said}");
            }
            assert_eq!(folder.names(), there, "{mib} MiB: {words}: {said}");
        }
    }
    assert!(failed > 0, "it never ended");
}

#[test]
fn what_a_killed_command_left_goes_with_the_next() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 out.cdimg");
    fs::remove_file(folder.path("out.cdimg")).unwrap();
    fs::write(folder.path(".out.cdimg.0123456789abcdef.d4c"), "half").unwrap();
    fs::create_dir_all(folder.path(".root.0123456789abcdef.d4c/root/etc")).unwrap();
    folder.ok("diff oci:i:v1 oci:i:v2 out.cdimg");
    folder.ok("patch oci:i:v1 out.cdimg dir:root");
    assert!(!folder.names().iter().any(|name| name.starts_with('.')), "{:?}", folder.names());
}

#[test]
fn an_interrupted_command_leaves_nothing() {
    let folder = Folder::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_d4c"))
        .args(["diff", "oci:i:v1", "oci:i:v3", "out.cdimg", "--level", "best", "--codec", "bsdiff"])
        .current_dir(&folder.0)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(40));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let status = child.wait().unwrap();
    // On a fast machine it may have been done before.
    if kill.unwrap().success() && !folder.path("out.cdimg").exists() {
        assert!(matches!(status.code(), Some(130) | None), "{status}");
    }
    assert!(!folder.names().iter().any(|name| name.starts_with('.')), "{:?}", folder.names());
}

#[test]
fn what_has_no_end_is_refused_by_its_start() {
    let folder = Folder::new();
    let line = |words: &str| folder.fails(words);
    let neither = "d4c: delta file: /dev/zero: read file at offset 0: neither a cdimg nor a dimg".to_owned();
    for words in
        ["show /dev/zero", "verify /dev/zero", "patch oci:i:v1 /dev/zero dir:out", "unpack /dev/zero out"]
    {
        assert_eq!(line(words), (4, neither.clone()), "{words}");
    }
    let archive = "d4c: read archive: /dev/zero at offset 0: not a tar header".to_owned();
    for words in ["convert oci-archive:/dev/zero out.cdimg", "convert docker-archive:/dev/zero out.cdimg"] {
        assert_eq!(line(words), (4, archive.clone()), "{words}");
    }
    assert_eq!(folder.names(), ["i"]);
}

#[test]
fn log_lines_for_files_have_no_colours() {
    let folder = Folder::new();
    let convert = folder.run("convert --log-level trace oci:i:v1 a.cdimg");
    let log = String::from_utf8(convert.stderr).unwrap();
    assert!(convert.status.success() && !log.contains('\x1b'), "{log}");
}

#[test]
fn a_full_standard_error_changes_no_status() {
    let folder = Folder::new();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let cases = [
        ("show no.cdimg", 3),
        ("show --json no.cdimg", 3),
        ("convert --log-level trace oci:i:v1 a.cdimg", 0),
    ];
    for (words, code) in cases {
        let status = folder.command(words).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{words}");
    }
}

/// The plugin may be killed at any moment of a call.
#[test]
fn a_plugin_that_goes_away_is_told_in_one_line() {
    let folder = Folder::new();
    let listener = std::os::unix::net::UnixListener::bind(folder.path("control.sock")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for _ in 0..20 {
        let (code, line) = folder.fails("images --control control.sock");
        assert!(code == 1 && line.starts_with("d4c: list images: the connection"), "{code} {line}");
    }
}

#[test]
fn links_in_a_layout_lead_nowhere() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    let made: Value = serde_json::from_str(&folder.ok("patch oci:i:v1 a.cdimg oci:whole:v2 --json")).unwrap();
    let manifest = made["written_manifest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let names = ["index.json", "oci-layout", "blobs", "blobs/sha256", &manifest];
    for (number, name) in names.into_iter().enumerate() {
        let out = format!("out{number}");
        folder.ok(&format!("patch oci:i:v1 a.cdimg oci:{out}:v2"));
        let (link, victim) = (folder.path(&out).join(name), folder.path(&format!("victim{number}")));
        fs::rename(&link, &victim).unwrap();
        symlink(&victim, &link).unwrap();
        let before = victim.is_file().then(|| fs::read(&victim).unwrap());
        let (status, error) = folder.fails(&format!("patch oci:i:v1 a.cdimg oci:{out}:again"));
        assert!(status == 1 && error.contains(name) && error.contains("is a symbolic link"), "{error}");
        assert_eq!(victim.is_file().then(|| fs::read(&victim).unwrap()), before);
        // One to nothing, too.
        fs::rename(&victim, folder.path("aside")).unwrap();
        let (status, error) = folder.fails(&format!("patch oci:i:v1 a.cdimg oci:{out}:again"));
        assert!(status == 1 && error.contains("is a symbolic link"), "{error}");
        assert!(!victim.exists() && link.is_symlink());
        let aside = folder.path("aside");
        if aside.is_dir() { fs::remove_dir_all(aside) } else { fs::remove_file(aside) }.unwrap();
    }
    // The layout itself may be one: the user names it.
    symlink("whole", folder.path("link")).unwrap();
    folder.ok("patch oci:i:v1 a.cdimg oci:link:again");
}

#[test]
fn a_link_to_nothing_stays_where_unpacking_fails() {
    let folder = Folder::new();
    folder.ok("diff oci:i:v1 oci:i:v2 a.cdimg");
    symlink("nowhere/dir", folder.path("link")).unwrap();
    let (status, error) = folder.fails("unpack a.cdimg link");
    assert!(status == 1 && error.contains("make directory: link"), "{status}: {error}");
    assert!(folder.path("link").is_symlink() && !folder.path("nowhere").exists());
}
