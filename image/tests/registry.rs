//! `docker://` against Debian's docker-registry on loopback: plain, with basic authentication, with TLS.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::server::*;
use common::*;
use d4c_image::source::Options;
use dimg::Digest;

fn refused(source: &str, options: &Options, code: u8, why: &str) {
    let error = failure_with(source, options);
    assert!(error.to_string().contains(why), "{source}: {error}");
    assert_eq!(error.class().exit_code(), code, "{source}: {error}");
}

#[test]
fn images_come_as_they_were_pushed() {
    let server = Server::start("", "");
    server.push("two", "team/app:1", &[]);
    server.push("one", "team/app:old", &["--format", "v2s2"]);
    // As a list of referrers has it: no image, and not told as one.
    server.push("one", &format!("team/app:sha256-{}", "0a".repeat(32)), &[]);
    let image = open_with(&server.image("team/app:1"), &anonymous()).unwrap();
    let original = open(&format!("oci:{}:two", layout()));
    assert_eq!(image.manifest_bytes(), original.manifest_bytes());
    assert_eq!(image.config_bytes(), original.config_bytes());
    assert_eq!(read_all(&image), read_all(&original));
    std::thread::scope(|scope| {
        for number in [0, 1, 0, 1] {
            let image = &image;
            scope.spawn(move || {
                assert_eq!(Digest::of(&image.layer(number).unwrap()), image.layers()[number].diff_id)
            });
        }
    });
    let by_digest = format!("{}@{}", server.image("team/app"), image.manifest_digest());
    assert_eq!(open_with(&by_digest, &anonymous()).unwrap().manifest_digest(), image.manifest_digest());
    let docker = open_with(&server.image("team/app:old"), &anonymous()).unwrap();
    assert!(docker.manifest().media_type.contains("docker"), "{}", docker.manifest().media_type);
    assert_eq!(docker.layers()[0].diff_id, original.layers()[0].diff_id);

    refused(&server.image("team/app:2"), &anonymous(), 3, "no such image; tags present: 1, old");
    refused(&server.image("team/other"), &anonymous(), 3, "the registry has no such image");
    let other = Digest([1; 32]);
    refused(&format!("{}@{other}", server.image("team/app")), &anonymous(), 3, "no such image");
}

#[test]
fn an_image_opens_inside_of_another_runtime() {
    let server = Server::start("", "");
    server.push("two", "app", &[]);
    let source = server.image("app");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(async { read_all(&open_with(&source, &anonymous()).unwrap()) });
    assert!(bytes > 12_000_000);
}

#[test]
fn damaged_blobs_are_refused() {
    let server = Server::start("", "");
    server.push("two", "app", &[]);
    let source = server.image("app");
    let image = open_with(&source, &anonymous()).unwrap();
    let layer = server.blob(image.layers()[0].digest);
    let bytes = fs::read(&layer).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&layer, &flipped).unwrap();
    refused(&source, &anonymous(), 4, "digest is sha256:");
    fs::write(&layer, &bytes[..1000]).unwrap();
    refused(&source, &anonymous(), 4, "fetch blob: ");
    fs::remove_file(&layer).unwrap();
    refused(&source, &anonymous(), 4, "missing from the registry");
    let manifest = server.blob(image.manifest_digest());
    fs::write(&manifest, image.config_bytes()).unwrap();
    assert_ne!(failure_with(&source, &anonymous()).class().exit_code(), 0);
}

const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn auth_file(path: &Path, address: &str, login: &str) -> Options {
    fs::write(path, format!(r#"{{"auths":{{"{address}":{{"auth":"{login}"}}}}}}"#)).unwrap();
    with_auth(path)
}

#[test]
fn basic_authentication_with_the_files_of_podman() {
    let dir = tempfile::tempdir().unwrap();
    let htpasswd = dir.path().join("htpasswd");
    fs::write(&htpasswd, HTPASSWD).unwrap();
    let server =
        Server::start("", &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", htpasswd.display()));
    server.push("one", "app", &["--dest-creds", "tester:secret"]);
    let source = server.image("app");
    // "tester:secret" and "tester:wrong".
    let good = auth_file(&dir.path().join("good"), &server.address, "dGVzdGVyOnNlY3JldA==");
    let bad = auth_file(&dir.path().join("bad"), &server.address, "dGVzdGVyOndyb25n");
    assert_eq!(read_all(&open_with(&source, &good).unwrap()) % 512, 0);
    refused(&source, &bad, 1, "the registry refuses user \"tester\"");
    refused(&source, &anonymous(), 1, "wants a login");
    let error = failure_with(&source, &bad).to_string();
    assert!(!error.contains("wrong") && !error.contains("dGVz"), "{error}");
    let broken = with_auth(htpasswd);
    refused(&source, &broken, 1, "read credentials: ");
}

#[test]
fn a_certificate_of_nobody_is_refused_but_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (key, certificate) = (file("key"), file("certificate"));
    let subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
    let new = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    run("openssl", &[&new[..], &subject].concat());
    let server = Server::start(&format!("  tls: {{certificate: {certificate}, key: {key}}}"), "");
    server.push("one", "app", &[]);
    let source = server.image("app");
    refused(&source, &anonymous(), 1, "certificate");
    let mut insecure = anonymous();
    insecure.registry.insecure = true;
    assert_eq!(open_with(&source, &insecure).unwrap().layers().len(), 1);

    // Trusted as docker's manual has it: the very certificate as its own authority. Another one is not.
    let trusting = |certificate: &str| {
        let hosts = tempfile::tempdir().unwrap();
        fs::create_dir(hosts.path().join(&server.address)).unwrap();
        fs::copy(certificate, hosts.path().join(&server.address).join("ca.crt")).unwrap();
        let mut options = anonymous();
        options.registry.hosts_dirs = vec![hosts.path().to_owned()];
        open_with(&source, &options).map(|image| image.layers().len())
    };
    assert_eq!(trusting(&certificate).unwrap(), 1);
    let other = file("other");
    let other_name: Vec<_> = new
        .iter()
        .map(|&word| if word == certificate { &other } else { word })
        .chain(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .map(|word| if word == key { "/dev/null" } else { word })
        .collect();
    run("openssl", &other_name);
    assert!(trusting(&other).unwrap_err().to_string().contains("certificate"));
}

#[test]
fn a_registry_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    refused(&format!("docker://{free}/app"), &anonymous(), 1, "Connection refused");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let server = Server::start("", "");
    server.push("two", "app", &[]);
    let direct = open_with(&server.image("app"), &anonymous()).unwrap();
    let largest = direct.layers().iter().map(|layer| layer.size).max().unwrap();
    // Every connection dies long before the largest blob is through.
    let cut_bytes = usize::try_from(largest / 3).unwrap();
    let proxy = cutting_proxy(server.address.clone(), cut_bytes);
    let image = open_with(&format!("docker://{proxy}/app"), &anonymous()).unwrap();
    assert_eq!(read_all(&image), read_all(&direct));
}

/// A token for `docker-registry` that allows everything in `repository`, signed by `key`.
fn signed_token(dir: &Path, key: &str, certificate: &str, repository: &str) -> String {
    // Base64 as tokens have it: of URLs, without padding.
    let encode = |bytes: &[u8]| {
        let path = dir.join("plain");
        fs::write(&path, bytes).unwrap();
        let text = run("base64", &["-w0", &path.display().to_string()]);
        text.trim_end_matches('=').replace('+', "-").replace('/', "_")
    };
    let chain = fs::read_to_string(certificate).unwrap();
    let chain: String = chain.lines().filter(|line| !line.starts_with("---")).collect();
    let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{chain}"]}}"#);
    let claims = r#"{"iss":"test","sub":"","aud":"test","exp":4102444800,"nbf":1,"iat":1,"jti":"1","access":[{"type":"repository","name":"NAME","actions":["pull","push"]}]}"#;
    let claims = claims.replace("NAME", repository);
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let (text, signature) = (dir.join("text"), dir.join("signature"));
    fs::write(&text, &signed).unwrap();
    let paths = [signature.display().to_string(), text.display().to_string()];
    run("openssl", &["dgst", "-sha256", "-sign", key, "-out", &paths[0], &paths[1]]);
    format!("{signed}.{}", encode(&fs::read(signature).unwrap()))
}

/// A token server: the token for anyone who asks without a login by a query with `scope` in it, and for the identity token `good`.
fn token_server(token: String, scope: &'static str, life_seconds: u64, asked: Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let mut request = String::new();
            let mut buffer = [0; 4096];
            // A form comes last and ends with its refresh token.
            while !request.ends_with("\r\n\r\n") && !request.contains("&refresh_token=") {
                match client.read(&mut buffer) {
                    Ok(read @ 1..) => request.push_str(&String::from_utf8_lossy(&buffer[..read])),
                    _ => break,
                }
                if request.starts_with("POST") && request.ends_with("\r\n\r\n") {
                    let read = client.read(&mut buffer).unwrap_or(0);
                    request.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
            }
            let form = "grant_type=refresh_token&client_id=d4c&service=test&scope=repository%3Aapp%3Apull&refresh_token=good";
            let good = request.starts_with("GET") && request.contains(scope) || request.ends_with(form);
            asked.fetch_add(1, Ordering::Relaxed);
            let status = if good { "200 OK" } else { "401 Unauthorized" };
            let body =
                format!(r#"{{"token":"{token}","access_token":"{token}","expires_in":{life_seconds}}}"#);
            let length = body.len();
            let _ = write!(
                client,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

#[test]
fn tokens_are_fetched_and_identity_tokens_exchanged() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (key, certificate) = (file("key"), file("certificate"));
    let new = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    run("openssl", &[&new[..], &["-subj", "/CN=test"]].concat());
    let asked = Arc::new(AtomicU64::new(0));
    let tokens = token_server(
        signed_token(dir.path(), &key, &certificate, "app"),
        "scope=repository%3A",
        1,
        Arc::clone(&asked),
    );
    let server = Server::start(
        "",
        &format!(
            "auth: {{token: {{realm: \"http://{tokens}/token\", service: test, issuer: test, rootcertbundle: {certificate}}}}}"
        ),
    );
    server.push("one", "app", &[]);
    let source = server.image("app");
    let image = open_with(&source, &anonymous()).unwrap();
    // The token runs out, and the layers need another.
    let before = asked.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(read_all(&image) % 512, 0);
    assert_eq!(
        (before, asked.load(Ordering::Relaxed)),
        (2, 3),
        "tokens of skopeo, of opening and of reading"
    );
    let with_identity = |token: &str| {
        let path = dir.path().join("auth.json");
        let text = format!(r#"{{"auths":{{"{}":{{"identitytoken":"{token}"}}}}}}"#, server.address);
        fs::write(&path, text).unwrap();
        with_auth(path)
    };
    let image = open_with(&source, &with_identity("good")).unwrap();
    assert_eq!(read_all(&image) % 512, 0);
    refused(&source, &with_identity("bad"), 1, "the token server refuses the identity token: status 401");
    refused(&server.image("other"), &anonymous(), 1, "wants a login");
}

#[test]
fn a_mirror_has_scopes_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (key, certificate) = (file("key"), file("certificate"));
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"];
    run("openssl", &[&new[..], &["-keyout", &key, "-out", &certificate]].concat());
    let token = signed_token(dir.path(), &key, &certificate, "proxy/app");
    let tokens = token_server(token, "scope=repository%3Aproxy%2Fapp%3Apull", 60, Arc::default());
    let server = Server::start(
        "",
        &format!(
            "auth: {{token: {{realm: \"http://{tokens}/token\", service: test, issuer: test, rootcertbundle: {certificate}}}}}"
        ),
    );
    server.push("one", "proxy/app", &[]);
    // As Harbor's proxy caches and other mirrors have it, below a path.
    let hosts = dir.path().join("_default");
    fs::create_dir(&hosts).unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}/v2/proxy\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n",
        server.address
    );
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    let mut options = anonymous();
    options.registry.hosts_dirs = vec![dir.path().to_owned()];
    let image = open_with("docker://r.invalid/app", &options).unwrap();
    assert_eq!(read_all(&image) % 512, 0);
}

#[test]
fn errors_name_the_hosts_that_were_asked() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("_default");
    fs::create_dir(&hosts).unwrap();
    let text = "server = \"http://127.0.0.1:1\"\n[host.\"http://localhost:2\"]\n";
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    let mut options = anonymous();
    options.registry.hosts_dirs = vec![dir.path().to_owned()];
    let error = failure_with("docker://r.invalid/app", &options).to_string();
    assert!(error.starts_with("fetch manifest: docker://r.invalid/app"), "{error}");
    assert!(error.contains("refused (os error 111) (127.0.0.1:1; localhost:2: "), "{error}");
}

#[test]
fn a_client_shows_its_certificate_also_where_the_server_may_be_anyone() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (key, certificate) = (file("key"), file("certificate"));
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=elsewhere"];
    // Not `openssl`'s own extensions: an authority may be nobody's certificate.
    let end = ["-addext", "basicConstraints=critical,CA:false", "-keyout", &key, "-out", &certificate];
    run("openssl", &[&new[..], &end].concat());
    // Served to those alone who show it.
    let server = Server::start(
        &format!("  tls: {{certificate: {certificate}, key: {key}, clientcas: [{certificate}]}}"),
        "",
    );
    let certs = dir.path().join("certs");
    fs::create_dir(&certs).unwrap();
    fs::copy(&certificate, certs.join("me.cert")).unwrap();
    fs::copy(&key, certs.join("me.key")).unwrap();
    server.push("one", "app", &["--dest-cert-dir", &certs.display().to_string()]);
    let hosts = dir.path().join("_default");
    fs::create_dir(&hosts).unwrap();
    let open = |client: &str| {
        let text = format!("server = \"https://{}\"\nskip_verify = true\n{client}\n", server.address);
        fs::write(hosts.join("hosts.toml"), text).unwrap();
        let mut options = anonymous();
        options.registry.hosts_dirs = vec![dir.path().to_owned()];
        open_with(&server.image("app"), &options).map(|image| image.layers().len())
    };
    assert_eq!(open(&format!("client = [[\"{certificate}\", \"{key}\"]]")).unwrap(), 1);
    assert!(open("").is_err(), "served without a certificate");
}
