//! SHA-256 on a thread of its own, so that hashing overlaps with reading and decompressing; in place where the system refuses one.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use dimg::{Digest, Hasher};

/// Bytes handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// A blob of fewer bytes is hashed sooner than a thread starts and is awaited.
const MIN_BYTES: u64 = 256 << 10;
/// Chunks that may wait for the hasher: bounds the memory, and how far the producer runs ahead.
const QUEUE: usize = 4;

/// A running SHA-256, on another thread if there is one.
pub(crate) enum HashThread {
    Thread(Queue),
    InPlace(Hasher),
}

/// A running SHA-256 on another thread. Uses at most `QUEUE + 2` chunks of memory.
pub(crate) struct Queue {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
    chunk: Vec<u8>,
    chunks_made: usize,
}

impl HashThread {
    /// For a blob of so many bytes, or what is in it; none where nobody knows.
    pub(crate) fn start(blob_bytes: Option<u64>) -> Self {
        let queue = if blob_bytes.is_some_and(|bytes| bytes < MIN_BYTES) { None } else { Queue::start() };
        queue.map_or_else(|| Self::InPlace(Hasher::new()), Self::Thread)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Thread(queue) => queue.update(bytes),
            Self::InPlace(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Thread(queue) => queue.finish(),
            Self::InPlace(hasher) => hasher.finish(),
        }
    }
}

impl Queue {
    /// None when there is no thread to be had.
    fn start() -> Option<Self> {
        let (full, todo) = sync_channel::<Vec<u8>>(QUEUE);
        let (done, empty) = channel();
        let thread = Builder::new().name("hash".into()).spawn(move || {
            let mut hasher = Hasher::new();
            for mut chunk in todo {
                hasher.update(&chunk);
                chunk.clear();
                // The other side may have gone to wait for the digest already.
                let _ = done.send(chunk);
            }
            hasher.finish()
        });
        Some(Self {
            full,
            empty,
            thread: thread.ok()?,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            chunks_made: 1,
        })
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = rest;
            if self.chunk.len() == CHUNK_BYTES {
                let next = self.next_chunk();
                // The receiver lives as long as the thread, which ends only when `full` is dropped.
                let _ = self.full.send(std::mem::replace(&mut self.chunk, next));
            }
        }
    }

    /// An empty chunk: one that came back, or a new one while there may be more.
    fn next_chunk(&mut self) -> Vec<u8> {
        let back =
            if self.chunks_made < QUEUE + 2 { self.empty.try_recv().ok() } else { self.empty.recv().ok() };
        back.unwrap_or_else(|| {
            self.chunks_made += 1;
            Vec::with_capacity(CHUNK_BYTES)
        })
    }

    fn finish(self) -> Digest {
        let Self { full, thread, chunk, .. } = self;
        let _ = full.send(chunk);
        drop(full);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_hashing_in_place() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7] {
            let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            for step in [1000, 300_000, usize::MAX] {
                let mut hash = HashThread::start(None);
                bytes.chunks(step.min(bytes.len().max(1))).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), Digest::of(&bytes), "{length} by {step}");
            }
        }
    }
}
