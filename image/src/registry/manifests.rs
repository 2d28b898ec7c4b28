//! Manifests and indexes: fetched and written as bytes.

use std::sync::Arc;

use dimg::Digest;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;

use super::failed::{Failed, one_line};
use super::referrers::{is_of_artifact, next_page};
use super::request::{Attempts, Endpoint, read_limited};
use super::{Inner, Repository};
use crate::error::SourceError;
use crate::manifest::{MAX_MANIFEST_BYTES, media};

const FETCH: &str = "fetch manifest";
const WRITE: &str = "write manifest";
/// Tags that an error lists.
const MAX_TAGS: usize = 50;
/// Largest list of tags, or page of one, that is read.
const MAX_TAGS_BYTES: u64 = 1 << 20;
const LIST: &str = "list tags";
/// Tags that are asked for at once.
const PAGE_TAGS: usize = 1000;
/// Pages of them that are read.
const MAX_TAG_PAGES: usize = 100;
/// What a registry says of a manifest whose subject it took note of.
const SUBJECT_HEADER: &str = "OCI-Subject";
const DIGEST_HEADER: &str = "Docker-Content-Digest";

/// A manifest or index as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The media type that the registry gives; the document's own may be another.
    pub media_type: String,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    /// The manifest or index with the tag `tag`.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where there is none; the message lists the tags that there are.
    pub fn tagged(&self, tag: &str) -> Result<Found, SourceError> {
        let (inner, tag) = (Arc::clone(&self.inner), tag.to_owned());
        self.wait(async move {
            match inner.manifest(&tag).await {
                Ok(found) => Ok(found),
                Err(failed) => {
                    let missing = failed.is_missing();
                    match failed.told(FETCH, &inner.name) {
                        SourceError::NotFound { what, on, why } if missing => {
                            let why = why + &inner.some_tags().await;
                            Err(SourceError::NotFound { what, on, why })
                        }
                        error => Err(error),
                    }
                }
            }
        })?
    }

    /// The manifest or index with the digest `digest`, which is verified.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where there is none.
    pub fn manifest(&self, digest: Digest) -> Result<Found, SourceError> {
        let inner = Arc::clone(&self.inner);
        self.wait(async move {
            inner.manifest(&digest.to_string()).await.map_err(|failed| failed.told(FETCH, &inner.name))
        })?
    }

    /// The tags of the repository, sorted; all pages.
    ///
    /// # Errors
    /// The registry does not tell, or has more than a hundred thousand.
    pub fn tags(&self) -> Result<Vec<String>, SourceError> {
        let inner = Arc::clone(&self.inner);
        self.wait(
            async move { inner.all_tags().await.map_err(|failed: Failed| failed.told(LIST, &inner.name)) },
        )?
    }

    /// Whether the repository has a manifest with this digest.
    ///
    /// # Errors
    /// The registry does not say.
    pub fn has_manifest(&self, digest: Digest) -> Result<bool, SourceError> {
        let inner = Arc::clone(&self.inner);
        self.wait(async move {
            inner.has_manifest(digest).await.map_err(|failed| failed.told(FETCH, &inner.name))
        })?
    }
}

impl Inner {
    /// The manifest or index at a tag or a digest; bytes of another digest than the one asked for are refused.
    pub(super) async fn manifest(&self, target: &str) -> Result<Found, Failed> {
        let is_digest = target.parse::<Digest>().is_ok();
        let attempts = if is_digest { self.pulls()? } else { self.resolves()? };
        self.manifest_of(attempts, target).await
    }

    /// The same from these hosts.
    pub(super) async fn manifest_of(
        &self,
        mut attempts: Attempts<'_>,
        target: &str,
    ) -> Result<Found, Failed> {
        let wanted = target.parse::<Digest>().ok();
        loop {
            match self.manifest_once(attempts.endpoint(), target, wanted).await {
                Ok(found) => return Ok(found),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn manifest_once(
        &self,
        endpoint: &Endpoint,
        target: &str,
        wanted: Option<Digest>,
    ) -> Result<Found, Failed> {
        let url = endpoint.url(&format!("{}/manifests/{target}", self.path))?;
        let accepted = media::ACCEPTED.join(", ");
        let answer =
            endpoint.send(&url, |client, url| client.get(url).header(ACCEPT, accepted.as_str())).await?;
        if answer.status() != StatusCode::OK {
            return Err(Failed::of_answer(answer).await);
        }
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type = text("content-type").unwrap_or_default().to_owned();
        let told = text(DIGEST_HEADER).and_then(|digest| digest.parse::<Digest>().ok());
        let bytes = read_limited(answer, MAX_MANIFEST_BYTES, FETCH).await?;
        endpoint.meter.add(bytes.len());
        let digest = Digest::of(&bytes);
        if let Some(expected) = wanted.or(told)
            && expected != digest
        {
            let on = format!("{} manifest {target}", self.name);
            let error = SourceError::Digest { what: "verify manifest", on, expected, actual: digest };
            return Err(Failed::Wrong(error));
        }
        Ok(Found { bytes, digest, media_type })
    }

    pub(super) async fn has_manifest(&self, digest: Digest) -> Result<bool, Failed> {
        let mut attempts = self.pulls()?;
        loop {
            let endpoint = attempts.endpoint();
            let url = endpoint.url(&format!("{}/manifests/{digest}", self.path))?;
            let accepted = media::ACCEPTED.join(", ");
            let answer =
                endpoint.send(&url, |client, url| client.head(url).header(ACCEPT, accepted.as_str())).await;
            let failed = match answer {
                Ok(answer) if answer.status() == StatusCode::OK => return Ok(true),
                Ok(answer) => Failed::of_answer(answer).await,
                Err(failed) => failed,
            };
            let missing = failed.is_missing();
            match attempts.after(failed).await {
                Err(_) if missing => return Ok(false),
                other => other?,
            }
        }
    }

    /// Writes a manifest at a tag or a digest; whether the registry says that it took note of its subject.
    pub(super) async fn put_manifest(
        &self,
        target: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, Failed> {
        let mut attempts = self.pushes()?;
        loop {
            let endpoint = attempts.endpoint();
            let url = endpoint.url(&format!("{}/manifests/{target}", self.path))?;
            let answer = endpoint
                .send(&url, |client, url| {
                    client.put(url).header(CONTENT_TYPE, media_type).body(bytes.to_vec())
                })
                .await;
            let failed = match answer {
                Ok(answer) if answer.status().is_success() => {
                    return Ok(answer.headers().contains_key(SUBJECT_HEADER));
                }
                Ok(answer) => Failed::of_answer(answer).await,
                Err(failed) => failed,
            };
            attempts.after(failed).await?;
        }
    }

    async fn all_tags(&self) -> Result<Vec<String>, Failed> {
        // Not of a mirror, which knows what was pulled through it.
        let mut attempts = self.pushes()?;
        let mut tags = Vec::new();
        let mut next = None;
        for _ in 0..MAX_TAG_PAGES {
            let page = loop {
                match self.page_of_tags(attempts.endpoint(), PAGE_TAGS, next.as_ref()).await {
                    Ok(page) => break page,
                    Err(failed) => attempts.after(failed).await?,
                }
            };
            tags.extend(page.0);
            next = page.1;
            if next.is_none() {
                tags.sort_unstable();
                tags.dedup();
                return Ok(tags);
            }
        }
        let why = format!("more than {} tags", MAX_TAG_PAGES * PAGE_TAGS);
        Err(Failed::Local(SourceError::Remote { what: LIST, on: self.name.clone(), why }))
    }

    /// Some of the tags, and where the next ones are.
    async fn page_of_tags(
        &self,
        endpoint: &Endpoint,
        count: usize,
        at: Option<&reqwest::Url>,
    ) -> Result<(Vec<String>, Option<reqwest::Url>), Failed> {
        let url = match at {
            Some(url) => url.clone(),
            None => {
                let mut url = endpoint.url(&format!("{}/tags/list", self.path))?;
                url.query_pairs_mut().append_pair("n", &count.to_string());
                url
            }
        };
        let answer = endpoint.send(&url, |client, url| client.get(url)).await?;
        if answer.status() != StatusCode::OK {
            return Err(Failed::of_answer(answer).await);
        }
        let more = next_page(&answer);
        let bytes = read_limited(answer, MAX_TAGS_BYTES, LIST).await?;
        let list = serde_json::from_slice::<Tags>(&bytes).map_err(|error| {
            Failed::Local(SourceError::corrupt(LIST, self.name.clone(), one_line(&error.to_string())))
        })?;
        Ok((list.tags.unwrap_or_default(), more))
    }

    /// The tags of the repository, for a message; empty where the registry does not tell.
    async fn some_tags(&self) -> String {
        let list = async {
            let endpoint = self.resolves()?.endpoint();
            Ok::<_, Failed>(self.page_of_tags(endpoint, MAX_TAGS, None).await?.0)
        };
        let mut tags = list.await.unwrap_or_default();
        tags.retain(|tag| !is_of_artifact(tag));
        if tags.is_empty() {
            return String::new();
        }
        tags.sort();
        tags.truncate(MAX_TAGS);
        format!("; tags present: {}", one_line(&tags.join(", ")))
    }
}

/// What failed writing manifests.
pub(super) fn write_failed(failed: Failed, name: &str) -> SourceError {
    match failed.told(WRITE, name) {
        SourceError::NotFound { what, on, .. } => {
            SourceError::NotFound { what, on, why: "the registry has no such repository".into() }
        }
        error => error,
    }
}
