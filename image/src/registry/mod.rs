//! A repository in a registry, by the OCI distribution protocol 1.1: manifests, blobs by ranges, uploads, referrers.
//!
//! [`Repository`] blocks; the asynchronous part and its runtime are private to this folder, and a call may be made on any thread, one
//! of another runtime included. `hosts` says where a registry is reached, `credentials` and `auth` how to log in, `request` sends to one
//! host and decides on attempts, `failed` knows what failures mean; `manifests`, `download`, `upload` and `referrers` are the protocol;
//! `partial` and `partials` are the files of downloads, which later processes go on with, `ranges` says what such a file has; `memory` is what is known of a
//! registry from earlier pulls.
//!
//! Plain HTTP is for registries on this machine, or by flag, and for these too only where they do not speak TLS; a `hosts.toml` may name
//! `http://` hosts. Proxies come from the environment (`HTTPS_PROXY`, `NO_PROXY`, …), but for hosts on this machine. Every answer has a
//! limit that is enforced while it is read. Nothing is believed: whoever reads bytes compares them with the digest that led to them.
//!
//! The HTTP client is the crate `reqwest`. The protocol is our own because what clients of it give does not reach: a limit on
//! manifests while they are read, `Retry-After`, tokens that run out in the middle of a pull, mirrors with certificates of their
//! own, the `OCI-Subject` header.

mod auth;
mod behalf;
mod credentials;
mod download;
mod failed;
mod hosts;
mod manifests;
mod memory;
mod partial;
mod partials;
mod ranges;
mod referrers;
mod request;
mod tls;
mod upload;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use oci_spec::distribution::Reference;
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

use crate::error::SourceError;
use auth::Scope;
pub use behalf::Behalf;
use credentials::{auth_files, find};
use failed::{Failed, cause, one_line};
use hosts::Host;
pub use manifests::Found;
use memory::Memory;
pub use partial::Partial;
pub use partials::{Kept, PARTIAL_BYTES, Partials};
pub use referrers::{Referrer, is_of_artifact};
pub(crate) use request::proxied;
use request::{Attempts, Endpoint, EndpointParts, Meter, client};

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Whether registries other than those on this machine may be spoken to by plain HTTP, or with a
    /// certificate that nothing vouches for.
    pub insecure: bool,
    /// The file with credentials; when not set, the usual ones of podman and docker.
    pub auth_file: Option<PathBuf>,
    /// Directories with `hosts.toml` and certificates, by registry.
    pub hosts_dirs: Vec<PathBuf>,
    /// On whose behalf, when that is not whoever runs this program: then no credential, header or certificate of ours is sent, and no
    /// mirror asked.
    pub behalf: Option<Behalf>,
    /// File in which is kept how registries answer, so that the next pull asks less; none: it is not kept.
    pub memory: Option<PathBuf>,
}

impl Default for RegistryOptions {
    /// containerd's and docker's directories.
    fn default() -> Self {
        let hosts_dirs = vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()];
        Self { insecure: false, auth_file: None, hosts_dirs, behalf: None, memory: None }
    }
}

/// What a repository is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

/// Told the bytes of a body as they come or go.
pub type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

/// A repository in a registry.
pub struct Repository {
    /// Taken only by `drop`.
    runtime: Option<Runtime>,
    inner: Arc<Inner>,
}

/// What the asynchronous part works with.
struct Inner {
    endpoints: Vec<Endpoint>,
    /// Path of the repository.
    path: String,
    /// As the user named it.
    name: String,
    meter: Arc<Meter>,
    memory: Arc<Memory>,
    /// Plain HTTP is spoken because it was before, and nobody looked whether it still is to be.
    assumed_plain: bool,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.inner.name)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait, and so may be done where waiting is forbidden: in another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Repository {
    /// Opens the repository of `reference`, whose tag and digest do not matter. `name` is how errors call it.
    ///
    /// # Errors
    /// Credentials, `hosts.toml` or certificates cannot be read.
    pub fn open(
        reference: &Reference,
        access: Access,
        options: &RegistryOptions,
        name: impl Into<String>,
    ) -> Result<Self, SourceError> {
        let name = name.into();
        // Another part of the process may have chosen one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(SourceError::io("start runtime for", Path::new(&name)))?;
        let meter = Arc::new(Meter::default());
        let registry = reference.registry();
        let inner = Inner {
            endpoints: Vec::new(),
            path: reference.repository().to_owned(),
            name,
            meter: Arc::clone(&meter),
            memory: Arc::new(Memory::open(options.memory.as_deref(), registry)),
            assumed_plain: false,
        };
        let mut this = Self { runtime: Some(runtime), inner: Arc::new(inner) };
        let mut assumed_plain = false;
        let files = auth_files(options.auth_file.as_deref());
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", reference.repository());
        let mut endpoints = Vec::new();
        for mut host in hosts::find(&options.hosts_dirs, registry)? {
            let is_mirror = host.url.as_deref().is_some_and(|url| !is_of(url, registry));
            if options.behalf.is_some() {
                if is_mirror {
                    continue;
                }
                host.identity = None;
                host.headers.clear();
            }
            let client = client(&host, options.insecure)?;
            let base = match &host.url {
                Some(url) => this.base(url, host.override_path)?,
                None => {
                    let base = this.base(&format!("https://{}", address(registry)), false)?;
                    let may_be_plain = options.insecure || is_loopback(registry);
                    let (probe, url) = (client.clone(), base.clone());
                    assumed_plain = may_be_plain && this.inner.memory.known().plain;
                    let is_plain = assumed_plain
                        || may_be_plain
                            && !this.wait(async move { Endpoint::speaks_tls(&probe, &url).await })?;
                    this.inner.memory.learn(|known| known.plain = is_plain);
                    if is_plain { this.base(&format!("http://{}", address(registry)), false)? } else { base }
                }
            };
            let server = if is_mirror { authority(&base) } else { registry.to_owned() };
            let credential = match &options.behalf {
                Some(behalf) => behalf.0.clone(),
                None => find(&files, &server, reference.repository())?,
            };
            let scope = Scope { own: scope.clone(), always: access == Access::Push && host.pushes };
            endpoints.push(Endpoint::new(EndpointParts {
                host,
                base,
                namespace: is_mirror.then(|| registry.to_owned()),
                client,
                credential,
                scope,
                meter: Arc::clone(&meter),
            }));
        }
        let Inner { path, name, memory, .. } = &*this.inner;
        let (path, name, memory) = (path.clone(), name.clone(), Arc::clone(memory));
        this.inner = Arc::new(Inner { endpoints, path, name, meter, memory, assumed_plain });
        Ok(this)
    }

    /// Whether a failure may come of going by what was remembered, which is forgotten then: opened anew, the repository looks for itself.
    pub(crate) fn was_misled(&self) -> bool {
        if self.inner.assumed_plain {
            self.inner.memory.learn(|known| known.plain = false);
        }
        self.inner.assumed_plain
    }

    /// Bytes of bodies received so far, those of attempts that failed included.
    pub fn received_bytes(&self) -> u64 {
        self.inner.meter.received()
    }

    /// The repository as errors call it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Base of the URLs of a host.
    fn base(&self, url: &str, override_path: bool) -> Result<Url, SourceError> {
        let url = url.trim_end_matches('/');
        let whole =
            if override_path || url.ends_with("/v2") { format!("{url}/") } else { format!("{url}/v2/") };
        Url::parse(&whole).map_err(|error| {
            let why = one_line(&cause(&error));
            SourceError::Usage { on: self.inner.name.clone(), why: format!("registry {url:?}: {why}") }
        })
    }

    /// Runs `work` on the runtime and waits for it here, whatever thread this is.
    fn wait<T, F>(&self, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let stopped = || SourceError::Remote {
            what: "speak to registry",
            on: self.inner.name.clone(),
            why: "the client stopped".into(),
        };
        let (send, receive) = mpsc::sync_channel(1);
        self.runtime.as_ref().ok_or_else(stopped)?.spawn(async move {
            // No one is left to tell where the receiver is gone.
            let _ = send.send(work.await);
        });
        receive.recv().map_err(|_| stopped())
    }
}

impl Inner {
    /// Attempts at the hosts that `can` do it.
    fn attempts(&self, can: impl Fn(&Host) -> bool) -> Result<Attempts<'_>, Failed> {
        Attempts::new(self.endpoints.iter().filter(|endpoint| can(&endpoint.host)).collect())
    }

    /// Attempts at a request for something by digest.
    fn pulls(&self) -> Result<Attempts<'_>, Failed> {
        self.attempts(|host| host.pulls)
    }

    /// Attempts at a request for something by tag.
    fn resolves(&self) -> Result<Attempts<'_>, Failed> {
        self.attempts(|host| host.resolves)
    }

    /// Attempts at writing, which goes to one host only, the registry itself where it may: parts of an upload belong together.
    fn pushes(&self) -> Result<Attempts<'_>, Failed> {
        let mut can = self.endpoints.iter().rev().filter(|endpoint| endpoint.host.pushes);
        let own = can.clone().find(|endpoint| endpoint.namespace.is_none());
        Attempts::new(own.or_else(|| can.next()).into_iter().collect())
    }
}

/// Where a registry listens.
fn address(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether `url` is an address of the registry itself.
fn is_of(url: &str, registry: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let found = authority(&url);
        found == registry || found == address(registry)
    })
}

/// Whether the host of a registry (`host[:port]`) is this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "10.0.0.1:5000", "[fe80::1]:5000", "127.0.0.1.example"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn addresses_of_the_registry_itself() {
        assert!(is_of("https://registry-1.docker.io", "docker.io"));
        assert!(is_of("http://r.example:5000/v2", "r.example:5000"));
        assert!(!is_of("https://mirror.example", "docker.io"));
    }
}
