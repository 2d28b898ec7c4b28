//! One host of a registry: requests to it with what it asks for, and how often and where they are tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, NoProxy, Proxy, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::{Login, Scope};
use super::authority;
use super::credentials::Credential;
use super::failed::Failed;
use super::hosts::Host;
use super::tls;
use crate::error::SourceError;

/// Pauses before the second and later attempts.
const PAUSES_MS: [u64; 4] = [200, 600, 1800, 5400];
/// The longest pause that a registry may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("d4c/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 10;
/// This machine, as `NO_PROXY` has it.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// What was sent and received, in bytes of bodies.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received: AtomicU64,
}

impl Meter {
    pub(super) fn add(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A host that answers for the registry.
pub(super) struct Endpoint {
    pub(super) host: Host,
    /// With `/v2/` at its end, or what stands for it.
    base: Url,
    /// The registry that a mirror is to answer for.
    pub(super) namespace: Option<String>,
    client: Client,
    credential: Credential,
    scope: Scope,
    login: Mutex<Login>,
    pub(super) meter: Arc<Meter>,
}

/// What an [`Endpoint`] is made of.
pub(super) struct EndpointParts {
    pub(super) host: Host,
    pub(super) base: Url,
    pub(super) namespace: Option<String>,
    pub(super) client: Client,
    pub(super) credential: Credential,
    pub(super) scope: Scope,
    pub(super) meter: Arc<Meter>,
}

impl Endpoint {
    pub(super) fn new(parts: EndpointParts) -> Self {
        let EndpointParts { host, base, namespace, client, credential, scope, meter } = parts;
        Self { host, base, namespace, client, credential, scope, login: Mutex::default(), meter }
    }

    /// The URL of `path` below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Result<Url, Failed> {
        let mut url = self
            .base
            .join(path)
            .map_err(|error| Failed::Refused(format!("address {path:?} of a registry: {error}")))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// The URL that a `Location` header means, for an answer that came from `asked`.
    pub(super) fn location(asked: &Url, headers: &HeaderMap) -> Result<Url, Failed> {
        let text = headers.get(reqwest::header::LOCATION).and_then(|value| value.to_str().ok());
        let text = text.ok_or_else(|| Failed::Refused("the registry does not say where to upload".into()))?;
        asked.join(text).map_err(|error| Failed::Refused(format!("address {text:?} of a registry: {error}")))
    }

    fn is_own(&self, url: &Url) -> bool {
        let origin = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
        origin(url) == origin(&self.base)
    }

    /// Sends what `make` makes, logging in where the host asks for it. Any answer but 401 is given back.
    pub(super) async fn send(
        &self,
        url: &Url,
        make: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, Failed> {
        // Whoever is not the registry gets no credentials, redirects included: the client drops the header there.
        let own = self.is_own(url);
        let mut used = if own { self.header().await? } else { None };
        for last in [false, true] {
            let mut request = make(&self.client, url.clone());
            if let Some(header) = &used {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let answer = request.send().await.map_err(|error| Failed::transport(&error))?;
            let elsewhere = !own || !self.is_own(answer.url());
            match answer.status() {
                // Signed addresses of storage run out; a new one comes with the next attempt.
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if elsewhere => {
                    let host = answer.url().host_str().unwrap_or_default();
                    let why = format!("status {} from {host}", answer.status().as_u16());
                    return Err(Failed::Transport { why, passing: true, no_connection: false });
                }
                StatusCode::UNAUTHORIZED if !last => used = self.log_in(answer.headers(), used).await?,
                StatusCode::UNAUTHORIZED => {
                    let user = match &self.credential {
                        Credential::Basic { user, .. } => Some(user.clone()),
                        _ => None,
                    };
                    let detail = match Failed::of_answer(answer).await {
                        Failed::Status { message, .. } => message,
                        _ => String::new(),
                    };
                    return Err(Failed::Denied { user, detail });
                }
                _ => return Ok(answer),
            }
        }
        Err(Failed::denied(None, ""))
    }

    async fn header(&self) -> Result<Option<HeaderValue>, Failed> {
        let mut login = self.login.lock().await;
        if login.has_run_out() {
            login.renew(&self.client, self.is_tls(), &self.credential, &self.scope).await?;
        }
        Ok(login.header())
    }

    /// Logs in after an answer with status 401 to a request with `used`.
    async fn log_in(
        &self,
        headers: &HeaderMap,
        used: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failed> {
        let mut login = self.login.lock().await;
        let differs = login.challenged(headers)?;
        // Another request may have done it meanwhile.
        if differs || login.header().is_none() || login.header() == used {
            login.renew(&self.client, self.is_tls(), &self.credential, &self.scope).await?;
        }
        Ok(login.header())
    }

    fn is_tls(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether a TLS connection can be made. A refused certificate counts as one: it is no reason for plain HTTP.
    pub(super) async fn speaks_tls(client: &Client, base: &Url) -> bool {
        match client.get(base.clone()).send().await {
            Err(error) if error.is_connect() => super::failed::cause(&error).contains("certificate"),
            _ => true,
        }
    }
}

/// An answer's body, of at most `max_bytes`.
pub(super) async fn read_limited(
    mut answer: Response,
    max_bytes: u64,
    what: &'static str,
) -> Result<Vec<u8>, Failed> {
    let too_long = |on: &Url| {
        let on = on.host_str().unwrap_or_default().to_owned();
        Failed::Local(SourceError::Limit { what, on, limit_bytes: max_bytes })
    };
    if answer.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_long(answer.url()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Failed::transport(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > max_bytes {
            return Err(too_long(answer.url()));
        }
    }
    Ok(bytes)
}

/// The HTTP client for `host`.
///
/// # Errors
/// A certificate or header of it cannot be used.
pub(super) fn client(host: &Host, insecure: bool) -> Result<Client, SourceError> {
    const WHAT: &str = "start registry client";
    let mut headers = HeaderMap::new();
    for (name, value) in &host.headers {
        let unusable = || SourceError::corrupt(WHAT, name.clone(), "a header that cannot be sent");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| unusable())?);
    }
    let redirects = Policy::custom(|attempt| {
        let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if from_tls && attempt.url().scheme() != "https" {
            attempt.error("a redirect from TLS to plain HTTP")
        } else {
            attempt.follow()
        }
    });
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .redirect(redirects);
    let anyone = insecure || host.skip_verify;
    let builder = if host.identity.is_some() || !anyone && !host.authorities.is_empty() {
        builder.tls_backend_preconfigured(tls::config(host, anyone)?)
    } else {
        builder.tls_danger_accept_invalid_certs(anyone)
    };
    proxied(builder).build().map_err(|error| SourceError::Remote {
        what: WHAT,
        on: host.url.clone().unwrap_or_else(|| "registry".into()),
        why: super::failed::one_line(&super::failed::cause(&error)),
    })
}

/// Has the client ask the proxies of the environment, but for what is on this machine: a proxy is another one. That holds for token servers and
/// redirects, too.
pub(crate) fn proxied(builder: ClientBuilder) -> ClientBuilder {
    let first = |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let not = NoProxy::from_string(&format!("{LOOPBACK},{}", first(&["NO_PROXY", "no_proxy"])));
    let all = first(&["ALL_PROXY", "all_proxy"]);
    let or_all = |found: String| if found.is_empty() { all.clone() } else { found };
    let http = or_all(first(&["HTTP_PROXY", "http_proxy"]));
    let https = or_all(first(&["HTTPS_PROXY", "https_proxy"]));
    // Of a CGI script `HTTP_PROXY` is a header of whoever asks.
    let is_cgi = std::env::var_os("REQUEST_METHOD").is_some();
    // What cannot be understood is as good as not set, as everywhere.
    let proxies = [Proxy::http(http), Proxy::https(https)].into_iter().flatten().filter(|_| !is_cgi);
    proxies.fold(builder.no_proxy(), |builder, proxy| builder.proxy(proxy.no_proxy(not.clone())))
}

/// The attempts at one request: where, how often, with which pauses.
pub(super) struct Attempts<'a> {
    endpoints: Vec<&'a Endpoint>,
    at: usize,
    done: usize,
    /// Why the hosts before this one were of no use.
    passed: Vec<String>,
}

impl<'a> Attempts<'a> {
    /// At these hosts one after the other; there is at least one.
    pub(super) fn new(endpoints: Vec<&'a Endpoint>) -> Result<Self, Failed> {
        if endpoints.is_empty() {
            return Err(Failed::Refused("no host of hosts.toml may do this".into()));
        }
        Ok(Self { endpoints, at: 0, done: 0, passed: Vec::new() })
    }

    /// The host to ask now.
    pub(super) fn endpoint(&self) -> &'a Endpoint {
        self.endpoints[self.at]
    }

    /// Goes to the next host, if there is one.
    pub(super) fn next_host(&mut self) -> bool {
        let there_is = self.at + 1 < self.endpoints.len();
        if there_is {
            self.at += 1;
            self.done = 0;
        }
        there_is
    }

    /// What made progress deserves all its attempts again.
    pub(super) fn progress(&mut self) {
        self.done = 0;
    }

    /// After `error`: waits if another attempt makes sense. Mirrors get one attempt each; what one of them does not do is left to the
    /// next host.
    ///
    /// # Errors
    /// `error`, where there is no other attempt.
    pub(super) async fn after(&mut self, error: Failed) -> Result<(), Failed> {
        let host = authority(&self.endpoint().base);
        if !matches!(error, Failed::Local(_)) && self.next_host() {
            self.passed.push(format!("{host}: {}", error.briefly()));
            return Ok(());
        }
        let allowed = error.attempts_left().min(PAUSES_MS.len());
        let Some(pause) = PAUSES_MS[..allowed].get(self.done).copied().map(Duration::from_millis) else {
            return Err(self.noted(error));
        };
        self.done += 1;
        let pause = match error.retry_after() {
            Some(asked) if asked > MAX_PAUSE => return Err(self.noted(error)),
            Some(asked) => asked.max(pause),
            None => pause,
        };
        tokio::time::sleep(pause + jitter(pause)).await;
        Ok(())
    }

    /// With the host that it is of, where that is not the registry itself, and with what those before it failed with.
    fn noted(&self, error: Failed) -> Failed {
        let Endpoint { base, namespace, .. } = self.endpoint();
        let mut hosts: Vec<String> = namespace.iter().map(|_| authority(base)).collect();
        hosts.extend_from_slice(&self.passed);
        if hosts.is_empty() { error } else { error.with_note(&format!("({})", hosts.join("; "))) }
    }
}

/// Up to a quarter of `pause`, so that many clients do not come back all at once.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(random_fraction() / 4.0)
}

/// A random number from 0 to below 1.
pub(super) fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(random).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
