//! Blobs: by ranges, several at once, each going on where it broke off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::task::JoinSet;

use super::failed::Failed;
use super::{Inner, OnBytes, Repository};
use crate::error::SourceError;
use crate::manifest::Descriptor;

const WHAT: &str = "fetch blob";
/// Bytes asked for at once; what is not longer is asked for whole.
const PIECE_BYTES: u64 = 8 << 20;
/// Pieces fetched at the same time.
const WORKERS: u64 = 4;

impl Repository {
    /// Downloads the blob that `descriptor` names into `file`, which is empty. It has the descriptor's size then; the digest is for whoever
    /// reads the file to verify.
    ///
    /// # Errors
    /// [`SourceError::Corrupt`] where the registry does not have it, though a manifest names it.
    pub fn fetch_blob(
        &self,
        descriptor: &Descriptor,
        file: File,
        on_bytes: Option<OnBytes>,
    ) -> Result<File, SourceError> {
        let inner = Arc::clone(&self.inner);
        let on = self.blob_name(descriptor);
        let blob = Arc::new(Blob {
            path: format!("{}/blobs/{}", inner.path, descriptor.digest),
            size: descriptor.size,
            name: on.clone(),
            on_bytes,
            inner,
            file,
            next: AtomicU64::new(0),
        });
        let shared = Arc::clone(&blob);
        let fetched = self.wait(async move { fetch(&shared).await })?;
        let name = self.name();
        match fetched {
            Err(failed) if failed.is_missing() => {
                Err(SourceError::corrupt(WHAT, on, "missing from the registry"))
            }
            Err(failed) => Err(failed.told(WHAT, name)),
            Ok(()) => {
                let taken = Arc::into_inner(blob).map(|blob| blob.file);
                taken.ok_or_else(|| SourceError::corrupt(WHAT, on, "still being written"))
            }
        }
    }

    /// A blob's name in errors.
    pub fn blob_name(&self, descriptor: &Descriptor) -> String {
        format!("{} blob {}", self.name(), descriptor.digest)
    }
}

/// A blob on its way into a file.
struct Blob {
    inner: Arc<Inner>,
    path: String,
    size: u64,
    name: String,
    file: File,
    on_bytes: Option<OnBytes>,
    /// Where the next piece begins.
    next: AtomicU64,
}

/// Why a piece is not there.
enum Broken {
    Failed(Failed),
    /// The registry gives blobs whole only.
    NoRanges,
}

async fn fetch(blob: &Arc<Blob>) -> Result<(), Failed> {
    if blob.size > PIECE_BYTES {
        match fetch_pieces(blob).await {
            Ok(()) => return Ok(()),
            Err(Broken::Failed(failed)) => return Err(failed),
            Err(Broken::NoRanges) => {}
        }
    }
    match blob.piece(0, blob.size).await {
        Ok(()) => Ok(()),
        Err(Broken::Failed(failed)) => Err(failed),
        Err(Broken::NoRanges) => Err(Failed::Refused("the registry's answers do not fit together".into())),
    }
}

async fn fetch_pieces(blob: &Arc<Blob>) -> Result<(), Broken> {
    // Shows whether there are ranges, before several are asked for.
    blob.piece(0, PIECE_BYTES).await?;
    blob.next.store(PIECE_BYTES, Ordering::Relaxed);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS.min((blob.size - 1) / PIECE_BYTES) {
        let blob = Arc::clone(blob);
        workers.spawn(async move {
            loop {
                let start = blob.next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
                if start >= blob.size {
                    return Ok(());
                }
                blob.piece(start, blob.size.min(start + PIECE_BYTES)).await?;
            }
        });
    }
    // The first failure ends the others: they are aborted with the set, and waited for because they hold the file.
    let mut result = Ok(());
    while let Some(done) = workers.join_next().await {
        let done = done.unwrap_or_else(|error| {
            Err(Broken::Failed(Failed::Refused(format!("a download stopped: {error}"))))
        });
        if done.is_err() && result.is_ok() {
            result = done;
            workers.abort_all();
        }
    }
    result
}

impl Blob {
    /// Fetches the bytes from `start` to `end`.
    async fn piece(&self, start: u64, end: u64) -> Result<(), Broken> {
        let mut at = start;
        let mut attempts = self.inner.pulls().map_err(Broken::Failed)?;
        loop {
            let before = at;
            match self.attempt(attempts.endpoint(), start, end, &mut at).await {
                Ok(()) => return Ok(()),
                Err(Broken::NoRanges) => return Err(Broken::NoRanges),
                Err(Broken::Failed(failed)) => {
                    if at > before {
                        attempts.progress();
                    }
                    attempts.after(failed).await.map_err(Broken::Failed)?;
                }
            }
        }
    }

    async fn attempt(
        &self,
        endpoint: &super::Endpoint,
        start: u64,
        end: u64,
        at: &mut u64,
    ) -> Result<(), Broken> {
        let whole = start == 0 && end == self.size;
        if *at == end && self.size > 0 {
            return Ok(());
        }
        let range = (!whole || *at > 0).then(|| format!("bytes={at}-{}", end - 1));
        let url = endpoint.url(&self.path).map_err(Broken::Failed)?;
        let answer = endpoint
            .send(&url, |client, url| match &range {
                Some(range) => client.get(url).header(RANGE, range),
                None => client.get(url),
            })
            .await
            .map_err(Broken::Failed)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if range.is_some() => {
                if self.range_start(&answer) != Some(*at) {
                    return Err(Broken::NoRanges);
                }
            }
            StatusCode::OK if whole => *at = 0,
            StatusCode::OK => return Err(Broken::NoRanges),
            _ => return Err(Broken::Failed(Failed::of_answer(answer).await)),
        }
        self.receive(answer, end, at, endpoint).await.map_err(Broken::Failed)
    }

    /// Where the bytes of a partial answer begin, if they are of a blob of this size.
    fn range_start(&self, answer: &Response) -> Option<u64> {
        let text = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let fits = total == "*" || total.parse() == Ok(self.size);
        let (start, _) = range.split_once('-')?;
        start.parse().ok().filter(|_| fits)
    }

    /// Writes a body to the file. Writes go to the page cache, and so may be done on the runtime's own threads.
    async fn receive(
        &self,
        mut answer: Response,
        end: u64,
        at: &mut u64,
        endpoint: &super::Endpoint,
    ) -> Result<(), Failed> {
        let wrong = |actual: u64| {
            let (on, expected) = (self.name.clone(), end);
            Failed::Wrong(SourceError::Size { what: WHAT, on, expected, actual })
        };
        if let Some(length) = answer.content_length()
            && length != end - *at
        {
            return Err(wrong(at.saturating_add(length)));
        }
        while *at < end {
            let Some(chunk) = answer.chunk().await.map_err(|error| Failed::transport(&error))? else {
                return Err(wrong(*at));
            };
            let length = chunk.len() as u64;
            endpoint.meter.add(chunk.len());
            if length > end - *at {
                return Err(wrong(at.saturating_add(length)));
            }
            self.file.write_all_at(&chunk, *at).map_err(|error| {
                Failed::Local(SourceError::io("write blob to", std::path::Path::new("temporary file"))(error))
            })?;
            *at += length;
            if let Some(on_bytes) = &self.on_bytes {
                on_bytes(length);
            }
        }
        Ok(())
    }
}
