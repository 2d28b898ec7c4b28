//! `docker://`: images in a registry, by the OCI distribution protocol.
//!
//! The protocol is the crate `oci-client`'s; its runtime is private to this file, and callers block. A blob is
//! downloaded into a file without a name, going on where it broke off, and is then verified and unpacked
//! like any other. Plain HTTP is for registries on this machine, or by flag, and for these too only where
//! they do not speak TLS. Proxies come from the environment (`HTTPS_PROXY`, `NO_PROXY`, …).

use std::io::{Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use dimg::Digest;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;

use super::blob::Blob;
use super::credentials::{Credential, auth_files, find};
use super::open::OpenImage;
use super::spool::Spool;
use super::token::exchange;
use super::{Backend, Options};
use crate::error::SourceError;
use crate::manifest::{Descriptor, MAX_MANIFEST_BYTES, media};

/// Pauses before the second and later attempts.
const PAUSES_MS: [u64; 4] = [200, 600, 1800, 5400];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("d4c/", env!("CARGO_PKG_VERSION"));
/// Tags that an error lists.
const MAX_TAGS: usize = 50;

pub(super) fn open(reference: &Reference, options: &Options, name: String) -> Result<OpenImage, SourceError> {
    let registry = Registry::connect(reference, options, name.clone())?;
    let root = registry.fetch_root()?;
    OpenImage::new(Box::new(registry), root, options, name)
}

/// A repository in a registry.
struct Registry {
    /// Taken only by `drop`.
    runtime: Option<Runtime>,
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    name: String,
    spool: Spool,
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait, and so may be done where waiting is forbidden: in another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Whether the host of a registry (`host[:port]`) is this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Registry {
    fn connect(reference: &Reference, options: &Options, name: String) -> Result<Self, SourceError> {
        // Another part of the process may have chosen one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let files = auth_files(options.auth_file.as_deref());
        let credential = find(&files, reference.registry(), reference.repository())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(SourceError::io("start runtime for", std::path::Path::new(&name)))?;
        let host = reference.resolve_registry().to_owned();
        let client = new_client(ClientProtocol::Https, options, &name)?;
        let mut registry = Self {
            runtime: Some(runtime),
            client,
            auth: RegistryAuth::Anonymous,
            reference: reference.clone(),
            name,
            spool: options.spool(),
        };
        let may_be_plain = options.insecure || is_loopback(&host);
        let is_plain = may_be_plain && !registry.speaks_tls();
        if is_plain {
            registry.client = new_client(ClientProtocol::HttpsExcept(vec![host]), options, &registry.name)?;
        }
        registry.auth = match credential {
            Credential::Anonymous => RegistryAuth::Anonymous,
            Credential::Basic { user, password } => RegistryAuth::Basic(user, password),
            Credential::IdentityToken(token) => {
                registry.exchange(if is_plain { "http" } else { "https" }, token, options)?
            }
        };
        registry.authorize()?;
        Ok(registry)
    }

    /// An access token for an identity token.
    fn exchange(
        &self,
        scheme: &'static str,
        identity_token: String,
        options: &Options,
    ) -> Result<RegistryAuth, SourceError> {
        const WHAT: &str = "log in to registry";
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(USER_AGENT)
            .danger_accept_invalid_certs(options.insecure)
            .build()
            .map_err(|error| self.remote(WHAT, one_line(&cause(&error))))?;
        let reference = self.reference.clone();
        let token = self.wait(async move { exchange(&client, scheme, &reference, &identity_token).await })?;
        token.map(RegistryAuth::Bearer).map_err(|why| self.remote(WHAT, one_line(&why)))
    }

    /// Runs `work` on the runtime and waits for it here, whatever thread this is.
    fn wait<T, F>(&self, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let stopped = || self.remote("speak to registry", "the client stopped".into());
        let (send, receive) = mpsc::sync_channel(1);
        self.runtime.as_ref().ok_or_else(stopped)?.spawn(async move {
            // No one is left to tell where the receiver is gone.
            let _ = send.send(work.await);
        });
        receive.recv().map_err(|_| stopped())
    }

    fn remote(&self, what: &'static str, why: String) -> SourceError {
        SourceError::Remote { what, on: self.name.clone(), why }
    }

    /// Whether a TLS connection can be made. A refused certificate counts as one: it is no reason for plain HTTP.
    fn speaks_tls(&self) -> bool {
        let (client, reference) = (self.client.clone(), self.reference.clone());
        let answer = self.wait(async move {
            client.auth(&reference, &RegistryAuth::Anonymous, RegistryOperation::Pull).await
        });
        match answer {
            Ok(Err(OciDistributionError::RequestError(error))) if error.is_connect() => {
                cause(&error).contains("certificate")
            }
            _ => true,
        }
    }

    /// Logs in, so that a refusal is told as what it is; the client itself would go on without.
    fn authorize(&self) -> Result<(), SourceError> {
        self.attempt("log in to registry", || {
            let (client, reference, auth) = (self.client.clone(), self.reference.clone(), self.auth.clone());
            async move {
                client.store_auth_if_needed(reference.resolve_registry(), &auth).await;
                client.auth(&reference, &auth, RegistryOperation::Pull).await.map(drop)
            }
        })
    }

    /// Does `work` again while it fails in a way that may pass.
    fn attempt<T, F>(&self, what: &'static str, work: impl Fn() -> F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OciDistributionError>> + Send + 'static,
    {
        let mut pauses = Pauses::new();
        loop {
            match self.wait(work())? {
                Ok(done) => return Ok(done),
                Err(error) if pauses.wait(&error) => {}
                Err(error) => return Err(self.error(what, &error)),
            }
        }
    }

    /// The bytes of the manifest or index at `reference`.
    fn fetch(&self, reference: &Reference) -> Result<Vec<u8>, SourceError> {
        let bytes = self.attempt("fetch manifest", || {
            let (client, reference, auth) = (self.client.clone(), reference.clone(), self.auth.clone());
            async move { client.pull_manifest_raw(&reference, &auth, &media::ACCEPTED).await }
        })?;
        let bytes = bytes.0.to_vec();
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            let (on, limit_bytes) = (self.name.clone(), MAX_MANIFEST_BYTES);
            return Err(SourceError::Limit { what: "fetch manifest", on, limit_bytes });
        }
        Ok(bytes)
    }

    /// The bytes that the reference leads to, verified where it has a digest.
    fn fetch_root(&self) -> Result<Vec<u8>, SourceError> {
        let bytes = match self.fetch(&self.reference) {
            Err(SourceError::NotFound { what, on, why }) => {
                return Err(SourceError::NotFound { what, on, why: why + &self.tags() });
            }
            other => other?,
        };
        if let Some(expected) = self.reference.digest() {
            let expected = expected
                .parse::<Digest>()
                .map_err(|error| SourceError::usage(self.name.clone(), error.to_string()))?;
            super::spool::same("verify manifest", &self.name, expected, Digest::of(&bytes))?;
        }
        Ok(bytes)
    }

    /// The tags of the repository, for a message; empty where the registry does not tell.
    fn tags(&self) -> String {
        let (client, reference, auth) = (self.client.clone(), self.reference.clone(), self.auth.clone());
        let answer =
            self.wait(async move { client.list_tags(&reference, &auth, Some(MAX_TAGS), None).await });
        match answer {
            Ok(Ok(mut list)) if !list.tags.is_empty() => {
                list.tags.sort();
                list.tags.truncate(MAX_TAGS);
                format!("; tags present: {}", one_line(&list.tags.join(", ")))
            }
            _ => String::new(),
        }
    }

    /// Downloads a blob into a file without a name.
    fn download(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        const WHAT: &str = "fetch blob";
        let file = self.spool.file()?;
        let mut download = Download { file, bytes: 0, size: descriptor.size };
        let mut pauses = Pauses::new();
        loop {
            let (client, reference) = (self.client.clone(), self.reference.clone());
            let digest = descriptor.digest.to_string();
            let before = download.bytes;
            let (done, result) = self.wait(async move {
                let result = download.run(&client, &reference, &digest).await;
                (download, result)
            })?;
            download = done;
            let on = || self.blob_name(descriptor);
            match result {
                Ok(()) => return self.spool.map(&download.file).map(Blob::Mapped),
                Err(Broken::File(error)) => {
                    return Err(SourceError::io("write blob to", &self.spool.dir)(error));
                }
                Err(Broken::Size(actual)) => {
                    return Err(SourceError::Size {
                        what: WHAT,
                        on: on(),
                        expected: descriptor.size,
                        actual,
                    });
                }
                Err(Broken::Registry(error)) => {
                    // What made progress deserves all its attempts again.
                    if download.bytes > before {
                        pauses = Pauses::new();
                    }
                    if is_missing(&error) {
                        return Err(SourceError::corrupt(WHAT, on(), "missing from the registry"));
                    }
                    if !pauses.wait(&error) {
                        return Err(self.error(WHAT, &error));
                    }
                }
            }
        }
    }

    fn error(&self, what: &'static str, error: &OciDistributionError) -> SourceError {
        let on = self.name.clone();
        let denied = |detail: &str| {
            let known = match &self.auth {
                RegistryAuth::Basic(user, _) => format!("the registry refuses user {user:?}"),
                _ => "the registry wants a login (podman login, docker login), or has no such image".into(),
            };
            let detail = one_line(detail);
            if detail.is_empty() { known } else { format!("{known}: {detail}") }
        };
        match error {
            error if is_missing(error) => {
                SourceError::NotFound { what, on, why: "the registry has no such image".into() }
            }
            OciDistributionError::UnauthorizedError { .. } => self.remote(what, denied("")),
            OciDistributionError::AuthenticationFailure(why) => self.remote(what, denied(why)),
            OciDistributionError::ServerError { code: 401 | 403, message, .. } => {
                self.remote(what, denied(message))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let is_denial =
                    |code: &OciErrorCode| matches!(code, OciErrorCode::Denied | OciErrorCode::Unauthorized);
                let messages: Vec<_> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
                let messages = messages.join(", ");
                if envelope.errors.iter().any(|error| is_denial(&error.code)) {
                    return self.remote(what, denied(&messages));
                }
                self.remote(what, one_line(&messages))
            }
            OciDistributionError::ServerError { code, message, .. } => {
                self.remote(what, one_line(&format!("status {code} {message}")))
            }
            OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => {
                let why = one_line(&format!("digest is {actual}, expected {expected}"));
                SourceError::corrupt(what, on, why)
            }
            OciDistributionError::RequestError(error) => self.remote(what, one_line(&cause(error))),
            other => self.remote(what, one_line(&other.to_string())),
        }
    }
}

impl Backend for Registry {
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        self.download(descriptor)
    }

    fn blob_name(&self, descriptor: &Descriptor) -> String {
        format!("{} blob {}", self.name, descriptor.digest)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Blob, SourceError> {
        let reference = self.reference.clone_with_digest(descriptor.digest.to_string());
        let bytes = match self.fetch(&reference) {
            Err(SourceError::NotFound { .. }) => {
                let on = self.blob_name(descriptor);
                return Err(SourceError::corrupt("fetch manifest", on, "missing from the registry"));
            }
            other => other?,
        };
        Ok(Blob::Stream(Box::new(std::io::Cursor::new(bytes))))
    }
}

/// A blob on its way into a file.
struct Download {
    file: std::fs::File,
    /// Bytes written so far.
    bytes: u64,
    /// Bytes that there will be.
    size: u64,
}

/// Why a download ended early.
enum Broken {
    Registry(OciDistributionError),
    File(std::io::Error),
    /// The registry's blob has this many bytes.
    Size(u64),
}

impl Download {
    /// Gets what is missing. Digests are verified by whoever reads the file.
    ///
    /// Writes go to the page cache, and so may be done on the runtime's own threads.
    async fn run(&mut self, client: &Client, reference: &Reference, digest: &str) -> Result<(), Broken> {
        if self.bytes == self.size && self.size > 0 {
            return Ok(());
        }
        let response = if self.bytes == 0 {
            client.pull_blob_stream(reference, digest).await.map(BlobResponse::Full)
        } else {
            client.pull_blob_stream_partial(reference, digest, self.bytes, None).await
        };
        let mut stream = match response.map_err(Broken::Registry)? {
            BlobResponse::Partial(stream) => stream,
            BlobResponse::Full(stream) => {
                self.file.set_len(0).map_err(Broken::File)?;
                self.file.seek(SeekFrom::Start(0)).map_err(Broken::File)?;
                self.bytes = 0;
                stream
            }
        };
        let left = self.size - self.bytes;
        if let Some(length) = stream.content_length
            && length != left
        {
            return Err(Broken::Size(self.bytes.saturating_add(length)));
        }
        while self.bytes < self.size {
            let chunk = match stream.next().await {
                Some(Ok(chunk)) => chunk,
                // A clean end, or one that the client's own check of the digest calls wrong: too short.
                None => return Err(Broken::Size(self.bytes)),
                Some(Err(error)) if is_digest_error(&error) => return Err(Broken::Size(self.bytes)),
                Some(Err(error)) => return Err(Broken::Registry(error.into())),
            };
            let room = usize::try_from(self.size - self.bytes).unwrap_or(usize::MAX);
            if chunk.len() > room {
                return Err(Broken::Size(self.bytes.saturating_add(chunk.len() as u64)));
            }
            self.file.write_all(&chunk).map_err(Broken::File)?;
            self.bytes += chunk.len() as u64;
        }
        Ok(())
    }
}

fn is_digest_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<DigestError>())
}

/// The pauses between the attempts at one request.
struct Pauses {
    done: usize,
}

impl Pauses {
    fn new() -> Self {
        Self { done: 0 }
    }

    /// Waits if another attempt after `error` makes sense, and says whether it does.
    ///
    /// Where no connection can be made, few attempts are enough: the name is wrong more often than the network.
    fn wait(&mut self, error: &OciDistributionError) -> bool {
        let no_connection = matches!(error, OciDistributionError::RequestError(error) if error.is_connect());
        let allowed = if no_connection { 2 } else { PAUSES_MS.len() };
        let pause = PAUSES_MS[..allowed].get(self.done).filter(|_| is_transient(error));
        self.done += 1;
        pause.map(|pause| std::thread::sleep(Duration::from_millis(*pause))).is_some()
    }
}

/// Whether the same request may succeed later.
fn is_transient(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(error) => {
            let text = cause(error);
            !error.is_builder() && !error.is_redirect() && !text.contains("certificate")
        }
        OciDistributionError::IoError(error) => !is_digest_error(error),
        OciDistributionError::ServerError { code, .. } => matches!(code, 408 | 429 | 500..=599),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests)
        }
        _ => false,
    }
}

fn is_missing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ServerError { code: 404, .. }
        | OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::BlobUnknown
                    | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}

/// The innermost reason of an error, which its outer texts leave out.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

/// Text from outside, fit for one line of a terminal.
fn one_line(text: &str) -> String {
    text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn new_client(protocol: ClientProtocol, options: &Options, name: &str) -> Result<Client, SourceError> {
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: USER_AGENT,
        // The choice from an index is ours.
        platform_resolver: None,
        accept_invalid_certificates: options.insecure,
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| {
        let why = one_line(&cause(&error));
        SourceError::Remote { what: "start registry client", on: name.to_owned(), why }
    })
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
    fn texts_of_registries_stay_on_one_line() {
        assert_eq!(one_line(" a\nb\x1b[31m\tc "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 300);
    }
}
