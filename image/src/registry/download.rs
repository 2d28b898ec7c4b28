//! Blobs: by ranges, several at once, each going on where it broke off, within this process and after it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::task::{JoinHandle, JoinSet};

use super::failed::Failed;
use super::partial::{Partial, Shared};
use super::{Inner, OnBytes, Repository};
use crate::error::SourceError;
use crate::manifest::Descriptor;

const WHAT: &str = "fetch blob";
/// Bytes asked for at once; what is not longer is asked for whole.
const PIECE_BYTES: u64 = 8 << 20;
/// Pieces fetched at the same time.
const WORKERS: u64 = 4;
/// How often it is recorded what is there. A download that takes less costs no flush.
const RECORD_EVERY: Duration = Duration::from_secs(1);

impl Repository {
    /// Downloads what `partial` lacks of the blob that `descriptor` names. It has the descriptor's size then; the digest is for whoever
    /// reads it to verify. But where a process before had part of it, that is done here: a blob that comes out wrong is thrown away, and fetched anew once.
    ///
    /// # Errors
    /// [`SourceError::Corrupt`] where the registry does not have it, though a manifest names it. What was fetched stays, but where it could not be
    /// written: the disk may be full.
    pub fn fetch_blob(
        &self,
        descriptor: &Descriptor,
        partial: Partial,
        on_bytes: Option<OnBytes>,
    ) -> Result<Partial, SourceError> {
        let partial = partial.sized(descriptor.size);
        let before = partial.there();
        if before == 0 {
            return self.fetch_missing(descriptor, partial, on_bytes);
        }
        if let Some(on_bytes) = &on_bytes {
            on_bytes(before);
        }
        let partial = self.fetch_missing(descriptor, partial, on_bytes.clone())?;
        if partial.digest()?.1 == descriptor.digest {
            return Ok(partial);
        }
        partial.clear().map_err(SourceError::io("write blob to", partial.shown()))?;
        self.fetch_missing(descriptor, partial, on_bytes)
    }

    fn fetch_missing(
        &self,
        descriptor: &Descriptor,
        partial: Partial,
        on_bytes: Option<OnBytes>,
    ) -> Result<Partial, SourceError> {
        let inner = Arc::clone(&self.inner);
        let on = self.blob_name(descriptor);
        let blob = Arc::new(Blob {
            path: format!("{}/blobs/{}", inner.path, descriptor.digest),
            size: descriptor.size,
            name: on.clone(),
            on_bytes,
            inner,
            todo: Mutex::new(partial.missing()),
            partial,
        });
        let shared = Arc::clone(&blob);
        let fetched = self.wait(async move { fetch(&shared).await })?;
        let name = self.name();
        let taken = Arc::into_inner(blob).map(|blob| blob.partial);
        let partial = taken.ok_or_else(|| SourceError::corrupt(WHAT, on.clone(), "still being written"))?;
        match fetched {
            Err(failed) if failed.is_missing() => {
                Err(SourceError::corrupt(WHAT, on, "missing from the registry"))
            }
            Err(failed @ Failed::Local(_)) => {
                partial.remove();
                Err(failed.told(WHAT, name))
            }
            Err(failed) => {
                // That it cannot be recorded costs the next one bytes, and is not why this one failed.
                let _ = partial.is_kept().then(|| partial.shared().record());
                Err(failed.told(WHAT, name))
            }
            Ok(()) => {
                partial.close().map_err(SourceError::io("write blob to", partial.shown()))?;
                Ok(partial)
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
    partial: Partial,
    on_bytes: Option<OnBytes>,
    /// What nobody fetches yet, in order.
    todo: Mutex<VecDeque<Range<u64>>>,
}

/// Why a piece is not there.
enum Broken {
    Failed(Failed),
    /// The registry gives blobs whole only.
    NoRanges,
}

async fn fetch(blob: &Arc<Blob>) -> Result<(), Failed> {
    let _recorder = blob.partial.is_kept().then(|| Recorder::start(Arc::clone(blob.partial.shared())));
    match fetch_pieces(blob).await {
        Ok(()) => return Ok(()),
        Err(Broken::Failed(failed)) => return Err(failed),
        Err(Broken::NoRanges) => {}
    }
    match blob.piece(0, blob.size).await {
        Ok(()) => Ok(()),
        Err(Broken::Failed(failed)) => Err(failed),
        Err(Broken::NoRanges) => Err(Failed::Refused("the registry's answers do not fit together".into())),
    }
}

async fn fetch_pieces(blob: &Arc<Blob>) -> Result<(), Broken> {
    // Shows whether there are ranges, before several are asked for.
    let Some(first) = blob.next() else { return Ok(()) };
    blob.piece(first.start, first.end).await?;
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS.min(blob.left()) {
        let blob = Arc::clone(blob);
        workers.spawn(async move {
            while let Some(piece) = blob.next() {
                blob.piece(piece.start, piece.end).await?;
            }
            Ok(())
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

/// Records what is there while it lives. A record that is being written when it ends goes on, and the file takes it or not.
struct Recorder(JoinHandle<()>);

impl Recorder {
    fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(RECORD_EVERY).await;
                let shared = Arc::clone(&shared);
                // Flushing takes its time. Where it fails less is recorded, and the download goes on.
                let _ = tokio::task::spawn_blocking(move || shared.record()).await;
            }
        }))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Blob {
    /// The next piece.
    fn next(&self) -> Option<Range<u64>> {
        let mut todo = self.todo.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = todo.front_mut()?;
        let piece = gap.start..gap.end.min(gap.start.saturating_add(PIECE_BYTES));
        gap.start = piece.end;
        if gap.is_empty() {
            todo.pop_front();
        }
        Some(piece)
    }

    /// How many pieces there are still.
    fn left(&self) -> u64 {
        let todo = self.todo.lock().unwrap_or_else(PoisonError::into_inner);
        todo.iter().map(|gap| (gap.end - gap.start).div_ceil(PIECE_BYTES)).fold(0, u64::saturating_add)
    }

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
            self.partial.shared().write(&chunk, *at).map_err(|error| {
                Failed::Local(SourceError::io("write blob to", self.partial.shown())(error))
            })?;
            *at += length;
            if let Some(on_bytes) = &self.on_bytes {
                on_bytes(length);
            }
        }
        Ok(())
    }
}
