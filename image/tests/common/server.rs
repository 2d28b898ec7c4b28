//! Debian's docker-registry, and a proxy that cuts its answers.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use d4c_image::registry::RegistryOptions;
use d4c_image::source::Options;
use dimg::Digest;

use super::{copy, layout};

/// A registry of its own, ended with the value.
pub struct Server {
    child: Child,
    pub address: String,
    pub dir: tempfile::TempDir,
}

impl Server {
    /// Starts a registry; `http` and `top` are more lines of its configuration.
    pub fn start(http: &str, top: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port is free again when the registry takes it; nothing else here asks for one by number.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {address}\n{http}\n{top}\n",
            dir.path().join("data").display()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("docker-registry: {error}; install it: apt-get install -y docker-registry")
            });
        let server = Self { child, address, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not answer on {}", server.address);
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    pub fn push(&self, tag: &str, name: &str, flags: &[&str]) {
        let flags = [&["--dest-tls-verify=false"], flags].concat();
        copy(&format!("oci:{}:{tag}", layout()), &self.image(name), &flags);
    }

    /// The file that holds a blob.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(&hex).join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn with_auth(file: impl Into<PathBuf>) -> Options {
    let registry = RegistryOptions { auth_file: Some(file.into()), ..RegistryOptions::default() };
    Options { registry, ..Options::default() }
}

/// Options that look at no credentials of whoever runs the tests.
pub fn anonymous() -> Options {
    with_auth("/nonexistent/auth.json")
}

/// Passes connections on, and cuts each one after some bytes of the answer.
pub fn cutting_proxy(to: String, cut_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(&to)) else { return };
            std::thread::spawn(move || {
                let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                });
                let mut left = cut_bytes;
                let mut buffer = [0; 4096];
                while left > 0 {
                    let want = left.min(buffer.len());
                    match server.read(&mut buffer[..want]) {
                        Ok(read @ 1..) if client.write_all(&buffer[..read]).is_ok() => left -= read,
                        _ => break,
                    }
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}
