//! Credentials of registries, from the files that podman and docker keep, and from docker's helpers.
//!
//! Follows `containers-auth.json(5)` and docker's `config.json`. Files in order: the one asked for or
//! `$REGISTRY_AUTH_FILE` (then no other), `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `$XDG_CONFIG_HOME/containers/auth.json`, `$DOCKER_CONFIG/config.json`. The first file that knows the registry
//! wins; in a file a helper for the registry, then an entry, then the helper for all. Of several entries the one
//! for the longest part of `registry/path/of/image` counts.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use crate::error::SourceError;

const WHAT: &str = "read credentials";
/// Largest file, and largest answer of a helper.
const MAX_BYTES: u64 = 1 << 20;
/// The name under which docker keeps the credentials of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a registry is to be told.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing.
    Anonymous,
    /// A name and a password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A refresh token, for the registry's token server.
    IdentityToken(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The files to look into.
pub(super) fn auth_files(asked_for: Option<&Path>) -> Vec<PathBuf> {
    let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(only) = asked_for.map(Path::to_owned).or_else(|| var("REGISTRY_AUTH_FILE")) {
        return vec![only];
    }
    let home = var("HOME");
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    [
        var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        var("XDG_CONFIG_HOME").or_else(|| in_home(".config")).map(|dir| dir.join("containers/auth.json")),
        var("DOCKER_CONFIG").or_else(|| in_home(".docker")).map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The credential for `repository` on `registry`, from the first of `files` that has one.
///
/// # Errors
/// Files that cannot be read or understood; helpers that fail.
pub(super) fn find(files: &[PathBuf], registry: &str, repository: &str) -> Result<Credential, SourceError> {
    for path in files {
        let Some(file) = read(path)? else { continue };
        if let Some(credential) = file.find(path, registry, repository)? {
            return Ok(credential);
        }
    }
    Ok(Credential::Anonymous)
}

fn read(path: &Path) -> Result<Option<AuthFile>, SourceError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(SourceError::io(WHAT, path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(SourceError::io(WHAT, path))?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| failed(path, error.to_string()))
}

fn failed(path: &Path, why: impl Into<String>) -> SourceError {
    SourceError::Remote { what: WHAT, on: path.display().to_string(), why: why.into() }
}

impl AuthFile {
    fn find(&self, path: &Path, registry: &str, repository: &str) -> Result<Option<Credential>, SourceError> {
        let server = if is_docker_hub(registry) { DOCKER_HUB } else { registry };
        let own_helper = self.cred_helpers.iter().find(|(key, _)| same_registry(key, registry));
        if let Some((_, helper)) = own_helper
            && !helper.is_empty()
            && let Some(found) = ask(helper, server, path)?
        {
            return Ok(Some(found));
        }
        if let Some(entry) = self.entry(registry, repository)
            && let Some(found) = entry.credential(path)?
        {
            return Ok(Some(found));
        }
        match &self.creds_store {
            // An empty helper for the registry says that none is to be asked for it, this neither.
            Some(helper) if !helper.is_empty() && own_helper.is_none_or(|(_, own)| !own.is_empty()) => {
                ask(helper, server, path)
            }
            _ => Ok(None),
        }
    }

    /// The entry with the longest key that is the repository or lies above it.
    fn entry(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let mut path = repository;
        loop {
            let whole = format!("{registry}/{path}");
            if let Some(entry) = self.auths.get(&whole) {
                return Some(entry);
            }
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
        let exact = self.auths.get(registry);
        exact.or_else(|| {
            // In the order of their keys, so that the choice does not depend on the map's.
            let mut same: Vec<_> =
                self.auths.iter().filter(|(key, _)| same_registry(key, registry)).collect();
            same.sort_by_key(|(key, _)| key.as_str());
            same.first().map(|(_, entry)| *entry)
        })
    }
}

impl Entry {
    fn credential(&self, path: &Path) -> Result<Option<Credential>, SourceError> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let bad = || failed(path, "an entry's auth is not name:password in base64");
            let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).map_err(|_| bad())?;
            let text = String::from_utf8(bytes).map_err(|_| bad())?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            // Docker pads some passwords with NULs.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credential::Basic { user: user.into(), password: password.into() }));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Ok(Some(Credential::Basic { user: user.clone(), password: password.clone() }))
            }
            // Docker leaves empty entries where a helper has the secret.
            _ => Ok(None),
        }
    }
}

fn is_docker_hub(registry: &str) -> bool {
    matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Whether a key of a file, which may be a URL, names the registry.
fn same_registry(key: &str, registry: &str) -> bool {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = host.trim_end_matches('/');
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    host == registry || (is_docker_hub(host) && is_docker_hub(registry))
}

/// Asks a helper (`docker-credential-NAME get`); `None` where it has nothing for the server.
fn ask(helper: &str, server: &str, path: &Path) -> Result<Option<Credential>, SourceError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err(failed(path, format!("helper {helper:?} is not a name")));
    }
    let program = format!("docker-credential-{helper}");
    let broken =
        |why: String| SourceError::Remote { what: "ask credential helper", on: program.clone(), why };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| broken(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read ends with an answer or an exit status of its own.
        let _ = stdin.write_all(server.as_bytes());
    }
    let mut answer = Vec::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(MAX_BYTES).read_to_end(&mut answer),
        None => Ok(0),
    };
    let status = child.wait().map_err(|error| broken(error.to_string()))?;
    read.map_err(|error| broken(error.to_string()))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&answer);
        // The one text that the protocol fixes.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(broken(format!("{status}")));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&answer).map_err(|_| broken("its answer is not a credential".into()))?;
    // What some helpers say instead of that they have nothing.
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    if answer.username == "<token>" {
        return Ok(Some(Credential::IdentityToken(answer.secret)));
    }
    Ok(Some(Credential::Basic { user: answer.username, password: answer.secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Credential {
        Credential::Basic { user: user.into(), password: password.into() }
    }

    /// What is found in a file of the given text.
    fn found(text: &str, registry: &str, repository: &str) -> Result<Credential, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let files = [dir.path().join("missing.json"), path];
        find(&files, registry, repository).map_err(|error| error.to_string())
    }

    fn check(text: &str, registry: &str, repository: &str, expected: Credential) {
        let found = found(text, registry, repository);
        assert!(found == Ok(expected), "{registry}/{repository} in {text}: {:?}", found.err());
    }

    fn entry(key: &str, auth: &str) -> String {
        format!(r#""{key}":{{"auth":"{}"}}"#, STANDARD.encode(auth))
    }

    #[test]
    fn the_longest_key_wins() {
        let text = format!(
            r#"{{"auths":{{{},{},{}}}}}"#,
            entry("r.example/a/b", "u3:three"),
            entry("r.example/a", "u2:two"),
            entry("r.example", "u1:o:ne")
        );
        check(&text, "r.example", "a/b", basic("u3", "three"));
        check(&text, "r.example", "a/b/c", basic("u3", "three"));
        check(&text, "r.example", "a/bb", basic("u2", "two"));
        check(&text, "r.example", "x", basic("u1", "o:ne"));
        check(&text, "s.example", "a/b", Credential::Anonymous);
    }

    #[test]
    fn keys_may_be_urls_and_docker_hub_has_many_names() {
        for key in [DOCKER_HUB, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"] {
            let text = format!(r#"{{"auths":{{{}}}}}"#, entry(key, "u:p"));
            check(&text, "docker.io", "library/nginx", basic("u", "p"));
            check(&text, "r.example", "library/nginx", Credential::Anonymous);
        }
        let text = format!(r#"{{"auths":{{{}}}}}"#, entry("https://r.example:5000/", "u:p"));
        check(&text, "r.example:5000", "a", basic("u", "p"));
        check(r#"{"auths":{"r":{"username":"u","password":"p"}}}"#, "r", "a", basic("u", "p"));
        check(r#"{"auths":{"r":{}}}"#, "r", "a", Credential::Anonymous);
        check("", "r", "a", Credential::Anonymous);
        let token = Credential::IdentityToken("t".into());
        check(r#"{"auths":{"r":{"auth":"dTo=","identitytoken":"t"}}}"#, "r", "a", token);
        check(r#"{"auths":{"r":{"auth":"dTpwAAA="}}}"#, "r", "a", basic("u", "p"));
    }

    #[test]
    fn an_empty_name_is_no_helper() {
        let text =
            r#"{"auths":{"r":{"auth":"dTpw"}},"credHelpers":{"r":""},"credsStore":"nonexistent-helper"}"#;
        check(text, "r", "a", basic("u", "p"));
        let text = r#"{"credHelpers":{"r":""},"credsStore":"nonexistent-helper"}"#;
        check(text, "r", "a", Credential::Anonymous);
        check(r#"{"credsStore":""}"#, "r", "a", Credential::Anonymous);
    }

    #[test]
    fn what_cannot_be_used_is_an_error() {
        let cases = [
            ("{", "EOF"),
            (r#"{"auths":{"r":{"auth":"!"}}}"#, "not name:password"),
            (r#"{"auths":{"r":{"auth":"dQ=="}}}"#, "not name:password"),
            (r#"{"credsStore":"../evil"}"#, "is not a name"),
            (r#"{"credHelpers":{"r":"nonexistent-helper"}}"#, "ask credential helper: docker-credential-non"),
        ];
        for (text, why) in cases {
            let error = found(text, "r", "a").err().unwrap();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
