//! Referrers: the artifacts whose subject is a manifest, by the referrers API, else by the tag fallback of the distribution specification
//! (an index at the tag `sha256-<hex>`).
//!
//! The fallback's index is read, changed and written whole, because the protocol has nothing better: entries that are there are kept as
//! they are, unknown fields included, and after writing it is read again, and written again where another writer was faster.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dimg::Digest;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, LINK};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed::Failed;
use super::manifests::write_failed;
use super::memory::Lists;
use super::request::{Attempts, Endpoint, random_fraction, read_limited};
use super::{Inner, Repository};
use crate::error::SourceError;
use crate::manifest::{MAX_MANIFEST_BYTES, media};

const LIST: &str = "list referrers";
/// Pages of a list that are read.
const MAX_PAGES: usize = 32;
/// How often the fallback's index is written, because another writer was faster.
const MAX_WRITES: u64 = 12;
/// What reading and writing it takes, generously.
const SETTLE: Duration = Duration::from_millis(250);

/// An artifact whose subject is a manifest, as the registry's list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Digest of the artifact's manifest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// What the list calls its type; registries differ in how well they fill it.
    pub artifact_type: Option<String>,
    /// Its annotations, where the list has them.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Entry {
    /// None for digests other than SHA-256, which lead to nothing that is ours.
    fn referrer(self) -> Option<Referrer> {
        Some(Referrer {
            digest: self.digest.parse().ok()?,
            size: self.size,
            artifact_type: self.artifact_type,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

impl Repository {
    /// The artifacts whose subject is the manifest `subject`, of `artifact_type` where the registry can tell.
    ///
    /// # Errors
    /// The registry does not answer, or with no list.
    pub fn referrers(&self, subject: Digest, artifact_type: &str) -> Result<Vec<Referrer>, SourceError> {
        let (inner, artifact_type) = (Arc::clone(&self.inner), artifact_type.to_owned());
        self.wait(async move {
            inner.list(subject, &artifact_type).await.map_err(|failed| failed.told(LIST, &inner.name))
        })?
    }

    /// Writes the artifact manifest `bytes`, whose subject is `subject`, so that [`Repository::referrers`] finds it; `entry` is what a list
    /// says of it beside media type, digest and size.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn put_referrer(
        &self,
        subject: Digest,
        bytes: &[u8],
        artifact_type: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Digest, SourceError> {
        let digest = Digest::of(bytes);
        let entry = json!({
            "mediaType": media::OCI_MANIFEST,
            "digest": digest.to_string(),
            "size": bytes.len(),
            "artifactType": artifact_type,
            "annotations": annotations,
        });
        let (inner, bytes) = (Arc::clone(&self.inner), bytes.to_vec());
        let artifact_type = artifact_type.to_owned();
        self.wait(async move {
            let put = async {
                let target = digest.to_string();
                if inner.put_manifest(&target, media::OCI_MANIFEST, &bytes).await? {
                    return Ok(());
                }
                // Some registries keep the list without saying so.
                match inner.listed(inner.pushes()?, subject, &artifact_type).await? {
                    Some(_) => Ok(()),
                    None => inner.add_to_tag(subject, &entry).await,
                }
            };
            put.await.map_err(|failed: Failed| write_failed(failed, &inner.name))
        })??;
        Ok(digest)
    }
}

impl Inner {
    /// The list, from where the registry is known to keep lists, else from both places, which are asked at once.
    async fn list(&self, subject: Digest, artifact_type: &str) -> Result<Vec<Referrer>, Failed> {
        // Of several hosts each may keep them elsewhere.
        let remembers = self.endpoints.len() == 1;
        let known = self.memory.known().lists.filter(|_| remembers);
        if known == Some(Lists::Tag)
            && let Some(list) = self.tagged_list(subject).await?
        {
            return Ok(list);
        }
        let api = async { self.listed(self.resolves()?, subject, artifact_type).await };
        let (by_api, by_tag) = match known {
            Some(Lists::Api) => (api.await?, None),
            // Not there.
            Some(Lists::Tag) => (api.await?, Some(None)),
            None => {
                let (mut api, mut tag) = (pin!(api), pin!(self.tagged_list(subject)));
                let mut by_tag = None;
                let by_api = loop {
                    tokio::select! {
                        list = &mut api => break list?,
                        list = &mut tag, if by_tag.is_none() => by_tag = Some(list),
                    }
                };
                match (by_api, by_tag) {
                    (Some(list), _) => (Some(list), None),
                    (None, Some(list)) => (None, Some(list?)),
                    (None, None) => (None, Some(tag.await?)),
                }
            }
        };
        let found = match by_api {
            Some(list) => {
                self.memory.learn(|known| known.lists = remembers.then_some(Lists::Api));
                return Ok(list);
            }
            None => match by_tag {
                Some(found) => found,
                None => self.tagged_list(subject).await?,
            },
        };
        self.memory.learn(|known| known.lists = remembers.then_some(Lists::Tag));
        Ok(found.unwrap_or_default())
    }

    /// The list of the referrers API; `None` where the registry does not have it. What a mirror does not have is asked of the next host:
    /// mirrors know what was pulled through them, few of them lists.
    async fn listed(
        &self,
        mut attempts: Attempts<'_>,
        subject: Digest,
        artifact_type: &str,
    ) -> Result<Option<Vec<Referrer>>, Failed> {
        loop {
            match self.all_pages(attempts.endpoint(), subject, artifact_type).await {
                Ok(list) if list.as_ref().is_none_or(Vec::is_empty) && attempts.next_host() => {}
                Ok(list) => return Ok(list),
                Err(failed) => attempts.after(failed).await?,
            }
        }
    }

    async fn all_pages(
        &self,
        endpoint: &Endpoint,
        subject: Digest,
        artifact_type: &str,
    ) -> Result<Option<Vec<Referrer>>, Failed> {
        let mut found = Vec::new();
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(endpoint, subject, artifact_type, next.as_ref()).await?;
            let Some((list, more)) = page else { return Ok(None) };
            found.extend(list);
            if more.is_none() {
                break;
            }
            next = more;
        }
        Ok(Some(found))
    }

    /// One page, and where the next one is.
    async fn page(
        &self,
        endpoint: &Endpoint,
        subject: Digest,
        artifact_type: &str,
        at: Option<&reqwest::Url>,
    ) -> Result<Option<(Vec<Referrer>, Option<reqwest::Url>)>, Failed> {
        let url = match at {
            Some(url) => url.clone(),
            None => {
                let mut url = endpoint.url(&format!("{}/referrers/{subject}", self.path))?;
                url.query_pairs_mut().append_pair("artifactType", artifact_type);
                url
            }
        };
        let answer =
            endpoint.send(&url, |client, url| client.get(url).header(ACCEPT, media::OCI_INDEX)).await?;
        match answer.status() {
            StatusCode::OK => {}
            // Registries from before the API: no such path, or no such method.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST => {
                return Ok(None);
            }
            _ => return Err(Failed::of_answer(answer).await),
        }
        let more = next_page(&answer);
        let bytes = read_limited(answer, MAX_MANIFEST_BYTES, LIST).await?;
        endpoint.meter.add(bytes.len());
        // A page for people at an unknown path is no list.
        let Ok(list) = serde_json::from_slice::<List>(&bytes) else { return Ok(None) };
        let Some(entries) =
            list.manifests.or_else(|| (list.media_type.as_deref() == Some(media::OCI_INDEX)).then(Vec::new))
        else {
            return Ok(None);
        };
        Ok(Some((entries.into_iter().filter_map(Entry::referrer).collect(), more)))
    }

    /// The list at the fallback's tag, where there is one.
    async fn tagged_list(&self, subject: Digest) -> Result<Option<Vec<Referrer>>, Failed> {
        let bytes = match self.manifest(&tag(subject)).await {
            Ok(found) => found.bytes,
            Err(failed) if failed.is_missing() => return Ok(None),
            Err(failed) => return Err(failed),
        };
        let list: List = serde_json::from_slice(&bytes)
            .map_err(|error| Failed::Local(self.no_list(subject, &error.to_string())))?;
        Ok(Some(list.manifests.unwrap_or_default().into_iter().filter_map(Entry::referrer).collect()))
    }

    fn no_list(&self, subject: Digest, why: &str) -> SourceError {
        SourceError::corrupt(LIST, format!("{} tag {}", self.name, tag(subject)), why)
    }

    /// Adds `entry` to the index at the fallback's tag.
    async fn add_to_tag(&self, subject: Digest, entry: &Value) -> Result<(), Failed> {
        let tag = tag(subject);
        for write in 0..MAX_WRITES {
            // Not from a mirror, which may have an old one.
            let index = match self.manifest_of(self.pushes()?, &tag).await {
                Ok(found) => serde_json::from_slice(&found.bytes)
                    .map_err(|error| Failed::Local(self.no_list(subject, &error.to_string())))?,
                Err(failed) if failed.is_missing() => Value::Null,
                Err(failed) => return Err(failed),
            };
            let Some(index) = added(index, entry).map_err(|why| Failed::Local(self.no_list(subject, why)))?
            else {
                return Ok(());
            };
            let bytes = serde_json::to_vec(&index)
                .map_err(|error| Failed::Local(self.no_list(subject, &error.to_string())))?;
            self.put_manifest(&tag, media::OCI_INDEX, &bytes).await?;
            // Whoever read it before this write has written by then; writers that met once come back at different times.
            let pause = SETTLE * u32::try_from(write + 1).unwrap_or(u32::MAX);
            tokio::time::sleep(SETTLE + pause.mul_f64(random_fraction())).await;
        }
        let why = "others write to it all the time";
        Err(Failed::Local(self.no_list(subject, why)))
    }
}

/// The fallback's tag.
fn tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Whether a tag is one of those that stand for what refers to an image: `sha256-<hex>`, and cosign's, `sha256-<hex>.sig`.
#[must_use]
pub fn is_of_artifact(tag: &str) -> bool {
    tag.strip_prefix("sha256-").is_some_and(|rest| {
        let hex = rest.split('.').next().unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// `index`, or a new one, with `entry`; `None` where it has it.
fn added(mut index: Value, entry: &Value) -> Result<Option<Value>, &'static str> {
    if index.is_null() {
        index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []});
    }
    let Some(document) = index.as_object_mut() else { return Err("is no index") };
    if document.contains_key("config") || document.contains_key("layers") {
        return Err("is an image, not an index");
    }
    let manifests = document.entry("manifests").or_insert_with(|| json!([]));
    if manifests.is_null() {
        *manifests = json!([]);
    }
    let Some(manifests) = manifests.as_array_mut() else { return Err("its manifests are no list") };
    if manifests.iter().any(|one| one["digest"] == entry["digest"]) {
        return Ok(None);
    }
    manifests.push(entry.clone());
    Ok(Some(index))
}

/// Where the next page is (`Link: <…>; rel="next"`), on the same host.
pub(super) fn next_page(answer: &reqwest::Response) -> Option<reqwest::Url> {
    let link = answer.headers().get(LINK)?.to_str().ok()?;
    let (target, rest) = link.trim_start().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") && !rest.contains("rel=next") {
        return None;
    }
    let url = answer.url().join(target).ok()?;
    (url.host_str() == answer.url().host_str()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_artifacts_are_no_images() {
        let hex = "0a".repeat(32);
        assert!(is_of_artifact(&format!("sha256-{hex}")) && is_of_artifact(&format!("sha256-{hex}.sig")));
        assert!(!is_of_artifact("sha256-of-it") && !is_of_artifact(&hex));
    }

    #[test]
    fn entries_of_others_stay_as_they_are() {
        let entry = json!({"digest": "sha256:b"});
        let new = added(Value::Null, &entry).unwrap().unwrap();
        assert_eq!(new["manifests"], json!([{"digest": "sha256:b"}]));
        assert_eq!(added(new, &entry).unwrap(), None);
        let others =
            json!({"schemaVersion": 2, "x": 1, "manifests": [{"digest": "sha256:a", "y": {"z": 1}}]});
        let both = added(others, &entry).unwrap().unwrap();
        assert_eq!(both["x"], 1);
        assert_eq!(both["manifests"], json!([{"digest": "sha256:a", "y": {"z": 1}}, {"digest": "sha256:b"}]));
        assert!(added(json!([]), &entry).is_err());
        assert!(added(json!({"config": {}, "layers": []}), &entry).is_err());
        assert!(added(json!({"manifests": null}), &entry).unwrap().is_some());
    }
}
