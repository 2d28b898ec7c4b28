//! Asking a `d4c serve` for a delta (`docs/registry.md`, "Deltas on demand"): for `d4c pull`, and within ordinary pulls.
//!
//! What it answers is believed as little as what a registry lists: the file has to be a cdimg from an image that is there to the one that is
//! wanted, and what it makes is verified when it is made.
//!
//! The server names its answer by the digest of its bytes, so that one that breaks off is gone on with, within this process and by later ones.

use std::path::Path;
use std::time::{Duration, Instant};

use dimg::Digest;
use oci_spec::distribution::Reference;
use reqwest::header::{AUTHORIZATION, ETAG, IF_RANGE, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use super::{Present, artifact, opened};
use crate::error::SourceError;
use crate::registry::{Behalf, OnBytes, Partial, Partials, RegistryOptions, is_loopback, proxied};

/// Images that one request names at most.
pub const MAX_HAVE: usize = 64;
/// Where deltas are asked for.
pub const PATH: &str = "/v1/delta";
const WHAT: &str = "ask for delta";
const CHECK: &str = "check delta";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a refusal that are read.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// Answers in a row that may break off with little that is new.
const ATTEMPTS: u32 = 4;
/// After the first of them; more after later ones.
const PAUSE: Duration = Duration::from_millis(300);
/// What is more than little.
const PROGRESS_BYTES: u64 = 64 << 10;
/// How often it is recorded what is there, for a later process.
const RECORD_EVERY: Duration = Duration::from_secs(1);

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
    /// Those that were received now.
    pub received_bytes: u64,
}

/// Fetches a delta into a file of `partials`, going on with what is there of it, and checks where it starts from and leads to. Whether it makes that
/// is seen when it is applied.
///
/// # Errors
/// The server is not there, refuses, is slow, gives something else, or has nothing that is worth its bytes; [`SourceError::NotFound`] where it
/// knows no way.
pub fn ask(
    wanted: &Wanted<'_>,
    options: &RegistryOptions,
    partials: &Partials,
    on_bytes: Option<&OnBytes>,
) -> Result<(Served, Partial), SourceError> {
    let (partial, received_bytes) = fetch(wanted, options, partials, on_bytes)?;
    match check(wanted, &partial) {
        Ok(source) => Ok((Served { source, bytes: partial.size(), received_bytes }, partial)),
        Err(error) => {
            partial.remove();
            Err(error)
        }
    }
}

/// The image that the delta starts from.
fn check(wanted: &Wanted<'_>, partial: &Partial) -> Result<Digest, SourceError> {
    let cdimg = opened(partial.digest()?.0, CHECK, wanted.server)?;
    let wrong = |why: &str| SourceError::corrupt(CHECK, wanted.server, why);
    if cdimg.dimg().target().manifest != wanted.want {
        return Err(wrong("it makes another image"));
    }
    let parent = cdimg.dimg().parent().map(|parent| parent.manifest);
    let source = parent.filter(|parent| wanted.have.iter().any(|image| image.manifest == *parent));
    source.ok_or_else(|| wrong("it starts from an image that is not here"))
}

/// The answer, and how many of its bytes were received.
fn fetch(
    wanted: &Wanted<'_>,
    options: &RegistryOptions,
    partials: &Partials,
    on_bytes: Option<&OnBytes>,
) -> Result<(Partial, u64), SourceError> {
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
    let is_here = url.host_str().is_some_and(is_loopback);
    let private = url.scheme() == "https" || is_here || options.insecure;
    if login.is_some() && !private {
        return Err(failed("a login is not sent over plain HTTP to another machine".into()));
    }
    // Another part of the process may have chosen one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = proxied(reqwest::Client::builder());
    let client = client
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(wanted.patience)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SourceError::io("start runtime", Path::new(wanted.server)))?;
    let mut fetch = Fetch { partials, into: None, received: 0, max_bytes: wanted.max_bytes, on_bytes };
    let question = || {
        let request = client.get(url.clone());
        if let Some(login) = &login { request.header(AUTHORIZATION, login) } else { request }
    };
    let done = runtime.block_on(async {
        let answered = fetch.answer(&question);
        let Some(limit) = wanted.limit else { return answered.await };
        let late = |_| Err(Broken::Refused(format!("not answered within {} s", limit.as_secs_f32())));
        tokio::time::timeout(limit, answered).await.unwrap_or_else(late)
    });
    let received = fetch.received;
    match (done, fetch.into) {
        (Ok(()), Some(into)) => Ok((into.partial, received)),
        (Ok(()), None) => Err(failed("no answer".into())),
        (Err(broken), into) => {
            let local = matches!(broken, Broken::Local(_));
            if let Some(partial) = into.map(|into| into.partial) {
                // That it cannot be recorded costs the next one bytes, and is not why this one failed.
                let _ = (partial.is_kept() && !local).then(|| partial.shared().record());
                // The disk may be full.
                if local {
                    partial.remove();
                }
            }
            Err(match broken {
                Broken::None(why) => SourceError::NotFound { what: WHAT, on: wanted.server.to_owned(), why },
                Broken::Off(why) | Broken::Refused(why) => failed(why),
                Broken::Local(error) => error,
            })
        }
    }
}

/// Why an answer is not whole.
enum Broken {
    /// It may go on.
    Off(String),
    Refused(String),
    /// It knows no way.
    None(String),
    Local(SourceError),
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
    partials: &'a Partials,
    /// Known once an answer has begun.
    into: Option<Into>,
    received: u64,
    max_bytes: u64,
    on_bytes: Option<&'a OnBytes>,
}

/// An answer on its way into a file.
struct Into {
    partial: Partial,
    /// How the server names it, and its digest where that tells.
    tag: Option<String>,
    digest: Option<Digest>,
    /// Bytes from its front that are there.
    at: u64,
    /// Some of them came from an earlier process.
    resumed: bool,
}

impl Fetch<'_> {
    /// Asks until all of the answer is there and is what it says it is.
    async fn answer(&mut self, question: &dyn Fn() -> RequestBuilder) -> Result<(), Broken> {
        let mut failed = 0;
        loop {
            let before = self.received;
            match self.attempt(question()).await {
                Ok(false) => {}
                Ok(true) => {
                    if self.is_right()? {
                        return Ok(());
                    }
                }
                Err(Broken::Off(why)) if self.into.as_ref().is_some_and(|into| into.at > 0) => {
                    failed = if self.received - before >= PROGRESS_BYTES { 1 } else { failed + 1 };
                    if failed == ATTEMPTS {
                        return Err(Broken::Off(why));
                    }
                    tokio::time::sleep(PAUSE * failed).await;
                }
                Err(broken) => return Err(broken),
            }
        }
    }

    /// One request; whether all is there then. When not, it is known what is, and what to ask for.
    async fn attempt(&mut self, mut request: RequestBuilder) -> Result<bool, Broken> {
        let from = self.into.as_ref().filter(|into| into.at > 0);
        let asked = from.map(|into| (into.at, into.tag.clone().unwrap_or_default()));
        if let Some((at, tag)) = &asked {
            request = request.header(RANGE, format!("bytes={at}-"));
            if !tag.is_empty() {
                request = request.header(IF_RANGE, tag);
            }
        }
        let answer = request.send().await.map_err(|error| Broken::off(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(refused(answer).await);
        }
        let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let Some(length) = answer.content_length() else {
            return Err(Broken::Refused("the answer does not tell its length".into()));
        };
        let before = self.into.take();
        let mut into = match before.zip(asked) {
            Some((into, (at, known))) => {
                let fits = at.saturating_add(length) == into.partial.size();
                if status != StatusCode::PARTIAL_CONTENT || tag != Some(known) || !fits {
                    into.partial.remove();
                    return Err(Broken::Refused("the answer became another one while it was fetched".into()));
                }
                into
            }
            None => {
                if length > self.max_bytes {
                    let why = format!("the delta has {length} bytes, more than it is worth");
                    return Err(Broken::Refused(why));
                }
                let into = self.begin(tag, length)?;
                if into.resumed {
                    let all = into.at == length;
                    self.into = Some(into);
                    return Ok(all);
                }
                into
            }
        };
        let done = self.receive(answer, &mut into).await;
        self.into = Some(into);
        done.map(|()| true)
    }

    /// The file for an answer of so many bytes, with what is there of it.
    fn begin(&self, tag: Option<String>, bytes: u64) -> Result<Into, Broken> {
        let digest: Option<Digest> = tag.as_deref().and_then(|tag| tag.trim_matches('"').parse().ok());
        let partial = match digest {
            Some(digest) => self.partials.begin(&artifact::layer(digest, bytes)),
            None => self.partials.begin_unnamed(bytes),
        };
        let partial = partial.map_err(Broken::Local)?;
        let at = partial.missing().front().map_or(bytes, |gap| gap.start);
        if let Some(on_bytes) = self.on_bytes {
            on_bytes(at);
        }
        Ok(Into { partial, tag, digest, at, resumed: at > 0 })
    }

    async fn receive(&mut self, mut answer: Response, into: &mut Into) -> Result<(), Broken> {
        let (end, mut recorded) = (into.partial.size(), Instant::now());
        while let Some(chunk) = answer.chunk().await.map_err(|error| Broken::off(&error))? {
            let written = into.partial.shared().write(&chunk, into.at);
            written.map_err(SourceError::io("write file", into.partial.shown())).map_err(Broken::Local)?;
            into.at += chunk.len() as u64;
            self.received += chunk.len() as u64;
            if let Some(on_bytes) = self.on_bytes {
                on_bytes(chunk.len() as u64);
            }
            if into.partial.is_kept() && recorded.elapsed() >= RECORD_EVERY {
                // Where it fails less is recorded, and the download goes on.
                let _ = into.partial.shared().record();
                recorded = Instant::now();
            }
        }
        if into.at == end { Ok(()) } else { Err(Broken::Off(format!("{} of {end} bytes", into.at))) }
    }

    /// Makes the file the answer. What an earlier process had may be another one: then it is thrown away, and to be asked for anew.
    fn is_right(&mut self) -> Result<bool, Broken> {
        let Some(into) = self.into.take() else { return Ok(false) };
        let closed = into.partial.close().map_err(SourceError::io("write file", into.partial.shown()));
        closed.map_err(Broken::Local)?;
        let found = into.partial.digest().map_err(Broken::Local)?.1;
        match into.digest.filter(|expected| *expected != found) {
            None => {
                self.into = Some(into);
                Ok(true)
            }
            Some(expected) => {
                into.partial.remove();
                match into.resumed {
                    true => Ok(false),
                    false => {
                        Err(Broken::Refused(format!("the answer has the digest {found}, not {expected}")))
                    }
                }
            }
        }
    }
}

/// Why the server does not answer as it should.
async fn refused(mut answer: Response) -> Broken {
    let status = answer.status();
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - bytes.len())]);
        if bytes.len() == MAX_REFUSAL_BYTES {
            break;
        }
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    text.retain(|letter| !letter.is_control());
    let told: String = text.chars().take(300).collect();
    let colon = if told.is_empty() { "" } else { ": " };
    let told = format!("status {}{colon}{told}", status.as_u16());
    match status {
        StatusCode::NOT_FOUND => Broken::None(told),
        _ => Broken::Refused(told),
    }
}
