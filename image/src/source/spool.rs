//! From a blob to a mapped tar: decompressed into an unlinked file, all digests verified on the way.
//!
//! One pass: read, hash what was read, decompress, write, hash what was written; both hashes on threads of their
//! own. Memory is a few buffers and the decompressor's window (at most 128 MiB, zstd's default limit),
//! whatever the layer's size. A blob that is mapped and not compressed is only hashed, and stays where it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use d4c_sys::Map;
use dimg::Digest;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::blob::{Blob, MappedBytes};
use super::hash::HashThread;
use crate::error::SourceError;

const WHAT: &str = "unpack layer";
/// What xz may take for its dictionary; `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES: u64 = 128 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// Bytes that [`Compression::detect`] wants to see.
    const MAGIC_BYTES: usize = 6;

    /// By the first bytes. The magic of zstd's skippable frames counts too: zstd:chunked may start with one.
    pub(crate) fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    fn decoder<'a>(self, reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(reader, stream))
            }
        })
    }
}

/// What the bytes must be. Nothing is hashed that is not asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expect {
    /// Size and digest of the blob.
    pub(crate) blob: Option<(u64, Digest)>,
    /// Digest of the tar in it.
    pub(crate) diff_id: Option<Digest>,
}

/// Where unpacked layers go, and how large they may be.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    pub(crate) dir: PathBuf,
    pub(crate) limit_bytes: Option<u64>,
}

impl Spool {
    /// A new file without a name, in the spool's directory.
    pub(crate) fn file(&self) -> Result<File, SourceError> {
        tempfile::tempfile_in(&self.dir).map_err(SourceError::io("make temporary file", &self.dir))
    }

    pub(crate) fn map(&self, file: &File) -> Result<MappedBytes, SourceError> {
        let map = Map::file(file).map_err(SourceError::io("map temporary file", &self.dir))?;
        Ok(MappedBytes::whole(map))
    }

    /// The uncompressed bytes of `blob`, verified. `on` names it in errors.
    pub(crate) fn unpack(&self, blob: Blob, expect: Expect, on: &str) -> Result<MappedBytes, SourceError> {
        // Equal digests say that the tar is the blob, whatever its first bytes look like.
        let plain = matches!((expect.blob, expect.diff_id), (Some((_, blob)), Some(id)) if blob == id);
        match blob {
            Blob::Verified(bytes) => self.check_limit(bytes.len(), on).map(|()| bytes),
            Blob::Mapped(bytes) => {
                check_size(expect, u64::try_from(bytes.len()).unwrap_or(u64::MAX), on)?;
                let kind = if plain { Compression::None } else { Compression::detect(&bytes) };
                if kind == Compression::None {
                    self.check_limit(bytes.len(), on)?;
                    bytes.map().advise_sequential();
                    check_digests(expect, || Digest::of(&bytes), on)?;
                    return Ok(bytes);
                }
                self.unpack_stream(Cursor::new(&bytes[..]), kind, expect, on)
            }
            Blob::Stream(mut stream) => {
                let mut head = Vec::with_capacity(Compression::MAGIC_BYTES);
                stream
                    .by_ref()
                    .take(Compression::MAGIC_BYTES as u64)
                    .read_to_end(&mut head)
                    .map_err(SourceError::io("read blob", Path::new(on)))?;
                let kind = if plain { Compression::None } else { Compression::detect(&head) };
                self.unpack_stream(Cursor::new(head).chain(stream), kind, expect, on)
            }
        }
    }

    fn unpack_stream(
        &self,
        source: impl Read,
        kind: Compression,
        expect: Expect,
        on: &str,
    ) -> Result<MappedBytes, SourceError> {
        // Of an uncompressed blob the two digests are one.
        let hash_blob = expect.blob.is_some() && !(kind == Compression::None && expect.diff_id.is_some());
        let blob_bytes = expect.blob.map(|(size, _)| size);
        let mut source = Source {
            // One byte more than there should be: enough to see that there is more.
            inner: source.take(blob_bytes.map_or(u64::MAX, |size| size.saturating_add(1))),
            hash: hash_blob.then(|| HashThread::start(blob_bytes)),
            bytes: 0,
            error: None,
        };
        let hash = expect.diff_id.is_some().then(|| HashThread::start(blob_bytes));
        let mut sink = Sink { file: self.file()?, hash, bytes: 0 };
        let unpacked = self.pump(&mut source, kind, &mut sink, on);
        if let Some(error) = source.error.take() {
            return Err(SourceError::io("read blob", Path::new(on))(error));
        }
        let unpacked = match unpacked {
            Err(error @ (SourceError::Limit { .. } | SourceError::Io { .. })) => return Err(error),
            other => other,
        };
        // What the decompressor left: behind its end, or behind the error that its data had. The digest
        // of the blob tells whether the blob is to blame.
        if let Err(error) = io::copy(&mut source, &mut io::sink()) {
            return Err(SourceError::io("read blob", Path::new(on))(source.error.take().unwrap_or(error)));
        }
        check_size(expect, source.bytes, on)?;
        let (blob_digest, tar_digest) =
            (source.hash.map(HashThread::finish), sink.hash.map(HashThread::finish));
        if let (Some((_, expected)), Some(actual)) = (expect.blob, blob_digest.or(tar_digest)) {
            same("verify blob", on, expected, actual)?;
        }
        unpacked?;
        if let (Some(expected), Some(actual)) = (expect.diff_id, tar_digest) {
            same("verify diff ID", on, expected, actual)?;
        }
        self.map(&sink.file)
    }

    fn pump(
        &self,
        source: &mut Source<impl Read>,
        kind: Compression,
        sink: &mut Sink,
        on: &str,
    ) -> Result<(), SourceError> {
        let limit = self.limit_bytes.unwrap_or(u64::MAX);
        let mut buffer = vec![0; BUFFER_BYTES];
        let bad = |offset: u64, error: &io::Error| SourceError::Corrupt {
            what: "decompress layer",
            on: on.to_owned(),
            offset: Some(offset),
            why: error.to_string(),
        };
        let mut buffered = BufReader::with_capacity(BUFFER_BYTES, source);
        let failed = {
            let mut decoder = match kind.decoder(&mut buffered) {
                Ok(decoder) => decoder,
                Err(error) => return Err(SourceError::io("start decompressor for", Path::new(on))(error)),
            };
            loop {
                match fill(&mut decoder, &mut buffer) {
                    Ok(0) => break None,
                    Ok(read) => {
                        sink.bytes = sink.bytes.saturating_add(read as u64);
                        if sink.bytes > limit {
                            return Err(SourceError::Limit {
                                what: WHAT,
                                on: on.to_owned(),
                                limit_bytes: limit,
                            });
                        }
                        sink.put(&buffer[..read]).map_err(SourceError::io("write layer to", &self.dir))?;
                    }
                    Err(error) => break Some(error),
                }
            }
        };
        let left = buffered.buffer().len() as u64;
        let offset = buffered.get_ref().bytes - left;
        failed.map_or(Ok(()), |error| Err(bad(offset, &error)))
    }

    fn check_limit(&self, bytes: usize, on: &str) -> Result<(), SourceError> {
        match self.limit_bytes {
            Some(limit_bytes) if bytes as u64 > limit_bytes => {
                Err(SourceError::Limit { what: WHAT, on: on.to_owned(), limit_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// Reads until `buffer` is full or the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn check_size(expect: Expect, actual: u64, on: &str) -> Result<(), SourceError> {
    match expect.blob {
        Some((expected, _)) if expected != actual => {
            Err(SourceError::Size { what: "verify blob", on: on.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Checks bytes that are blob and tar at once.
fn check_digests(expect: Expect, digest: impl FnOnce() -> Digest, on: &str) -> Result<(), SourceError> {
    if expect.blob.is_none() && expect.diff_id.is_none() {
        return Ok(());
    }
    let actual = digest();
    if let Some((_, expected)) = expect.blob {
        same("verify blob", on, expected, actual)?;
    }
    expect.diff_id.map_or(Ok(()), |expected| same("verify diff ID", on, expected, actual))
}

pub(crate) fn same(
    what: &'static str,
    on: &str,
    expected: Digest,
    actual: Digest,
) -> Result<(), SourceError> {
    if expected == actual {
        return Ok(());
    }
    Err(SourceError::Digest { what, on: on.to_owned(), expected, actual })
}

/// The compressed side: counts, hashes, and keeps an error apart from those of the decompressor.
struct Source<R> {
    inner: io::Take<R>,
    hash: Option<HashThread>,
    bytes: u64,
    error: Option<io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.bytes += read as u64;
                if let Some(hash) = &mut self.hash {
                    hash.update(&buffer[..read]);
                }
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.error.get_or_insert(error);
                Err(io::Error::other("the blob cannot be read"))
            }
        }
    }
}

/// The uncompressed side.
struct Sink {
    file: File,
    hash: Option<HashThread>,
    bytes: u64,
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }
}
