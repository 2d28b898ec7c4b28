//! Blobs into the registry.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dimg::Digest;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, StatusCode};

use super::failed::Failed;
use super::request::Endpoint;
use super::{Inner, OnBytes, Repository};
use crate::error::SourceError;

const WHAT: &str = "upload blob";
/// Bytes read and sent at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A blob to upload.
struct Upload {
    digest: Digest,
    size: u64,
    bytes: Arc<Bytes>,
    on_bytes: Option<OnBytes>,
}

/// Where its bytes are.
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

impl Repository {
    /// Uploads `file`, whose digest is `digest`; false when the repository has that blob already.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn put_blob(
        &self,
        file: File,
        digest: Digest,
        on_bytes: Option<OnBytes>,
    ) -> Result<bool, SourceError> {
        let size = file.metadata().map_err(SourceError::io("read file", std::path::Path::new("blob")))?.len();
        self.put(Upload { digest, size, bytes: Arc::new(Bytes::File(file)), on_bytes })
    }

    /// As [`Repository::put_blob`], of a few bytes.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<bool, SourceError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        self.put(Upload { digest, size, bytes: Arc::new(Bytes::Memory(bytes.to_vec())), on_bytes: None })
    }

    fn put(&self, upload: Upload) -> Result<bool, SourceError> {
        let inner = Arc::clone(&self.inner);
        self.wait(async move {
            inner.upload(&upload).await.map_err(|failed| match failed.told(WHAT, &inner.name) {
                SourceError::NotFound { what, on, .. } => {
                    SourceError::NotFound { what, on, why: "the registry has no such repository".into() }
                }
                error => error,
            })
        })?
    }
}

impl Inner {
    async fn upload(&self, upload: &Upload) -> Result<bool, Failed> {
        let mut attempts = self.pushes()?;
        loop {
            match self.upload_once(attempts.endpoint(), upload).await {
                Ok(new) => return Ok(new),
                Err(failed) => attempts.after(failed).await?,
            }
        }
    }

    async fn upload_once(&self, endpoint: &Endpoint, upload: &Upload) -> Result<bool, Failed> {
        let url = endpoint.url(&format!("{}/blobs/{}", self.path, upload.digest))?;
        let answer = endpoint.send(&url, |client, url| client.head(url)).await?;
        match answer.status() {
            StatusCode::OK => return Ok(false),
            StatusCode::NOT_FOUND => {}
            _ => return Err(Failed::of_answer(answer).await),
        }
        let url = endpoint.url(&format!("{}/blobs/uploads/", self.path))?;
        let answer = endpoint.send(&url, |client, url| client.post(url).header(CONTENT_LENGTH, 0)).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(Failed::of_answer(answer).await);
        }
        let mut url = Endpoint::location(answer.url(), answer.headers())?;
        url.query_pairs_mut().append_pair("digest", &upload.digest.to_string());
        let answer = endpoint
            .send(&url, |client, url| {
                let body = Body::wrap_stream(tokio_stream::iter(upload.chunks()));
                client
                    .put(url)
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, upload.size)
                    .body(body)
            })
            .await?;
        if answer.status() != StatusCode::CREATED {
            return Err(Failed::of_answer(answer).await);
        }
        Ok(true)
    }
}

impl Upload {
    /// The body, read as it is sent. Reads come from the page cache mostly, and so may be done on the runtime's own threads.
    fn chunks(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> + Send + 'static {
        let (bytes, on_bytes, size) = (Arc::clone(&self.bytes), self.on_bytes.clone(), self.size);
        let mut at = 0;
        std::iter::from_fn(move || {
            let left = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            if left == 0 {
                return None;
            }
            let mut chunk = vec![0; left];
            let read = match &*bytes {
                Bytes::File(file) => file.read_exact_at(&mut chunk, at),
                Bytes::Memory(memory) => {
                    let start = usize::try_from(at).unwrap_or(usize::MAX);
                    memory
                        .get(start..start.saturating_add(left))
                        .map(|part| chunk.copy_from_slice(part))
                        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
                }
            };
            at += left as u64;
            if let Some(on_bytes) = &on_bytes {
                on_bytes(left as u64);
            }
            Some(read.map(|()| chunk))
        })
    }
}
