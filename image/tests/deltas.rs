//! Repositories and the deltas in them, on Debian's docker-registry, which has no referrers API.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::server::*;
use common::*;
use d4c_image::delta::{Wanted, ask};
use d4c_image::error::{Class, SourceError};
use d4c_image::manifest::{Descriptor, media};
use d4c_image::registry::{Access, OnBytes, PARTIAL_BYTES, Partial, Partials, RegistryOptions, Repository};
use d4c_image::source::{RemoteImage, Source};
use dimg::Digest;

fn repository(address: &str, options: &RegistryOptions) -> Repository {
    let source = format!("docker://{address}/app");
    let Source::Registry(reference) = Source::parse(&source).unwrap() else { panic!("{source}") };
    Repository::open(&reference, Access::Push, options, source).unwrap()
}

fn open_repository(address: &str) -> Repository {
    repository(address, &anonymous().registry)
}

/// A file of bytes that no compressor makes smaller.
fn noise(bytes: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    std::io::copy(&mut File::open("/dev/urandom").unwrap().take(bytes), &mut file).unwrap();
    file
}

fn unkept() -> Partial {
    Partial::unkept(tempfile::tempfile().unwrap())
}

fn digest(file: &File) -> Digest {
    Digest::of(&d4c_sys::Map::file(file).unwrap())
}

fn described(digest: Digest, size: u64) -> Descriptor {
    let media_type = "application/octet-stream".into();
    Descriptor { media_type, digest, size, platform: None, annotations: BTreeMap::new() }
}

fn counter() -> (Arc<AtomicU64>, OnBytes) {
    let count = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&count);
    (
        count,
        Arc::new(move |bytes| {
            shared.fetch_add(bytes, Ordering::Relaxed);
        }),
    )
}

#[test]
fn large_blobs_come_in_pieces_and_go_on_where_they_broke_off() {
    let server = Server::start("", "");
    let direct = open_repository(&server.address);
    for size in [(8 << 20) + 1, 30_000_001] {
        let file = noise(size);
        let expected = digest(&file);
        let (sent, on_bytes) = counter();
        assert!(direct.put_blob(file.try_clone().unwrap(), expected, Some(on_bytes)).unwrap());
        assert_eq!(sent.load(Ordering::Relaxed), size);
        assert!(!direct.put_blob(file, expected, None).unwrap(), "sent twice");
        // Every connection dies within a piece.
        let cut = open_repository(&cutting_proxy(server.address.clone(), 3_000_000));
        for repository in [&direct, &cut] {
            let (received, on_bytes) = counter();
            let fetched = repository.fetch_blob(&described(expected, size), unkept(), Some(on_bytes));
            let fetched = fetched.unwrap();
            assert_eq!((digest(fetched.file()), fetched.file().metadata().unwrap().len()), (expected, size));
            assert_eq!(received.load(Ordering::Relaxed), size);
        }
        for wrong in [size - 1, size + 1] {
            let error = direct.fetch_blob(&described(expected, wrong), unkept(), None);
            assert_eq!(error.unwrap_err().class(), Class::Corrupt, "{wrong}");
        }
    }
    assert_eq!(direct.put_bytes(b"{}").ok(), Some(true));
    let missing = direct.fetch_blob(&described(Digest([7; 32]), 5), unkept(), None);
    assert!(missing.unwrap_err().to_string().contains("missing from the registry"));
}

/// An artifact's manifest that is unlike any other.
fn artifact(number: usize, subject: Digest) -> Vec<u8> {
    let empty = Digest::of(b"{}");
    let kind = media::OCI_MANIFEST;
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","artifactType":"application/x-test","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{kind}","digest":"{subject}","size":1}},"annotations":{{"number":"{number}"}}}}"#
    )
    .into_bytes()
}

#[test]
fn the_fallback_keeps_the_entries_of_others() {
    let server = Server::start("", "");
    let repository = open_repository(&server.address);
    repository.put_bytes(b"{}").unwrap();
    let subject = Digest([9; 32]);
    assert_eq!(repository.referrers(subject, "application/x-test").unwrap(), []);
    let annotations = |number: usize| BTreeMap::from([("number".to_owned(), number.to_string())]);
    let put = |number: usize| {
        let bytes = artifact(number, subject);
        repository.put_referrer(subject, &bytes, "application/x-test", &annotations(number)).unwrap()
    };
    let digests: Vec<Digest> = (0..5).map(put).collect();
    assert_eq!(put(2), digests[2], "the same artifact is the same");
    let list = repository.referrers(subject, "application/x-test").unwrap();
    assert_eq!(list.iter().map(|one| one.digest).collect::<Vec<_>>(), digests);
    assert_eq!(list[3].annotations, annotations(3));
    assert_eq!(list[3].artifact_type.as_deref(), Some("application/x-test"));
    // The index is one that other tools read, too.
    let raw = skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{}/app:sha256-{}", server.address, subject.hex()),
    ]);
    assert!(raw.contains(media::OCI_INDEX) && raw.contains(&digests[4].to_string()), "{raw}");
}

#[test]
fn writers_of_the_fallback_do_not_lose_each_others_entries() {
    let server = Server::start("", "");
    let subject = Digest([8; 32]);
    open_repository(&server.address).put_bytes(b"{}").unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let repository = open_repository(&server.address);
            scope.spawn(move || {
                let bytes = artifact(number, subject);
                repository.put_referrer(subject, &bytes, "application/x-test", &BTreeMap::new()).unwrap();
            });
        }
    });
    let list = open_repository(&server.address).referrers(subject, "application/x-test").unwrap();
    assert_eq!(list.len(), 4, "{list:?}");
}

#[test]
fn mirrors_come_first_and_the_registry_has_what_they_have_not() {
    let (mirror, upstream) = (Server::start("", ""), Server::start("", ""));
    upstream.push("one", "app:both", &[]);
    upstream.push("two", "app:upstream", &[]);
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("_default");
    fs::create_dir(&hosts).unwrap();
    let write = |server: &str| {
        let text = format!(
            "server = \"http://{server}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            mirror.address
        );
        fs::write(hosts.join("hosts.toml"), text).unwrap();
    };
    let mut options = anonymous();
    options.registry.hosts_dirs = vec![dir.path().to_owned()];
    let open = |tag: &str| open_with(&format!("docker://r.invalid/app:{tag}"), &options);
    write(&upstream.address);
    assert_eq!(
        read_all(&open("upstream").unwrap()),
        read_all(&open_with(&upstream.image("app:upstream"), &anonymous()).unwrap())
    );
    assert!(matches!(open("none"), Err(SourceError::NotFound { .. })));
    // The mirror is enough where it has the image.
    mirror.push("one", "app:both", &[]);
    write("127.0.0.1:1");
    assert_eq!(open("both").unwrap().layers().len(), 1);
    // Uploads go to the registry itself.
    write(&upstream.address);
    let Source::Registry(reference) = Source::parse("docker://r.invalid/app").unwrap() else { panic!() };
    let repository = Repository::open(&reference, Access::Push, &options.registry, "r").unwrap();
    assert!(repository.put_bytes(b"uploaded").unwrap());
    assert!(
        upstream.blob(Digest::of(b"uploaded")).exists() && !mirror.blob(Digest::of(b"uploaded")).exists()
    );
}

#[test]
fn an_image_is_resolved_without_its_config_and_layers() {
    let server = Server::start("", "");
    server.push("two", "app", &[]);
    let Source::Registry(reference) = Source::parse(&server.image("app")).unwrap() else { panic!() };
    let image = RemoteImage::resolve(&reference, &anonymous()).unwrap();
    assert_eq!(image.repository().received_bytes(), image.manifest_bytes().len() as u64);
    assert_eq!(Digest::of(image.manifest_bytes()), image.digest());
    let open = image.open(&anonymous()).unwrap();
    assert_eq!(open.layers().iter().map(|layer| layer.size).sum::<u64>(), image.pull_bytes());
    let (bytes, config) = image.config(&anonymous()).unwrap();
    assert_eq!((bytes.as_slice(), config.diff_ids.len()), (open.config_bytes(), 2));
}

#[test]
fn an_index_leads_to_the_image_for_the_platform() {
    let server = Server::start("", "");
    let dir = tempfile::tempdir().unwrap();
    let layout = damaged(dir.path());
    let image = |tag: &str| open(&format!("oci:{layout}:{tag}"));
    let entry = |tag: &str| {
        let image = image(tag);
        let (digest, size) = (image.manifest_digest(), image.manifest_bytes().len());
        let architecture = &image.config().platform.architecture;
        let kind = media::OCI_MANIFEST;
        format!(
            r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let kind = media::OCI_INDEX;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{},{}]}}"#,
        entry("arm"),
        entry("two")
    );
    let digest = Digest::of(index.as_bytes());
    fs::write(blob(&layout, digest), &index).unwrap();
    let size = index.len();
    let top = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{kind}","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"all"}}}}]}}"#
    );
    let (arm, two) = (image("arm").manifest_digest(), image("two").manifest_digest());
    fs::write(format!("{layout}/index.json"), top).unwrap();
    copy(&format!("oci:{layout}:all"), &server.image("app"), &["--all", "--dest-tls-verify=false"]);
    for (source, platform, expected) in [
        (server.image("app"), "linux/arm64", arm),
        (server.image("app"), "linux/amd64", two),
        (format!("{}@{digest}", server.image("app")), "linux/arm64", arm),
        (format!("{}@{two}", server.image("app")), "linux/amd64", two),
    ] {
        let Source::Registry(reference) = Source::parse(&source).unwrap() else { panic!("{source}") };
        let mut options = anonymous();
        options.platform = Some(platform.parse().unwrap());
        let image = RemoteImage::resolve(&reference, &options).unwrap();
        assert_eq!(image.digest(), expected, "{source} for {platform}");
    }
    let mut options = anonymous();
    options.platform = Some("linux/s390x".parse().unwrap());
    let error = open_with(&server.image("app"), &options).unwrap_err();
    assert!(error.to_string().contains("present: linux/arm64, linux/amd64"), "{error}");
}

/// A registry of one answer: this head, then blanks for as long as someone reads them, or half a gigabyte; the bytes sent.
fn endless(head: &'static str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sent, on_bytes) = counter();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = client.read(&mut request).unwrap_or(0);
            // No TLS here.
            if !request[..read].starts_with(b"GET") || client.write_all(head.as_bytes()).is_err() {
                continue;
            }
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            for _ in 0..8192 {
                if client.write_all(chunk.as_bytes()).is_err() {
                    break;
                }
                on_bytes(chunk.len() as u64);
            }
        }
    });
    (address, sent)
}

#[test]
fn manifests_without_an_end_are_not_read_to_it() {
    for head in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 536870912\r\n\r\n",
    ] {
        let (address, sent) = endless(head);
        let error = open_repository(&address).tagged("latest").unwrap_err();
        assert!(matches!(error, SourceError::Limit { .. }), "{error}");
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < 64 << 20, "{sent} bytes were sent");
    }
}

#[test]
fn refusals_without_an_end_are_not_read_to_it() {
    let (address, sent) = endless("HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n");
    let (server, reference) = (format!("http://{address}"), "r.invalid/app".parse().unwrap());
    let wanted = Wanted {
        server: &server,
        reference: &reference,
        want: Digest([1; 32]),
        have: &[],
        max_bytes: 1,
        patience: Duration::from_secs(9),
        limit: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::new(dir.path(), PARTIAL_BYTES);
    let error = ask(&wanted, &anonymous().registry, &partials, None).unwrap_err();
    assert!(error.to_string().contains("status 500"), "{error}");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were sent");
}
