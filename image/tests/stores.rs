//! `containerd:` through a [`BlobStore`], and what the environment decides: credentials and their helpers.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::server::anonymous;
use common::*;
use d4c_image::delta::{Wanted, ask};
use d4c_image::error::SourceError;
use d4c_image::manifest::{Descriptor, media};
use d4c_image::registry::{PARTIAL_BYTES, Partials};
use d4c_image::source::{BlobStore, Options};
use dimg::Digest;

/// A directory of blobs, as containerd's content store is one on disk.
struct Directory {
    layout: String,
    root: Descriptor,
}

impl BlobStore for Directory {
    fn resolve(&self, reference: &str) -> Result<Descriptor, SourceError> {
        if reference == "docker.io/library/x:1" {
            return Ok(self.root.clone());
        }
        Err(SourceError::NotFound {
            what: "find image",
            on: reference.to_owned(),
            why: "containerd has no such image".into(),
        })
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, SourceError> {
        let path = blob(&self.layout, *digest);
        let file = File::open(&path).map_err(|source| SourceError::Io { what: "open blob", path, source })?;
        Ok(Box::new(file))
    }
}

#[test]
fn a_store_of_someone_else() {
    let original = open(&format!("oci:{}:two", layout()));
    let root = Descriptor {
        media_type: media::OCI_MANIFEST.into(),
        digest: original.manifest_digest(),
        size: original.manifest_bytes().len() as u64,
        platform: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let layout = damaged(dir.path());
    let options = |root: Descriptor| Options {
        containerd: Some(Arc::new(Directory { layout: layout.clone(), root })),
        ..Options::default()
    };
    let source = "containerd:docker.io/library/x:1";
    let image = open_with(source, &options(root.clone())).unwrap();
    assert_eq!(image.manifest_bytes(), original.manifest_bytes());
    assert_eq!(read_all(&image), read_all(&original));
    let missing = failure_with("containerd:x", &options(root.clone()));
    assert_eq!(missing.to_string(), "find image: x: containerd has no such image");
    assert_eq!(missing.class().exit_code(), 3);
    let short = Descriptor { size: root.size - 1, ..root.clone() };
    assert_eq!(failure_with(source, &options(short)).class().exit_code(), 4);
    let path = blob(&layout, image.layers()[1].digest);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let cut = failure_with(source, &options(root.clone()));
    assert_eq!(cut.class().exit_code(), 4, "{cut}");
    assert!(
        cut.to_string().ends_with(&format!("{} bytes, expected {}", bytes.len() - 9, bytes.len())),
        "{cut}"
    );
    fs::write(&path, b"").unwrap();
    assert_eq!(failure_with(source, &options(root)).class().exit_code(), 4);
    let none = failure_with(source, &Options::default());
    assert_eq!(none.class().exit_code(), 2);
}

/// Runs [`inner`] with another environment; the message of its failure to open an image.
fn with_environment(set: &[(&str, &Path)]) -> String {
    failures(set)[0].clone()
}

/// Its failures to open an image and to ask a `d4c serve`.
fn failures(set: &[(&str, &Path)]) -> [String; 2] {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inner", "--ignored", "--nocapture"]);
    for name in [
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "DOCKER_CONFIG",
        "HOME",
        "NO_PROXY",
        "no_proxy",
    ] {
        command.env_remove(name);
    }
    let output = command.envs(set.iter().copied()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    ["failure: ", "served: "]
        .map(|prefix| text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap().to_owned())
}

/// Not a test by itself: run by `with_environment`. The port is one that nobody listens on.
#[test]
#[ignore = "run by other tests in an environment of their own"]
fn inner() {
    let registry = std::env::var("D4C_TEST_REGISTRY");
    let mut options = Options::default();
    options.registry.insecure = registry.is_ok();
    let source = format!("docker://{}/app", registry.as_deref().unwrap_or("127.0.0.1:1"));
    println!("\nfailure: {}", failure_with(&source, &options));
    let reference = "127.0.0.1:1/app".parse().unwrap();
    let wanted = Wanted {
        server: "http://localhost:1",
        reference: &reference,
        want: Digest([1; 32]),
        have: &[],
        max_bytes: 1,
        patience: Duration::from_secs(9),
        limit: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let partials = Partials::new(dir.path(), PARTIAL_BYTES);
    println!("\nserved: {}", ask(&wanted, &anonymous().registry, &partials, None).unwrap_err());
}

#[test]
fn a_proxy_is_not_asked_for_what_is_on_this_machine() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let set = ["http_proxy", "https_proxy", "all_proxy"].map(|name| (name, Path::new(&url)));
    for failure in failures(&set) {
        assert!(failure.contains("refused"), "{failure}");
    }
    assert!(proxy.accept().is_err(), "the proxy was asked");
}

/// Nor for a token of the registry that is behind it.
#[test]
fn a_proxy_is_not_asked_for_a_token_of_this_machine() {
    let tokens = TcpListener::bind("127.0.0.1:0").unwrap();
    let realm = format!("http://{}/token", tokens.local_addr().unwrap());
    // In the place of the registry.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let answer = |listener: TcpListener, head: String| {
        std::thread::spawn(move || {
            let mut asked = Vec::new();
            for client in listener.incoming() {
                let Ok(mut client) = client else { break };
                let mut buffer = [0; 4096];
                let read = client.read(&mut buffer).unwrap_or(0);
                if read == 0 {
                    break;
                }
                asked.push(String::from_utf8_lossy(&buffer[..read]).lines().next().unwrap().to_owned());
                let _ = write!(client, "HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            asked
        })
    };
    let challenge = format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\"");
    let ends = [&tokens, &proxy].map(|listener| listener.local_addr().unwrap());
    let threads = [answer(tokens, "403 Forbidden".into()), answer(proxy, challenge)];
    let set = [("http_proxy", Path::new(&url)), ("D4C_TEST_REGISTRY", Path::new("r.invalid"))];
    let failure = with_environment(&set);
    for end in ends {
        drop(TcpStream::connect(end).unwrap());
    }
    let [tokens, proxied] = threads.map(|thread| thread.join().unwrap());
    assert!(failure.contains("wants a login"), "{failure}");
    assert!(tokens.iter().any(|line| line.starts_with("GET /token?")), "{tokens:?}");
    assert!(proxied.iter().all(|line| line.contains("http://r.invalid")), "{proxied:?}");
}

#[test]
fn the_environment_names_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let broken = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{").unwrap();
        path
    };
    let at = |name: &str| dir.path().join(name);
    let file = broken("mine");
    let names = |path: &Path| format!("read credentials: {}: EOF", path.display());
    assert!(with_environment(&[("REGISTRY_AUTH_FILE", &file)]).starts_with(&names(&file)));
    let file = broken("run/containers/auth.json");
    assert!(with_environment(&[("XDG_RUNTIME_DIR", &at("run"))]).starts_with(&names(&file)));
    let file = broken("config/containers/auth.json");
    assert!(with_environment(&[("XDG_CONFIG_HOME", &at("config"))]).starts_with(&names(&file)));
    let file = broken("docker/config.json");
    assert!(with_environment(&[("DOCKER_CONFIG", &at("docker"))]).starts_with(&names(&file)));
    let file = broken("home/.docker/config.json");
    assert!(with_environment(&[("HOME", &at("home"))]).starts_with(&names(&file)));
    assert!(with_environment(&[]).contains("refused"));
}

#[test]
fn helpers_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = at("auth.json");
    fs::write(&config, r#"{"credHelpers":{"127.0.0.1:1":"test"}}"#).unwrap();
    let ask = |script: &str| {
        let helper = at("docker-credential-test");
        fs::write(&helper, format!("#!/bin/sh\ncat > {}\n{script}\n", at("asked").display())).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::ffi::OsString::from(format!("{}:/usr/bin:/bin", dir.path().display()));
        with_environment(&[("REGISTRY_AUTH_FILE", &config), ("PATH", Path::new(&path))])
    };
    let good = ask(r#"echo '{"ServerURL":"x","Username":"u","Secret":"s"}'"#);
    assert!(good.contains("refused"), "{good}");
    assert_eq!(fs::read_to_string(at("asked")).unwrap(), "127.0.0.1:1");
    let nothing = ask("echo 'credentials not found in native keychain'; exit 1");
    assert!(nothing.contains("refused"), "{nothing}");
    let empty = ask(r#"echo '{"ServerURL":"x","Username":"","Secret":""}'"#);
    assert!(empty.contains("refused"), "{empty}");
    let wrong = ask("echo secret; exit 3");
    assert_eq!(wrong, "ask credential helper: docker-credential-test: exit status: 3");
    assert!(ask("echo '{}'").contains("not a credential"));
}
