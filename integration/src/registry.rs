//! Registries on loopback ports: one without the referrers API, and two with it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::images::{Series, script};
use crate::program::Output;
use crate::sandbox::{Daemon, Sandbox, wait_for};

/// Which registry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Debian's `docker-registry`: no referrers API.
    WithoutReferrers,
    /// go-containerregistry's: the API, though not quite as specified.
    Loose,
    /// The same, put right (`integration/registry`).
    Strict,
}

/// A running registry, which knows one user and speaks TLS where it was asked to.
pub struct Registry {
    daemon: Daemon,
    port: u16,
    storage: PathBuf,
    secured: Option<Secured>,
}

/// What a client needs to be let in.
struct Secured {
    auth_file: PathBuf,
    hosts_dir: PathBuf,
}

const USER: &str = "tester";
const PASSWORD: &str = "secret";
/// Of the password, as `htpasswd -B` has it.
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// User and password in base64.
const LOGIN: &str = "dGVzdGVyOnNlY3JldA==";

impl Registry {
    /// Starts `docker-registry`, empty and open to all.
    ///
    /// # Errors
    /// Fails when it does not listen.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_as(sandbox, Kind::WithoutReferrers, false)
    }

    /// Starts a registry, empty; when `secured`, with TLS by an authority of its own, and basic authentication.
    ///
    /// # Errors
    /// Fails when it does not listen.
    pub fn start_as(sandbox: &Sandbox, kind: Kind, secured: bool) -> Result<Self> {
        // Given back at once: another process could take it, but ports are handed out in turn.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let storage = sandbox.dir("registry")?;
        let certificate = sandbox.path("registry.crt");
        let key = sandbox.path("registry.key");
        let secured = if secured { Some(secure(sandbox, port, &certificate, &key)?) } else { None };
        let command = match kind {
            Kind::WithoutReferrers => {
                let mut text = format!(
                    "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                     storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp:\n  addr: '127.0.0.1:{port}'\n",
                    storage.display()
                );
                if secured.is_some() {
                    let htpasswd = sandbox.path("htpasswd");
                    fs::write(&htpasswd, HTPASSWD)?;
                    text += &format!(
                        "  tls: {{certificate: {}, key: {}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                        certificate.display(),
                        key.display(),
                        htpasswd.display()
                    );
                }
                let config = sandbox.path("registry.yml");
                fs::write(&config, text)?;
                let mut command = sandbox.command("docker-registry");
                command.arg("serve").arg(&config);
                command
            }
            Kind::Loose | Kind::Strict => {
                let built = Output::of(Command::new(script("gotool.sh")).arg("registry"))?.success()?;
                let mut command = sandbox.command(built.stdout.trim());
                command.arg("-address").arg(format!("127.0.0.1:{port}")).arg("-dir").arg(&storage);
                if kind == Kind::Strict {
                    command.arg("-strict");
                }
                if secured.is_some() {
                    command.arg("-certificate").arg(&certificate).arg("-key").arg(&key);
                    command.args(["-user", USER, "-password", PASSWORD]);
                }
                command
            }
        };
        let mut daemon = sandbox.start("registry", command)?;
        wait_for("the registry to listen", || {
            ensure!(daemon.is_running()?, "the registry ended: {}", daemon.log());
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(Self { daemon, port, storage, secured })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to an image in it.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// The options of `d4c` that let it in.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(secured) = &self.secured {
            for (name, path) in [("--auth-file", &secured.auth_file), ("--hosts-dir", &secured.hosts_dir)] {
                options.extend([name.to_owned(), path.to_string_lossy().into_owned()]);
            }
        }
        options
    }

    /// Copies an image of a series into it.
    ///
    /// # Errors
    /// Fails when skopeo does.
    pub fn push(&self, series: &Series, tag: &str, name: &str) -> Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        if self.secured.is_some() {
            skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        skopeo.arg(series.source(tag)).arg(format!("docker://{}", self.reference(name)));
        Output::of(&mut skopeo)?.success()?;
        Ok(())
    }

    /// The file in which `docker-registry` has a blob.
    ///
    /// # Errors
    /// Fails when the digest is none.
    pub fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("no digest")?;
        Ok(self.storage.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn stop(self) -> Result<()> {
        self.daemon.terminate()?;
        Ok(())
    }
}

/// Makes a certificate for loopback, and the files of a client that trusts it and has the login.
fn secure(sandbox: &Sandbox, port: u16, certificate: &Path, key: &Path) -> Result<Secured> {
    let (authority, authority_key) = (sandbox.path("authority.crt"), sandbox.path("authority.key"));
    let new = |out: &Path, key: &Path, more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout"]).arg(key);
        Output::of(openssl.arg("-out").arg(out).args(more))?.success()
    };
    new(&authority, &authority_key, &["-subj", "/CN=authority"])?;
    let (by, by_key) = (authority.to_string_lossy(), authority_key.to_string_lossy());
    let for_loopback =
        ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    let signed = [&["-subj", "/CN=127.0.0.1", "-CA", &by, "-CAkey", &by_key], &for_loopback[..]].concat();
    new(certificate, key, &signed)?;
    let auth_file = sandbox.path("auth.json");
    fs::write(&auth_file, format!(r#"{{"auths":{{"127.0.0.1:{port}":{{"auth":"{LOGIN}"}}}}}}"#))?;
    let hosts_dir = sandbox.dir("certs.d")?;
    let dir = sandbox.dir(&format!("certs.d/127.0.0.1:{port}"))?;
    fs::write(
        dir.join("hosts.toml"),
        format!("server = \"https://127.0.0.1:{port}\"\nca = \"{}\"\n", authority.display()),
    )?;
    Ok(Secured { auth_file, hosts_dir })
}
