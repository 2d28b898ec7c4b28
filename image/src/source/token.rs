//! Identity tokens: the refresh tokens that docker's login and helpers keep for some registries.
//!
//! One is turned into an access token for one repository at the registry's token server (the OAuth 2 part of
//! docker's token specification), which the crate `oci-client` does not do itself.

use oci_client::Reference;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

/// Largest answer of a token server that is read.
const MAX_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    access_token: String,
}

/// An access token to pull `reference`; the error is the reason in words.
///
/// `scheme` is that of the registry: a token server by plain HTTP is refused where the registry has TLS.
pub(super) async fn exchange(
    client: &Client,
    scheme: &str,
    reference: &Reference,
    identity_token: &str,
) -> Result<String, String> {
    let text = |error: reqwest::Error| super::registry::cause(&error);
    let base = format!("{scheme}://{}/v2/", reference.resolve_registry());
    let answer = client.get(base).send().await.map_err(text)?;
    let header = answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let Some(Challenge { realm, service }) = header.and_then(Challenge::parse) else {
        return Err("the registry names no token server for the identity token".into());
    };
    let realm = Url::parse(&realm).map_err(|error| format!("token server {realm:?}: {error}"))?;
    if realm.scheme() != "https" && scheme == "https" {
        return Err(format!("token server {realm} is not to be reached by TLS"));
    }
    let scope = format!("repository:{}:pull", reference.repository());
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", "d4c"),
        ("service", &service),
        ("scope", &scope),
        ("refresh_token", identity_token),
    ];
    // A query is written in the same way as a form.
    let form = Url::parse_with_params("form:", fields).map_err(|error| error.to_string())?;
    let form = form.query().unwrap_or_default().to_owned();
    let request = client.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
    let mut answer = request.send().await.map_err(text)?;
    if !answer.status().is_success() {
        return Err(format!("the token server refuses the identity token: status {}", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(text)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            return Err("the token server's answer is too long".into());
        }
    }
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| "the token server's answer has no access token".to_owned())?;
    Ok(answer.access_token)
}

/// Where a registry sends its users: `Bearer realm="…",service="…"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim_start().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, String::new());
        while let Some((key, value)) = rest.split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_at(value.find(',').unwrap_or(value.len())),
            };
            match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => value.clone_into(&mut service),
                _ => {}
            }
            rest = after;
        }
        Some(Self { realm: realm?, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let parsed = |header| Challenge::parse(header).map(|found| (found.realm, found.service));
        let both = Some(("https://a/t?x=1,2".to_owned(), "s".to_owned()));
        assert_eq!(parsed(r#"Bearer realm="https://a/t?x=1,2",service="s",scope="a=b""#), both);
        assert_eq!(parsed(r#"bearer service=s, realm="https://a/t?x=1,2""#), both);
        assert_eq!(parsed(r#"Bearer realm="r""#), Some(("r".to_owned(), String::new())));
        for bad in ["", "Basic realm=\"r\"", "Bearer service=\"s\"", "Bearer realm=\"r", "Bearer"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
