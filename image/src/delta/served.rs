//! Asking a `d4c serve` for a delta (`docs/registry.md`, "Deltas on demand"): for `d4c pull`, and within ordinary pulls.
//!
//! What it answers is believed as little as what a registry lists: the file has to be a cdimg from an image that is there to the one that is
//! wanted, and what it makes is verified when it is made.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use d4c_sys::Map;
use dimg::Digest;
use oci_spec::distribution::Reference;
use reqwest::header::{AUTHORIZATION, RANGE};
use reqwest::{StatusCode, Url};

use super::{Present, opened};
use crate::error::SourceError;
use crate::registry::{Behalf, OnBytes, RegistryOptions, is_loopback};

/// Images that one request names at most.
pub const MAX_HAVE: usize = 64;
/// Where deltas are asked for.
pub const PATH: &str = "/v1/delta";
const WHAT: &str = "ask for delta";
const CHECK: &str = "check delta";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers to one question that may break off.
const ATTEMPTS: usize = 4;

/// A question: how to get to an image.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Where the server is, e.g. `http://127.0.0.1:5080`.
    pub server: &'a str,
    /// The repository that has the images.
    pub reference: &'a Reference,
    /// The manifest of the image that is wanted.
    pub want: Digest,
    /// The images that are there. Those at hand are named before those that are to be unpacked, else as they come.
    pub have: &'a [Present],
    /// More bytes than this are not taken.
    pub max_bytes: u64,
    /// How long until the answer begins, and between its parts.
    pub patience: Duration,
    /// How long it takes in all at most; none for as long as it likes.
    pub limit: Option<Duration>,
}

/// What a server gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The image that the delta starts from, one of those that are there.
    pub source: Digest,
    /// Its bytes.
    pub bytes: u64,
}

/// Fetches a delta into `file`, which is empty, and checks where it starts from and leads to. Whether it makes that is seen when it is applied.
///
/// # Errors
/// The server is not there, refuses, is slow, gives something else, or has nothing that is worth its bytes; [`SourceError::NotFound`] where it
/// knows no way.
pub fn ask(
    wanted: &Wanted<'_>,
    options: &RegistryOptions,
    file: &File,
    on_bytes: Option<&OnBytes>,
) -> Result<Served, SourceError> {
    let bytes = fetch(wanted, options, file, on_bytes)?;
    let map = Map::file(file).map_err(SourceError::io("map file", Path::new("delta")))?;
    let cdimg = opened(map, CHECK, wanted.server)?;
    let wrong = |why: &str| SourceError::corrupt(CHECK, wanted.server, why);
    if cdimg.dimg().target().manifest != wanted.want {
        return Err(wrong("it makes another image"));
    }
    let parent = cdimg.dimg().parent().map(|parent| parent.manifest);
    let source = parent.filter(|parent| wanted.have.iter().any(|image| image.manifest == *parent));
    let source = source.ok_or_else(|| wrong("it starts from an image that is not here"))?;
    Ok(Served { source, bytes })
}

fn fetch(
    wanted: &Wanted<'_>,
    options: &RegistryOptions,
    file: &File,
    on_bytes: Option<&OnBytes>,
) -> Result<u64, SourceError> {
    let failed = |why: String| SourceError::Remote { what: WHAT, on: wanted.server.to_owned(), why };
    let mut have: Vec<&Present> = wanted.have.iter().collect();
    have.sort_by_key(|image| image.packed_bytes > 0);
    let have: Vec<String> = have.iter().take(MAX_HAVE).map(|image| image.manifest.to_string()).collect();
    let repository = format!("{}/{}", wanted.reference.registry(), wanted.reference.repository());
    let mut url = Url::parse(wanted.server)
        .map_err(|error| SourceError::usage(wanted.server, format!("not a URL: {error}")))?;
    url.set_path(&format!("{}{PATH}", url.path().trim_end_matches('/')));
    url.set_query(Some(&format!("repository={repository}&want={}&have={}", wanted.want, have.join(","))));
    let login = Behalf::own_header(wanted.reference, options)?;
    let private = url.scheme() == "https" || url.host_str().is_some_and(is_loopback) || options.insecure;
    if login.is_some() && !private {
        return Err(failed("a login is not sent over plain HTTP to another machine".into()));
    }
    // Another part of the process may have chosen one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(wanted.patience)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SourceError::io("start runtime", Path::new(wanted.server)))?;
    let mut fetch = Fetch { file, got: 0, tag: None, max_bytes: wanted.max_bytes, on_bytes };
    let answered = async {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let mut request = client.get(url.clone());
            if let Some(login) = &login {
                request = request.header(AUTHORIZATION, login);
            }
            if fetch.got > 0 {
                request = request.header(RANGE, format!("bytes={}-", fetch.got));
            }
            match fetch.take(request).await {
                Ok(()) => return Ok(fetch.got),
                Err(Broken::Off(what)) if fetch.got > 0 => why = what,
                Err(Broken::None(why)) => {
                    let on = wanted.server.to_owned();
                    return Err(SourceError::NotFound { what: WHAT, on, why });
                }
                Err(Broken::Off(what) | Broken::Refused(what)) => return Err(failed(what)),
                Err(Broken::Local(error)) => {
                    return Err(SourceError::io("write file", Path::new("delta"))(error));
                }
            }
        }
        Err(failed(why))
    };
    runtime.block_on(async {
        let Some(limit) = wanted.limit else { return answered.await };
        let late = |_| Err(failed(format!("not answered within {} s", limit.as_secs_f32())));
        tokio::time::timeout(limit, answered).await.unwrap_or_else(late)
    })
}

/// Why an answer is not whole.
enum Broken {
    /// It may go on.
    Off(String),
    Refused(String),
    /// It knows no way.
    None(String),
    Local(std::io::Error),
}

impl Broken {
    fn off(error: &reqwest::Error) -> Self {
        use std::error::Error;
        let mut inner: &dyn Error = error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        Self::Off(inner.to_string())
    }
}

struct Fetch<'a> {
    file: &'a File,
    got: u64,
    /// Of the answer that `got` bytes came from.
    tag: Option<String>,
    max_bytes: u64,
    on_bytes: Option<&'a OnBytes>,
}

impl Fetch<'_> {
    async fn take(&mut self, request: reqwest::RequestBuilder) -> Result<(), Broken> {
        let mut answer = request.send().await.map_err(|error| Broken::off(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let mut text = answer.text().await.unwrap_or_default();
            text.retain(|letter| !letter.is_control());
            let told: String = text.chars().take(300).collect();
            let colon = if told.is_empty() { "" } else { ": " };
            let told = format!("status {}{colon}{told}", status.as_u16());
            return Err(match status {
                StatusCode::NOT_FOUND => Broken::None(told),
                _ => Broken::Refused(told),
            });
        }
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        if self.got > 0 && (status != StatusCode::PARTIAL_CONTENT || tag.is_none() || tag != self.tag) {
            return Err(Broken::Refused("the answer became another one while it was fetched".into()));
        }
        self.tag = tag;
        let Some(length) = answer.content_length() else {
            return Err(Broken::Refused("the answer does not tell its length".into()));
        };
        if self.got.saturating_add(length) > self.max_bytes {
            return Err(Broken::Refused(format!("the delta has {length} bytes, more than it is worth")));
        }
        let end = self.got + length;
        while let Some(chunk) = answer.chunk().await.map_err(|error| Broken::off(&error))? {
            let mut file = self.file;
            file.write_all(&chunk).map_err(Broken::Local)?;
            self.got += chunk.len() as u64;
            if let Some(on_bytes) = self.on_bytes {
                on_bytes(chunk.len() as u64);
            }
        }
        if self.got == end { Ok(()) } else { Err(Broken::Off(format!("{} of {end} bytes", self.got))) }
    }
}
