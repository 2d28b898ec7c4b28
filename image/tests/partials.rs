//! Downloads that a later process goes on with, from Debian's docker-registry.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use common::server::*;
use d4c_image::error::Class;
use d4c_image::manifest::Descriptor;
use d4c_image::registry::{Access, OnBytes, PARTIAL_BYTES, Partials, Repository};
use d4c_image::source::Source;
use dimg::Digest;

const MIB: u64 = 1 << 20;

fn repository(address: &str) -> Repository {
    let source = format!("docker://{address}/app");
    let Source::Registry(reference) = Source::parse(&source).unwrap() else { panic!("{source}") };
    Repository::open(&reference, Access::Push, &anonymous().registry, source).unwrap()
}

/// A blob of `size` bytes that no compressor makes smaller, in the registry.
fn blob(server: &Server, size: u64) -> Descriptor {
    let mut file = tempfile::tempfile().unwrap();
    std::io::copy(&mut File::open("/dev/urandom").unwrap().take(size), &mut file).unwrap();
    let digest = Digest::of(&d4c_sys::Map::file(&file).unwrap());
    repository(&server.address).put_blob(file, digest, None).unwrap();
    described(digest, size)
}

fn described(digest: Digest, size: u64) -> Descriptor {
    let media_type = "application/octet-stream".into();
    Descriptor { media_type, digest, size, platform: None, annotations: BTreeMap::new() }
}

/// Downloads it; bytes received, of bodies.
fn download(address: &str, partials: &Partials, blob: &Descriptor) -> u64 {
    let repository = repository(address);
    let partial = repository.fetch_blob(blob, partials.begin(blob).unwrap(), None).unwrap();
    assert_eq!(partial.digest().unwrap().1, blob.digest);
    assert_eq!(fs::metadata(partial.path().unwrap()).unwrap().len(), blob.size);
    partial.remove();
    assert!(names(partials.dir()).is_empty());
    repository.received_bytes()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A download that breaks off for good, at a place between pieces, with all that was received recorded.
fn break_off(server: &Server, partials: &Partials, blob: &Descriptor, bytes: u64) -> u64 {
    let repository = repository(&proxy(server.address.clone(), bytes, true));
    let error = repository.fetch_blob(blob, partials.begin(blob).unwrap(), None).unwrap_err();
    assert_eq!(error.class(), Class::Failed, "{error}");
    let [kept] = &partials.list()[..] else { panic!("{:?}", partials.list()) };
    assert_eq!(kept.digest, blob.digest);
    assert!(kept.bytes > bytes / 2 && kept.bytes <= bytes, "{kept:?} of {bytes}");
    kept.bytes
}

/// What stands before a request's range; and something of the same length that means nothing.
const RANGE: &[u8] = b"range: bytes=";
const NO_RANGE: &[u8] = b"x-age: bytes=";

/// Passes connections on until so many bytes of answers went through, then refuses. Without `ranges` the registry gives blobs whole only.
fn proxy(to: String, bytes: u64, ranges: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let left = Arc::new(AtomicU64::new(bytes));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(&to)) else { return };
            if left.load(Ordering::Relaxed) < 4096 {
                let refused = b"HTTP/1.1 403 Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = client.read(&mut [0; 4096]).and_then(|_| client.write_all(refused));
                continue;
            }
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    // A request is one write of the client.
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        let request = &mut buffer[..read];
                        if !ranges
                            && let Some(at) = request.windows(RANGE.len()).position(|text| text == RANGE)
                        {
                            request[at..at + RANGE.len()].copy_from_slice(NO_RANGE);
                        }
                        if into.write_all(request).is_err() {
                            break;
                        }
                    }
                });
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    let take = |left: u64| left.checked_sub(read as u64);
                    let is_alive = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
                    if !is_alive || client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_download_goes_on_in_the_next_process() {
    let server = Server::start("", "");
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::new(dir.path(), PARTIAL_BYTES);
    let blob = blob(&server, 30 * MIB + 1);
    let there = break_off(&server, &partials, &blob, 13 * MIB);
    let counted = Arc::new(AtomicU64::new(0));
    let on_bytes: OnBytes = {
        let counted = Arc::clone(&counted);
        Arc::new(move |bytes| {
            counted.fetch_add(bytes, Ordering::Relaxed);
        })
    };
    let repository = repository(&server.address);
    let partial = repository.fetch_blob(&blob, partials.begin(&blob).unwrap(), Some(on_bytes)).unwrap();
    assert_eq!(partial.digest().unwrap().1, blob.digest);
    assert_eq!(counted.load(Ordering::Relaxed), blob.size);
    assert_eq!(repository.received_bytes(), blob.size - there);
    // While it is written, another one gets a file of its own, which does not stay.
    let other = partials.begin(&blob).unwrap();
    assert_ne!(other.path(), partial.path());
    drop(other);
    partials.sweep();
    assert_eq!(names(dir.path()), [partial.path().unwrap()]);
    // Whole, but the process ended before it was used: its digest is enough.
    drop(partial);
    assert_eq!(download(&server.address, &partials, &blob), 0);
    // What did not begin leaves nothing.
    let missing = described(Digest([7; 32]), 5);
    assert!(repository.fetch_blob(&missing, partials.begin(&missing).unwrap(), None).is_err());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn what_is_wrong_is_thrown_away_and_fetched_anew() {
    let server = Server::start("", "");
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::new(dir.path(), PARTIAL_BYTES);
    let blob = blob(&server, 10 * MIB);
    let there = break_off(&server, &partials, &blob, 7 * MIB);
    let [path] = &names(dir.path())[..] else { panic!() };
    let original = fs::read(path).unwrap();
    let rest = blob.size - there;
    // The records say where they stand; the last one may be torn, then the one before counts.
    type Damage = fn(&mut Vec<u8>);
    // Records stand in the last 8192 bytes.
    let records: Damage = |bytes| {
        let end = bytes.len();
        (bytes[end - 8192 + 40], bytes[end - 4096 + 40]) = (99, 99);
    };
    let cases: [(&str, Damage, u64); 4] = [
        ("a byte", |bytes| bytes[1000] ^= 1, rest + blob.size),
        ("records", records, blob.size),
        ("the end", |bytes| bytes.truncate(1 << 20), blob.size),
        ("nothing", |_| {}, rest),
    ];
    for (what, damage, received) in cases {
        let mut bytes = original.clone();
        damage(&mut bytes);
        fs::write(path, bytes).unwrap();
        assert_eq!(download(&server.address, &partials, &blob), received, "{what}");
    }
    // From a registry without ranges it comes whole.
    fs::write(path, original).unwrap();
    let whole = proxy(server.address.clone(), u64::MAX, false);
    assert_eq!(download(&whole, &partials, &blob), blob.size);
    // As long as the blob, and something else.
    fs::write(path, vec![7; 10 << 20]).unwrap();
    assert_eq!(download(&server.address, &partials, &blob), blob.size);
}

#[test]
fn what_is_old_or_too_much_goes() {
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::new(dir.path(), 3 * MIB);
    let file = |number: u8, days: u64, mib: u64| {
        let path = dir.path().join(format!("sha256-{}.part", Digest([number; 32]).hex()));
        let file = File::create(&path).unwrap();
        file.write_all_at(&vec![1; usize::try_from(mib * MIB).unwrap()], 0).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        path
    };
    let (old, locked) = (file(1, 8, 1), file(2, 9, 1));
    let (third, second, first) = (file(3, 3, 1), file(4, 2, 2), file(5, 1, 1));
    let private = dir.path().join(format!("sha256-{}.0badcafe.part", Digest([6; 32]).hex()));
    let other = dir.path().join("other.part");
    fs::write(&private, "p").unwrap();
    fs::write(&other, "o").unwrap();
    let lock = File::open(&locked).unwrap();
    lock.try_lock().unwrap();
    partials.sweep();
    let there = [&old, &locked, &third, &second, &first, &private, &other].map(|path| path.exists());
    assert_eq!(there, [false, true, false, true, true, false, true]);
    drop(lock);
    // Whoever begins one clears up, but for what was begun.
    let blob = described(Digest([2; 32]), 5);
    let begun = partials.begin(&blob).unwrap();
    assert_eq!(begun.path(), Some(&*locked));
    assert_eq!(fs::metadata(&locked).unwrap().len(), 0, "of another size: begun anew");
}
