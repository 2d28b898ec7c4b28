//! A mapped tar into an index and the places of its contents.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use d4c_sys::spawn_scoped;
use dimg::Digest;
use dimg::index::{LayerIndex, Tail};
use dimg::limits::{MAX_ENTRIES, MAX_TAIL_BYTES, MAX_TAIL_ZERO_BYTES};

use super::block::BLOCK;
use super::contents::{ContentBytes, ContentPlace};
use super::error::TarError;
use super::indexer::Indexer;
use super::member;
use super::sparse::take;

/// Bytes of holes in all sparse members of a layer together. They cost nothing in the tar but have to be hashed.
pub const MAX_HOLE_BYTES: u64 = 64 << 30;

/// How to parse.
#[derive(Debug, Clone, Copy)]
pub struct ParseOptions {
    /// Threads that hash, the calling one included.
    pub threads: NonZeroUsize,
    /// Whether to hash the tar itself too.
    pub diff_id: bool,
    /// Bytes of holes that are hashed before the tar is refused.
    pub max_hole_bytes: u64,
}

impl Default for ParseOptions {
    /// All cores, the diff ID too.
    fn default() -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { threads, diff_id: true, max_hole_bytes: MAX_HOLE_BYTES }
    }
}

/// A layer's index, and where its contents are in the tar.
#[derive(Debug, Clone)]
pub struct ParsedLayer {
    /// All but the contents.
    pub index: LayerIndex,
    /// SHA-256 of the tar, when asked for.
    pub diff_id: Option<Digest>,
    /// A place of each content, in order of first use.
    places: Vec<ContentPlace>,
    by_digest: HashMap<Digest, usize>,
}

impl ParsedLayer {
    /// A place of each content, each content once, in order of first use.
    pub fn places(&self) -> &[ContentPlace] {
        &self.places
    }

    /// The place of a content, if it is one of this layer.
    pub fn place(&self, digest: &Digest) -> Option<&ContentPlace> {
        self.by_digest.get(digest).map(|&place| &self.places[place])
    }

    /// A content's bytes within `tar`, the tar that was parsed; `None` if it is none of this layer.
    pub fn content<'t>(&'t self, tar: &'t [u8], digest: &Digest) -> Option<ContentBytes<'t>> {
        self.place(digest)?.bytes(tar)
    }
}

/// Reads a whole tar. Memory is needed for the entries, not for contents.
///
/// # Errors
/// The tar is one that Go's `archive/tar` refuses, ends early, or exceeds a limit.
pub fn parse(tar: &[u8], options: &ParseOptions) -> Result<ParsedLayer, TarError> {
    let mut members = Members::default();
    let tail_at = members.walk(tar, options.max_hole_bytes)?;
    let tail = tail(tar, tail_at)?;
    let (diff_id, digests) = hash(tar, &members.places, options);

    let mut index = LayerIndex { shapes: members.indexer.shapes, entries: members.entries, tail };
    let mut places: Vec<ContentPlace> = Vec::new();
    let mut by_digest = HashMap::new();
    let with_content = index.entries.iter_mut().filter_map(|entry| entry.content.as_mut());
    for ((content, mut place), digest) in with_content.zip(members.places).zip(digests) {
        content.digest = digest;
        place.content.digest = digest;
        let number = *by_digest.entry(digest).or_insert(places.len());
        match places.get_mut(number) {
            None => places.push(place),
            // One piece is better to have than runs.
            Some(known) if known.extents.is_some() && place.extents.is_none() => *known = place,
            Some(_) => {}
        }
    }
    Ok(ParsedLayer { index, diff_id, places, by_digest })
}

#[derive(Default)]
struct Members {
    indexer: Indexer,
    entries: Vec<dimg::index::Entry>,
    /// Of each entry that has a content, the place of it.
    places: Vec<ContentPlace>,
}

impl Members {
    /// Reads all members; returns the offset of what follows the last.
    fn walk(&mut self, tar: &[u8], max_hole_bytes: u64) -> Result<usize, TarError> {
        let mut at = 0;
        let mut hole_bytes = 0u64;
        while at < tar.len() && !is_zero_block(tar, at) {
            if self.entries.len() >= MAX_ENTRIES {
                return Err(TarError::limit(at, "number of members", MAX_ENTRIES as u64));
            }
            let member = member::read(tar, at)?;
            let data_at = member.data_at;
            let data_bytes = usize::try_from(member.data_bytes).unwrap_or(usize::MAX);
            take(tar, data_at, data_bytes, "data")?;
            let end = data_at + data_bytes;
            let padding = &tar[end..end.next_multiple_of(BLOCK).min(tar.len())];
            let usual =
                end + padding.len() == end.next_multiple_of(BLOCK) && padding.iter().all(|&byte| byte == 0);
            if let Some(content) = member.entry.content {
                hole_bytes = hole_bytes.saturating_add(content.size - member.data_bytes);
                if hole_bytes > max_hole_bytes {
                    return Err(TarError::limit(at, "holes in sparse members", max_hole_bytes));
                }
                let extents = member.sparse.then(|| member.entry.sparse.clone());
                self.places.push(ContentPlace { content, offset: data_at as u64, extents });
            }
            self.entries.push(self.indexer.add(tar, member, (!usual).then_some(padding))?);
            at = end + padding.len();
        }
        Ok(at)
    }
}

fn is_zero_block(tar: &[u8], at: usize) -> bool {
    tar.get(at..at + BLOCK).is_some_and(|block| *block == [0; BLOCK])
}

/// The end marker and what follows; one block of zeros at the very end, or none, will do.
fn tail(tar: &[u8], at: usize) -> Result<Tail, TarError> {
    if tar.len() - at > BLOCK {
        take(tar, at + BLOCK, BLOCK, "end marker")?;
        if !is_zero_block(tar, at + BLOCK) {
            return Err(TarError::header(at + BLOCK, "a block of zeros precedes it, which ends the tar"));
        }
    }
    let whole = tar[at..].chunks_exact(BLOCK).take_while(|block| **block == [0; BLOCK]).count() * BLOCK;
    let zeros = whole + tar[at + whole..].iter().take_while(|&&byte| byte == 0).count();
    if zeros as u64 > MAX_TAIL_ZERO_BYTES {
        return Err(TarError::limit(at, "zeros after the last member", MAX_TAIL_ZERO_BYTES));
    }
    let rest = &tar[at + zeros..];
    if rest.len() > MAX_TAIL_BYTES {
        return Err(TarError::limit(at + zeros, "data after the end marker", MAX_TAIL_BYTES as u64));
    }
    Ok(Tail { zero_bytes: zeros as u64, rest: rest.into() })
}

/// SHA-256 of the tar if asked for, and of each place's content, in their order.
fn hash(tar: &[u8], places: &[ContentPlace], options: &ParseOptions) -> (Option<Digest>, Vec<Digest>) {
    let next = AtomicUsize::new(0);
    let digests = Mutex::new(vec![Digest([0; 32]); places.len()]);
    let work = || {
        let mut done = Vec::new();
        while let Some((number, place)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, places.get(n)?)))
        {
            let bytes = place.bytes(tar).expect("the data of each place was found in the tar");
            done.push((number, bytes.digest()));
        }
        let mut digests = digests.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, digest) in done {
            digests[number] = digest;
        }
    };
    let helpers = (options.threads.get() - 1).min(places.len());
    let diff_id = thread::scope(|scope| {
        (0..helpers).take_while(|_| spawn_scoped(scope, work).is_some()).for_each(drop);
        let diff_id = options.diff_id.then(|| Digest::of(tar));
        work();
        diff_id
    });
    (diff_id, digests.into_inner().unwrap_or_else(PoisonError::into_inner))
}
