//! `d4c serve` before a registry with one image in two repositories.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use common::Folder;
use serde_json::Value;

/// A registry that has the blobs of a layout, as blobs and as manifests, in every repository. It takes nothing.
fn registry(blobs: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = client.read(&mut request).unwrap_or(0);
            let line =
                String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned();
            let path = line.split(' ').nth(1).unwrap_or_default();
            let (is_blob, name) = (path.contains("/blobs/"), path.rsplit_once("/sha256:"));
            let found = name.and_then(|(_, hex)| fs::read(blobs.join(hex)).ok());
            let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
            let body = found.unwrap_or_default();
            let kind = if is_blob { "application/octet-stream" } else { MANIFEST };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = client.write_all(head.as_bytes());
            if line.starts_with("GET") {
                let _ = client.write_all(&body);
            }
        }
    });
    address
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A server, ended at the end.
struct Serve(Child, String);

impl Serve {
    fn start(folder: &Folder, words: &str) -> Self {
        let mut command = folder.command(&format!("serve --listen 127.0.0.1:0 {words}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self(child, address)
    }

    /// How it got the delta, and the delta.
    fn ask(&self, question: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        write!(stream, "GET {question} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let how = head.lines().find_map(|line| line.strip_prefix("d4c-how: "));
        (how.unwrap_or(&head).to_owned(), bytes[end + 4..].to_owned())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_came_from_a_repository_is_served_for_no_other() {
    let folder = Folder::new();
    let registry = registry(folder.path("i/blobs/sha256"));
    let index: Value = serde_json::from_slice(&fs::read(folder.path("i/index.json")).unwrap()).unwrap();
    let digest = |number: usize| index["manifests"][number]["digest"].as_str().unwrap();
    let question = |repository: &str, old, new| {
        format!("/v1/delta?repository={registry}/{repository}&want={}&have={}", digest(new), digest(old))
    };
    let serve = Serve::start(&folder, &format!("--registry {registry} --dir deltas"));
    let (how, delta) = serve.ask(&question("evil/app", 0, 1));
    assert_eq!(how, "made");
    assert_eq!(serve.ask(&question("evil/app", 0, 1)).0, "found");
    // Whoever may write to the first repository might have put anything there.
    let made = fs::read_dir(folder.path("deltas")).unwrap().next().unwrap().unwrap().path();
    fs::write(&made, b"evil").unwrap();
    assert_eq!(serve.ask(&question("good/app", 0, 1)), ("made".to_owned(), delta.clone()));
    assert_eq!(serve.ask(&question("good/app", 0, 1)), ("found".to_owned(), delta.clone()));
    // Nor is anything of another repository a part of what is merged.
    assert_eq!(serve.ask(&question("evil/app", 1, 2)).0, "made");
    assert_eq!(serve.ask(&question("good/app", 0, 2)).0, "made");
    // What someone put into the directory is for all.
    fs::write(folder.path("deltas/own.cdimg"), &delta).unwrap();
    assert_eq!(serve.ask(&question("third/app", 0, 1)), ("found".to_owned(), delta));
}
