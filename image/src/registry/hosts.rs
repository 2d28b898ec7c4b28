//! Where a registry is reached: mirrors, certificates and headers as containerd and docker have them.
//!
//! Below each of the given directories (`/etc/containerd/certs.d`, `/etc/docker/certs.d`) a registry has a directory of its own:
//! `host_port_`, `host:port`, else `_default`. The first of these that is there counts, as containerd has it
//! (`core/remotes/docker/config/hosts.go`), an empty one too: then the registry itself is asked. In it is a `hosts.toml` in the words of
//! containerd's `docs/hosts.md`; without one, or where that is empty, the files are docker's: `*.crt` are authorities to trust, `*.cert` with
//! `*.key` of the same name what the client shows.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::address;
use crate::error::SourceError;

const WHAT: &str = "read registry hosts";
/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// One place that answers for a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// `scheme://host[:port][/path]`; none for the registry itself, in the scheme that it speaks.
    pub(super) url: Option<String>,
    /// Whether the path stands as it is, without `/v2`.
    pub(super) override_path: bool,
    /// Whether tags may be resolved here.
    pub(super) resolves: bool,
    /// Whether manifests and blobs may be fetched here.
    pub(super) pulls: bool,
    /// Whether it may be written to.
    pub(super) pushes: bool,
    /// Whether any certificate will do.
    pub(super) skip_verify: bool,
    /// Files with authorities to trust besides the system's.
    pub(super) authorities: Vec<PathBuf>,
    /// Files with the client's certificate and key; one file may have both.
    pub(super) identity: Option<(PathBuf, Option<PathBuf>)>,
    /// Sent with every request.
    pub(super) headers: Vec<(String, String)>,
}

impl Host {
    /// The registry itself, by the system's certificates.
    pub(super) fn plain() -> Self {
        Self { resolves: true, pulls: true, pushes: true, ..Self::default() }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    More(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: Ordered<Entry>,
    #[serde(flatten)]
    own: Entry,
}

// Not refused: keys that newer versions of containerd may know.
#[derive(Deserialize, Default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: Option<Ordered<OneOrMore>>,
}

/// A table in the order of the file.
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

/// The hosts to ask for `registry`, in order; the registry itself is the last, if it is not among the others.
///
/// # Errors
/// A file cannot be read or understood.
pub(super) fn find(dirs: &[PathBuf], registry: &str) -> Result<Vec<Host>, SourceError> {
    for dir in dirs {
        for name in names(registry) {
            let dir = dir.join(name);
            match fs::metadata(&dir) {
                Ok(meta) if meta.is_dir() => return Ok(joined(in_dir(&dir)?, registry)),
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(SourceError::io(WHAT, &dir)(error)),
            }
        }
    }
    Ok(vec![Host::plain()])
}

/// A host that is the server, too, is asked once: with the certificates that either names, for what either may do.
fn joined(mut hosts: Vec<Host>, registry: &str) -> Vec<Host> {
    let place = |host: &Host| {
        let url = host.url.clone().unwrap_or_else(|| format!("https://{}", address(registry)));
        let url = url.trim_end_matches('/');
        url.strip_suffix("/v2").unwrap_or(url).to_owned()
    };
    let Some(server) = hosts.pop() else { return hosts };
    let is_server =
        |host: &&mut Host| place(host) == place(&server) && host.override_path == server.override_path;
    let Some(host) = hosts.iter_mut().rfind(is_server) else {
        hosts.push(server);
        return hosts;
    };
    host.resolves |= server.resolves;
    host.pulls |= server.pulls;
    host.pushes |= server.pushes;
    host.skip_verify |= server.skip_verify;
    host.authorities.extend(server.authorities);
    host.identity = host.identity.take().or(server.identity);
    host.headers.extend(server.headers);
    hosts
}

fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), "_default".to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        names.insert(0, format!("{host}_{port}_"));
    }
    names
}

fn in_dir(dir: &Path) -> Result<Vec<Host>, SourceError> {
    let path = dir.join("hosts.toml");
    match fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_BYTES => {
            let on = path.display().to_string();
            return Err(SourceError::Limit { what: WHAT, on, limit_bytes: MAX_BYTES });
        }
        Ok(meta) if meta.len() > 0 => {
            let text = fs::read_to_string(&path).map_err(SourceError::io(WHAT, &path))?;
            return parse(&text, dir).map_err(|why| {
                let why = why.lines().next().unwrap_or_default().to_owned();
                SourceError::corrupt(WHAT, path.display().to_string(), why)
            });
        }
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(SourceError::io(WHAT, &path)(error)),
    }
    Ok(vec![docker_host(dir)?])
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The registry itself, with the certificates in `dir`.
fn docker_host(dir: &Path) -> Result<Host, SourceError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(SourceError::io(WHAT, dir))? {
        paths.push(entry.map_err(SourceError::io(WHAT, dir))?.path());
    }
    paths.sort();
    let mut host = Host::plain();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => host.authorities.push(path),
            Some("cert") if host.identity.is_none() => {
                let key = path.with_extension("key");
                host.identity = Some((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(host)
}

fn parse(text: &str, dir: &Path) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut hosts = Vec::new();
    for (url, entry) in file.host.0 {
        hosts.push(entry.host(Some(with_scheme(&url)?), dir)?);
    }
    let server = file.server.map(|url| with_scheme(&url)).transpose()?;
    hosts.push(file.own.host(server, dir)?);
    Ok(hosts)
}

fn with_scheme(url: &str) -> Result<String, String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    match reqwest::Url::parse(&whole) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(whole),
        Ok(_) => Err(format!("host {url:?} is not http or https")),
        Err(error) => Err(format!("host {url:?}: {error}")),
    }
}

impl Entry {
    fn host(self, url: Option<String>, dir: &Path) -> Result<Host, String> {
        // No capabilities given are all of them.
        let can = |name: &str| {
            self.capabilities
                .as_ref()
                .is_none_or(|list| list.is_empty() || list.iter().any(|one| one.eq_ignore_ascii_case(name)))
        };
        let (resolves, pulls, pushes) = (can("resolve"), can("pull"), can("push"));
        let authorities = match self.ca {
            None => Vec::new(),
            Some(OneOrMore::One(path)) => vec![dir.join(path)],
            Some(OneOrMore::More(paths)) => paths.iter().map(|path| dir.join(path)).collect(),
        };
        let pair = |paths: &[String]| match paths {
            [] => Ok(None),
            [both] => Ok(Some((dir.join(both), None))),
            [certificate, key] if key.is_empty() => Ok(Some((dir.join(certificate), None))),
            [certificate, key] => Ok(Some((dir.join(certificate), Some(dir.join(key))))),
            _ => Err("client has more than a certificate and a key".to_owned()),
        };
        let identity = match self.client {
            None => None,
            Some(Clients::One(path)) => pair(&[path])?,
            // A list names files with certificate and key in one; only one is shown.
            Some(Clients::More(paths)) => pair(&paths[..paths.len().min(1)])?,
            Some(Clients::Pairs(pairs)) => pairs.first().map(|paths| pair(paths)).transpose()?.flatten(),
        };
        let mut headers = Vec::new();
        for (name, values) in self.header.unwrap_or_default().0 {
            match values {
                OneOrMore::One(value) => headers.push((name, value)),
                OneOrMore::More(values) => {
                    headers.extend(values.into_iter().map(|value| (name.clone(), value)));
                }
            }
        }
        let (skip_verify, override_path) = (self.skip_verify, self.override_path);
        Ok(Host { url, override_path, resolves, pulls, pushes, skip_verify, authorities, identity, headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn hosts_in_their_order_and_the_registry_last() {
        let text = r#"
            server = "https://up.example"
            ca = "up.crt"
            [host."https://z.example/cache"]
              capabilities = ["Pull", "RESOLVE"]
              ca = ["/a.crt", "b.crt"]
              client = [["c.cert", "c.key"]]
              override_path = true
              [host."https://z.example/cache".header]
                x-a = "1"
                x-b = ["2", "3"]
            [host."http://a.example:5000"]
              capabilities = ["pull"]
              skip_verify = true
              client = "both.pem"
        "#;
        let hosts = parse(text, Path::new("/d")).unwrap();
        let urls: Vec<_> = hosts.iter().map(|host| host.url.as_deref().unwrap()).collect();
        assert_eq!(urls, ["https://z.example/cache", "http://a.example:5000", "https://up.example"]);
        let first = &hosts[0];
        assert!(first.override_path && first.resolves && first.pulls && !first.pushes);
        assert_eq!(first.authorities, [PathBuf::from("/a.crt"), PathBuf::from("/d/b.crt")]);
        assert_eq!(first.identity, Some(("/d/c.cert".into(), Some("/d/c.key".into()))));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(first.headers, [header("x-a", "1"), header("x-b", "2"), header("x-b", "3")]);
        assert!(hosts[1].skip_verify && hosts[1].pulls && !hosts[1].resolves);
        assert_eq!(hosts[1].identity, Some(("/d/both.pem".into(), None)));
        assert_eq!(hosts[2].authorities, [PathBuf::from("/d/up.crt")]);
        assert!(hosts[2].pushes);
    }

    #[test]
    fn a_host_that_is_the_server_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let own = r#"
            [host."https://r.example:5443"]
              capabilities = ["pull", "resolve"]
              ca = "ca.crt"
        "#;
        for server in ["", "server = \"https://r.example:5443/v2\"", "server = \"r.example:5443\""] {
            write(dir.path(), "r.example:5443/hosts.toml", &format!("{server}{own}"));
            let hosts = find(&[dir.path().into()], "r.example:5443").unwrap();
            let [host] = &hosts[..] else { panic!("{hosts:?}") };
            assert_eq!(host.authorities, [dir.path().join("r.example:5443/ca.crt")]);
            assert!(host.pushes && host.pulls && host.resolves);
        }
        write(dir.path(), "other.example/hosts.toml", own);
        assert_eq!(find(&[dir.path().into()], "other.example").unwrap().len(), 2);
    }

    #[test]
    fn the_first_directory_that_is_there_counts() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("missing"), dir.path().join("c"), dir.path().join("d")];
        let found = |registry: &str| find(&dirs, registry).unwrap();
        assert_eq!(found("r.example:5000"), [Host::plain()]);
        write(&dirs[2], "r.example:5000/ca.crt", "");
        write(&dirs[2], "r.example:5000/me.cert", "");
        let docker = found("r.example:5000").remove(0);
        assert_eq!(docker.authorities, [dirs[2].join("r.example:5000/ca.crt")]);
        let base = dirs[2].join("r.example:5000");
        assert_eq!(docker.identity, Some((base.join("me.cert"), Some(base.join("me.key")))));
        write(&dirs[1], "_default/hosts.toml", "[host.\"https://m\"]");
        assert_eq!(found("r.example:5000").len(), 2);
        write(&dirs[1], "r.example_5000_/hosts.toml", "");
        assert_eq!(found("r.example:5000"), [Host::plain()]);
        assert_eq!(found("other.example").len(), 2);
        // Certificates lie beside an empty file, and an empty folder is there.
        write(&dirs[1], "r.example_5000_/ca.crt", "");
        assert_eq!(found("r.example:5000")[0].authorities, [dirs[1].join("r.example_5000_/ca.crt")]);
        fs::create_dir(dirs[1].join("other.example")).unwrap();
        assert_eq!(found("other.example"), [Host::plain()]);
        fs::write(dirs[1].join("file.example"), "").unwrap();
        assert_eq!(found("file.example").len(), 2);
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        for (text, why) in [
            ("server = 1", "invalid type"),
            ("[host.\"ftp://x\"]", "is not http or https"),
            ("[host.\"https://\"]", "empty host"),
            ("client = [[\"a\",\"b\",\"c\"]]", "more than a certificate"),
        ] {
            let error = parse(text, Path::new("/d")).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
