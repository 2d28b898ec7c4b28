//! Where contents come from.
//!
//! Contents are named by digest and size ([`Content`]), so whoever needs one, the delta engine for its bases, a file tree
//! for its files or a tar for its members, asks a [`ContentSource`] and need not know whether an object store, an
//! unpacked directory or a layer's tar has it. Bytes are handed out as [`Bytes`], most often a slice of a mapped file:
//! large contents cost no memory of our own.

use std::fs::File;
use std::io;
use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

use crate::index::Content;

/// A slice of bytes that shares the ownership of what it lies in: a mapped file, a vector.
///
/// Cheap to clone, to slice and to send to another thread.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// All bytes of `owner`, which must give the same slice each time it is asked (a mapping or a vector does).
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::shared(Arc::new(owner))
    }

    /// As [`Bytes::new`], of an owner that others share too.
    pub fn shared(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*owner).as_ref().len();
        Self { owner, start: 0, len }
    }

    /// A part of these bytes; `None` where the range does not lie within them.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Option<Self> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1)?,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        let fits = start <= end && end <= self.len;
        fits.then(|| Self { owner: Arc::clone(&self.owner), start: self.start + start, len: end - start })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // An owner that breaks its promise shows as missing bytes, which no digest survives, not as a panic.
        (*self.owner).as_ref().get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::new([])
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len)
    }
}

/// Something that has contents: asked from many threads at once.
pub trait ContentSource: Send + Sync {
    /// The bytes of `content`; `None` when this source does not have it.
    ///
    /// A source says of itself whether it checks digests when it is read. One that answers with bytes of another
    /// number than `content.size` is wrong; [`open_exact`] refuses it.
    ///
    /// # Errors
    /// It has the content but cannot read it.
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>>;

    /// A file, open for reading, that holds exactly the bytes of `content` and nothing else, to be cloned; `None` when
    /// this source has none (it may yet have the bytes). The file's offset is undefined.
    ///
    /// # Errors
    /// There is one but it cannot be opened.
    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        let _ = content;
        Ok(None)
    }
}

/// The bytes of `content` in `source`, their number checked.
///
/// # Errors
/// Those of the source; [`io::ErrorKind::NotFound`] when it does not have it, [`io::ErrorKind::InvalidData`] when it
/// gives another number of bytes.
pub fn open_exact(source: &dyn ContentSource, content: &Content) -> io::Result<Bytes> {
    let Some(bytes) = source.open(content)? else {
        let message = format!("content {} of {} bytes is not there", content.digest, content.size);
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    if bytes.len() as u64 != content.size {
        let message = format!("content {} has {} bytes, not {}", content.digest, bytes.len(), content.size);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

impl<T: ContentSource + ?Sized> ContentSource for &T {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        (**self).open(content)
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        (**self).file(content)
    }
}

impl<T: ContentSource + ?Sized> ContentSource for Arc<T> {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        (**self).open(content)
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        (**self).file(content)
    }
}

impl<T: ContentSource + ?Sized> ContentSource for Box<T> {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        (**self).open(content)
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        (**self).file(content)
    }
}

/// Several sources as one: the first that has a content gives it.
impl<T: ContentSource> ContentSource for Vec<T> {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        first(self, |source| source.open(content))
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        first(self, |source| source.file(content))
    }
}

/// A source without contents.
impl ContentSource for () {
    fn open(&self, _: &Content) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

/// What the first source that has it gives. A source that fails does not hide the ones after it; when none has the
/// content, the first failure is the answer.
fn first<T, A>(sources: &[T], ask: impl Fn(&T) -> io::Result<Option<A>>) -> io::Result<Option<A>> {
    let mut failure = None;
    for source in sources {
        match ask(source) {
            Ok(Some(answer)) => return Ok(Some(answer)),
            Ok(None) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    struct One(Vec<u8>);

    impl ContentSource for One {
        fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
            Ok((content.digest == Digest::of(&self.0)).then(|| Bytes::from(self.0.clone())))
        }
    }

    struct Broken;

    impl ContentSource for Broken {
        fn open(&self, _: &Content) -> io::Result<Option<Bytes>> {
            Err(io::Error::from_raw_os_error(5))
        }
    }

    fn content(bytes: &[u8]) -> Content {
        Content { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    #[test]
    fn slices_share_their_owner() {
        let bytes = Bytes::from(b"abcdef".to_vec());
        let part = bytes.slice(1..5).unwrap();
        drop(bytes);
        assert_eq!(&*part, b"bcde");
        assert_eq!(&*part.slice(2..).unwrap(), b"de");
        assert_eq!(&*part.slice(..=1).unwrap(), b"bc");
        assert!(part.slice(4..).unwrap().is_empty());
        assert!(
            part.slice(5..).is_none() && part.slice(..5).is_none() && part.slice(..=usize::MAX).is_none()
        );
        assert!(Bytes::default().is_empty());
    }

    #[test]
    fn the_first_that_has_it_answers_and_failures_do_not_hide_it() {
        let union: Vec<Box<dyn ContentSource>> =
            vec![Box::new(Broken), Box::new(One(b"a".to_vec())), Box::new(()), Box::new(One(b"b".to_vec()))];
        assert_eq!(&**union.open(&content(b"b")).unwrap().as_ref().unwrap(), b"b");
        assert_eq!(union.open(&content(b"c")).unwrap_err().raw_os_error(), Some(5));
        let healthy: Vec<&dyn ContentSource> = union[1..].iter().map(|source| &**source).collect();
        assert!(healthy.open(&content(b"c")).unwrap().is_none());
        assert!(union.file(&content(b"a")).unwrap().is_none());
    }

    #[test]
    fn exact_wants_the_right_number_of_bytes() {
        let source = One(b"abc".to_vec());
        assert_eq!(&*open_exact(&source, &content(b"abc")).unwrap(), b"abc");
        assert_eq!(open_exact(&source, &content(b"x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let wrong = Content { size: 4, ..content(b"abc") };
        assert_eq!(open_exact(&source, &wrong).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
