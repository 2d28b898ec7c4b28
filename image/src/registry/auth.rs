//! Logging in: what a registry asks for in `WWW-Authenticate`, and the token that a token server gives for it.
//!
//! Follows docker's token specification: a `GET` with a name and password or without, and for identity tokens (the
//! refresh tokens that docker's login and helpers keep for some registries) its OAuth 2 part, a `POST`. A token is kept until
//! shortly before it runs out and then fetched anew, so that it may run out in the middle of a long download.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::credentials::Credential;
use super::failed::Failed;
use super::request::read_limited;

/// Largest answer of a token server that is read.
const MAX_BYTES: u64 = 1 << 20;
/// What the specification gives a token that does not say how long it lives.
const DEFAULT_LIFE_SECONDS: u64 = 60;
/// How long before its end a token is no longer used.
const MARGIN_SECONDS: u64 = 10;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What tokens are asked for.
pub(super) struct Scope {
    /// Our own: the repository by the name that it has for us, which a mirror need not have for it.
    pub(super) own: String,
    /// Whether it is asked for besides what the registry says, which for the first request of a push may be less than what comes.
    pub(super) always: bool,
}

impl Scope {
    /// The scopes to ask for where the registry says `told`.
    fn with<'a>(&'a self, told: &'a [String]) -> Vec<&'a str> {
        let mut scopes: Vec<&str> = told.iter().map(String::as_str).collect();
        if scopes.is_empty() || self.always && !scopes.contains(&self.own.as_str()) {
            scopes.push(&self.own);
        }
        scopes
    }
}

/// What is sent with every request to one host.
#[derive(Default)]
pub(super) struct Login {
    challenge: Option<Challenge>,
    header: Option<HeaderValue>,
    until: Option<Instant>,
}

impl Login {
    /// The header to send; `None` while nothing was asked for, or when it has run out.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let over = self.until.is_some_and(|until| until <= Instant::now());
        if over { None } else { self.header.clone() }
    }

    /// Whether a token was had and has run out.
    pub(super) fn has_run_out(&self) -> bool {
        self.header.is_some() && self.header().is_none()
    }

    /// Takes what the registry asks for from an answer with status 401; whether it is another thing than before, so that no token is for it.
    ///
    /// # Errors
    /// It asks for nothing that can be given.
    pub(super) fn challenged(&mut self, headers: &HeaderMap) -> Result<bool, Failed> {
        let found = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match found.or_else(|| self.challenge.clone()) {
            Some(challenge) => {
                let differs = self.challenge.as_ref() != Some(&challenge);
                self.challenge = Some(challenge);
                Ok(differs)
            }
            None => Err(Failed::denied(None, "")),
        }
    }

    /// Gets what the last challenge asks for. `tls`: whether the registry is spoken to by TLS; a token server by plain HTTP is
    /// refused then.
    ///
    /// # Errors
    /// There is no credential, or the token server refuses it.
    pub(super) async fn renew(
        &mut self,
        client: &Client,
        tls: bool,
        credential: &Credential,
        scope: &Scope,
    ) -> Result<(), Failed> {
        self.header = None;
        self.until = None;
        match (&self.challenge, credential) {
            (None, _) => {}
            (Some(Challenge::Basic), Credential::Basic { user, password }) => {
                self.header = Some(basic(user, password)?);
            }
            (Some(Challenge::Basic), Credential::Anonymous) => return Err(Failed::denied(None, "")),
            (Some(Challenge::Basic), Credential::IdentityToken(_)) => {
                let why = "the registry names no token server for the identity token";
                return Err(Failed::Refused(why.into()));
            }
            (Some(Challenge::Bearer { realm, service, scopes }), credential) => {
                let realm = Url::parse(realm)
                    .map_err(|error| Failed::Refused(format!("token server {realm:?}: {error}")))?;
                if realm.scheme() != "https" && tls {
                    let why = format!("token server {realm} is not to be reached by TLS");
                    return Err(Failed::Refused(why));
                }
                let answer = token(client, realm, service, credential, &scope.with(scopes)).await?;
                let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE_SECONDS).max(1));
                let margin = Duration::from_secs(MARGIN_SECONDS).min(life / 4);
                let text = answer.token.or(answer.access_token).filter(|text| !text.is_empty());
                let text =
                    text.ok_or_else(|| Failed::Refused("the token server's answer has no token".into()))?;
                self.header = Some(secret(&format!("Bearer {text}"))?);
                self.until = Instant::now().checked_add(life - margin);
            }
        }
        Ok(())
    }
}

fn secret(text: &str) -> Result<HeaderValue, Failed> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Failed::Refused("a credential cannot be sent in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Failed> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

async fn token(
    client: &Client,
    mut realm: Url,
    service: &str,
    credential: &Credential,
    scopes: &[&str],
) -> Result<Answer, Failed> {
    let joined = scopes.join(" ");
    let (request, user) = match credential {
        Credential::IdentityToken(identity_token) => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("client_id", "d4c"),
                ("service", service),
                ("scope", joined.as_str()),
                ("refresh_token", identity_token),
            ];
            // A query is written in the same way as a form.
            let form = Url::parse_with_params("form:", fields)
                .map_err(|error| Failed::Refused(error.to_string()))?;
            let form = form.query().unwrap_or_default().to_owned();
            (client.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form), None)
        }
        other => {
            {
                let mut query = realm.query_pairs_mut();
                if !service.is_empty() {
                    query.append_pair("service", service);
                }
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
            }
            let request = client.get(realm);
            match other {
                Credential::Basic { user, password } => {
                    (request.header(reqwest::header::AUTHORIZATION, basic(user, password)?), Some(user))
                }
                _ => (request, None),
            }
        }
    };
    let answer = request.send().await.map_err(|error| Failed::transport(&error))?;
    let status = answer.status();
    if status.is_success() {
        let bytes = read_limited(answer, MAX_BYTES, "fetch token").await?;
        return serde_json::from_slice(&bytes)
            .map_err(|_| Failed::Refused("the token server's answer is no token".into()));
    }
    match (status.as_u16(), credential) {
        (400 | 401 | 403, Credential::IdentityToken(_)) => Err(Failed::Refused(format!(
            "the token server refuses the identity token: status {}",
            status.as_u16()
        ))),
        (401 | 403, _) => Err(Failed::denied(user.map(String::as_str), "")),
        _ => Err(Failed::of_answer(answer).await),
    }
}

/// What a registry asks its users for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    /// A name and a password.
    Basic,
    /// A token: `Bearer realm="…",service="…",scope="… …"`.
    Bearer { realm: String, service: String, scopes: Vec<String> },
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let header = header.trim_start();
        let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scopes) = (None, String::new(), Vec::new());
        while let Some((key, value)) = rest.split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_at(value.find(',').unwrap_or(value.len())),
            };
            match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => value.clone_into(&mut service),
                "scope" => scopes = value.split_ascii_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str, scopes: &[&str]| {
            let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.to_owned(), scopes })
        };
        let both = |scopes| bearer("https://a/t?x=1,2", "s", scopes);
        assert_eq!(
            Challenge::parse(r#"Bearer realm="https://a/t?x=1,2",service="s",scope="a:b:c,d  e""#),
            both(&["a:b:c,d", "e"])
        );
        assert_eq!(Challenge::parse(r#"bearer service=s, realm="https://a/t?x=1,2""#), both(&[]));
        assert_eq!(Challenge::parse(r#"Bearer realm="r",scope="""#), bearer("r", "", &[]));
        assert_eq!(Challenge::parse("Basic realm=\"r\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        for bad in ["", "Digest realm=\"r\"", "Bearer service=\"s\"", "Bearer realm=\"r", "Bearer"] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_the_registry_says_is_asked_for() {
        let told = ["repository:proxy/app:pull".to_owned(), "other".to_owned()];
        let scope = |always| Scope { own: "repository:app:pull,push".into(), always };
        assert_eq!(scope(false).with(&[]), ["repository:app:pull,push"]);
        assert_eq!(scope(false).with(&told), ["repository:proxy/app:pull", "other"]);
        assert_eq!(scope(true).with(&told[1..]), ["other", "repository:app:pull,push"]);
        assert_eq!(scope(true).with(&[scope(true).own]), ["repository:app:pull,push"]);

        let mut login = Login::default();
        let mut challenged = |scope: &str| {
            let value = HeaderValue::from_str(&format!("Bearer realm=\"r\",scope=\"{scope}\"")).unwrap();
            login.challenged(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)])).unwrap()
        };
        assert!(challenged("a") && !challenged("a") && challenged("b") && challenged("a"));
        assert!(!login.challenged(&HeaderMap::new()).unwrap());
    }

    #[test]
    fn a_token_is_not_used_when_it_has_run_out() {
        let mut login = Login { header: Some(HeaderValue::from_static("Bearer x")), ..Login::default() };
        assert!(login.header().is_some() && !login.has_run_out());
        login.until = Some(Instant::now());
        assert!(login.header().is_none() && login.has_run_out());
    }
}
