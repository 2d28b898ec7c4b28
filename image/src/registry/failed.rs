//! Why a request failed: whether it may succeed later, and what it is to the user.

use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use super::request::read_limited;
use crate::error::SourceError;

/// Largest error document that is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// Why a request did not do what it should.
#[derive(Debug)]
pub(super) enum Failed {
    /// No answer, or one that broke off.
    Transport {
        /// The innermost cause.
        why: String,
        /// Whether trying again makes sense.
        passing: bool,
        /// Whether no connection could be made.
        no_connection: bool,
    },
    /// An answer that is no success.
    Status {
        /// The status.
        code: u16,
        /// The codes of the error document.
        codes: Vec<String>,
        /// Its messages.
        message: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// The registry does not let this user do it.
    Denied {
        /// The user, where one was named.
        user: Option<String>,
        /// What the registry says to it.
        detail: String,
    },
    /// The registry, or its token server, cannot be used.
    Refused(String),
    /// The answer is not what it should be: too long, another digest.
    Wrong(SourceError),
    /// Nothing that the registry did.
    Local(SourceError),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Failed {
    /// An error of the HTTP client.
    pub(super) fn transport(error: &reqwest::Error) -> Self {
        let why = cause(error);
        let passing = !error.is_builder() && !error.is_redirect() && !why.contains("certificate");
        Self::Transport { why, passing, no_connection: error.is_connect() }
    }

    pub(super) fn denied(user: Option<&str>, detail: &str) -> Self {
        Self::Denied { user: user.map(str::to_owned), detail: detail.to_owned() }
    }

    /// What an answer that is no success says.
    pub(super) async fn of_answer(answer: Response) -> Self {
        let code = answer.status().as_u16();
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        let body = read_limited(answer, MAX_ERROR_BYTES, "read answer").await.unwrap_or_default();
        let errors = serde_json::from_slice::<Envelope>(&body).map(|found| found.errors).unwrap_or_default();
        let codes = errors.iter().map(|error| error.code.clone()).collect();
        let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
        Self::Status { code, codes, message: messages.join(", "), retry_after }
    }

    fn has_code(&self, wanted: &[&str]) -> bool {
        matches!(self, Self::Status { codes, .. } if codes.iter().any(|code| wanted.contains(&code.as_str())))
    }

    /// Whether the registry says that there is no such thing.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
            || self.has_code(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"])
    }

    /// How often the request may be made again.
    pub(super) fn attempts_left(&self) -> usize {
        const ALL: usize = usize::MAX;
        match self {
            Self::Transport { passing: false, .. } => 0,
            // The name is wrong more often than the network.
            Self::Transport { no_connection: true, .. } => 2,
            Self::Transport { .. } => ALL,
            Self::Status { code: 408 | 429 | 500 | 502..=504, .. } => ALL,
            Self::Status { .. } if self.has_code(&["TOOMANYREQUESTS"]) => ALL,
            // Where the bytes themselves are wrong, they will be wrong again.
            Self::Wrong(_) => 1,
            Self::Status { .. } | Self::Denied { .. } | Self::Refused(_) | Self::Local(_) => 0,
        }
    }

    /// How long the registry asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What it says, where another error is told.
    pub(super) fn briefly(&self) -> String {
        match self {
            Self::Transport { why, .. } | Self::Refused(why) => why.clone(),
            Self::Status { code, message, .. } => format!("status {code} {message}").trim_end().to_owned(),
            Self::Denied { user: Some(user), .. } => format!("refuses user {user:?}"),
            Self::Denied { user: None, .. } => "wants a login".to_owned(),
            Self::Wrong(error) | Self::Local(error) => error.to_string(),
        }
    }

    /// The same with more behind it.
    pub(super) fn with_note(mut self, note: &str) -> Self {
        match &mut self {
            Self::Transport { why: text, .. }
            | Self::Refused(text)
            | Self::Status { message: text, .. }
            | Self::Denied { detail: text, .. } => {
                *text = format!("{text} {note}").trim_start().to_owned();
            }
            Self::Wrong(_) | Self::Local(_) => {}
        }
        self
    }

    /// The error that the user sees: of doing `what` with `on`.
    pub(super) fn told(self, what: &'static str, on: &str) -> SourceError {
        let on = on.to_owned();
        let remote = |why: &str| SourceError::Remote { what, on: on.clone(), why: one_line(why) };
        let denied = |why: &str| SourceError::Denied { what, on: on.clone(), why: one_line(why) };
        if self.is_missing() {
            return SourceError::NotFound { what, on, why: "the registry has no such image".into() };
        }
        let is_denial = self.has_code(&["DENIED", "UNAUTHORIZED"]);
        match self {
            Self::Denied { user, detail } => denied(&denial(user.as_deref(), &detail)),
            Self::Status { code, message, .. } if is_denial || matches!(code, 401 | 403) => {
                denied(&denial(None, &message))
            }
            Self::Status { code, message, retry_after, .. } => {
                let wait = retry_after
                    .map(|wait| format!("; it asks to wait {} s", wait.as_secs()))
                    .unwrap_or_default();
                remote(&format!("status {code} {message}{wait}"))
            }
            Self::Transport { why, .. } | Self::Refused(why) => remote(&why),
            Self::Wrong(error) | Self::Local(error) => error,
        }
    }
}

fn denial(user: Option<&str>, detail: &str) -> String {
    let known = match user {
        Some(user) => format!("the registry refuses user {user:?}"),
        None => "the registry wants a login (podman login, docker login), or has no such image".into(),
    };
    if detail.is_empty() { known } else { format!("{known}: {detail}") }
}

/// The pause that `Retry-After` asks for: seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
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
pub(super) fn one_line(text: &str) -> String {
    text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, codes: &[&str]) -> Failed {
        let codes = codes.iter().map(|&code| code.to_owned()).collect();
        Failed::Status { code, codes, message: "m".into(), retry_after: None }
    }

    #[test]
    fn texts_of_registries_stay_on_one_line() {
        assert_eq!(one_line(" a\nb\x1b[31m\tc "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 300);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for code in [408, 429, 500, 502, 503, 504] {
            assert!(status(code, &[]).attempts_left() > 2, "{code}");
        }
        for code in [400, 401, 403, 404, 405, 501] {
            assert_eq!(status(code, &[]).attempts_left(), 0, "{code}");
        }
        assert!(status(400, &["TOOMANYREQUESTS"]).attempts_left() > 2);
    }

    #[test]
    fn what_the_user_is_told() {
        let told = |failed: Failed| failed.told("fetch", "r").to_string();
        assert_eq!(told(status(404, &[])), "fetch: r: the registry has no such image");
        assert_eq!(told(status(400, &["MANIFEST_UNKNOWN"])), "fetch: r: the registry has no such image");
        assert!(told(status(403, &[])).contains("wants a login"));
        assert_eq!(told(Failed::denied(Some("u"), "no")), "fetch: r: the registry refuses user \"u\": no");
        assert_eq!(told(status(500, &[])), "fetch: r: status 500 m");
    }

    #[test]
    fn pauses_are_seconds_or_dates() {
        let pause = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap())
        };
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("soon"), None);
    }
}
