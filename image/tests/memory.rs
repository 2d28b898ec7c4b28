//! Memory does not grow with the layer. One test, for it watches the whole process.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use d4c_image::manifest::media;
use dimg::{Digest, Hasher};

/// Memory of the process that is not a mapped file, in KiB.
fn own_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const LAYER_BYTES: u64 = 600 << 20;

#[test]
fn unpacking_takes_the_same_memory_for_any_layer() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let blobs = dir.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let mut hasher = Hasher::new();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let chunk = [7; 1 << 20];
    for _ in 0..LAYER_BYTES / (1 << 20) {
        hasher.update(&chunk);
        encoder.write_all(&chunk).unwrap();
    }
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    let layer = put(&encoder.finish().unwrap());
    let config = put(format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"diff_ids":["{}"]}}}}"#,
        hasher.finish()
    )
    .as_bytes());
    let manifest = put(format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}",{config}}},"layers":[{{"mediaType":"{}+gzip",{layer}}}]}}"#,
        media::OCI_CONFIG,
        media::OCI_LAYER
    )
    .as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}",{manifest}}}]}}"#,
        media::OCI_MANIFEST
    );
    fs::write(dir.path().join("index.json"), index).unwrap();

    let image = open(&format!("oci:{}", dir.path().display()));
    let before = own_kib();
    let (highest, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let file = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                highest.fetch_max(own_kib(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let file = image.layer(0);
        done.store(true, Ordering::Relaxed);
        file
    });
    let file = file.unwrap();
    assert_eq!(file.len() as u64, LAYER_BYTES);
    let grown = highest.into_inner().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB for a layer of {LAYER_BYTES} bytes");
    let mut last = [0];
    (&file[file.len() - 1..]).read_exact(&mut last).unwrap();
    assert_eq!(last, [7]);
}
