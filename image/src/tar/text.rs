//! How writers put names into fields that may be too short for them.
//!
//! Three steps: compose (an extension header's name is made from the member's), transform (not all bytes are
//! allowed), place (cut, or split over two fields). `FORMAT.md`, "Styles", has each rule in words.

use std::borrow::Cow;

/// Width of the prefix field.
const PREFIX_BYTES: usize = 155;
/// Width of the name field.
const NAME_BYTES: usize = 100;

/// How a name is made from the member's path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Join {
    /// `path.Join(dir, literal, base)` of Go: cleaned.
    Go(Box<[u8]>),
    /// `dir/literal/base` of GNU tar: the directory `.` when there is none, trailing slashes dropped.
    Gnu(Box<[u8]>),
    /// libarchive: `dir/literal/base`, slashes at the end and directories in the middle dropped; the path itself,
    /// shortened, when the literal is empty.
    Libarchive(Box<[u8]>),
}

impl Join {
    /// The name made from `path`.
    pub fn of(&self, path: &[u8]) -> Vec<u8> {
        match self {
            Self::Go(literal) => {
                let (dir, base) = path.split_at(after_last_slash(path));
                let parts = [dir, literal, base].into_iter().filter(|part| !part.is_empty());
                clean(&parts.collect::<Vec<_>>().join(&b'/'))
            }
            Self::Gnu(literal) => {
                let path = without_trailing_slashes(path);
                let (dir, base) = path.split_at(after_last_slash(path));
                let dir = without_trailing_slashes(dir);
                let dir = if dir.is_empty() { b"." } else { dir };
                [dir, literal, base].join(&b'/')
            }
            Self::Libarchive(insert) if insert.is_empty() => libarchive(path, insert),
            Self::Libarchive(insert) => match without_trailing_dots(path) {
                [] => [b"/", &**insert, b"/rootdir"].concat(),
                b"." => [&**insert, b"/currentdir"].concat(),
                path => libarchive(path, insert),
            },
        }
    }
}

fn after_last_slash(path: &[u8]) -> usize {
    path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
}

fn without_trailing_slashes(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1)]
}

/// The path without slashes, and dots after slashes, at its end.
fn without_trailing_dots(mut path: &[u8]) -> &[u8] {
    while let [before @ .., b'/'] | [before @ .., b'/', b'.'] = path {
        path = before;
    }
    path
}

/// Go's `path.Clean`: no empty or `.` components, `..` resolved where something precedes it.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|&last| last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// A name of at most 255 bytes that splits: the front of the directory to 155 bytes, then as much of what follows as
/// leaves room for the base and what is inserted before it.
fn libarchive(path: &[u8], insert: &[u8]) -> Vec<u8> {
    if insert.is_empty() && path.len() < NAME_BYTES {
        return path.to_vec();
    }
    let mut end = path.len();
    loop {
        match &path[..end] {
            [.., b'/'] => end -= 1,
            [_, .., b'.'] if path[end - 2] == b'/' => end -= 2,
            _ => break,
        }
    }
    let slash = end < path.len();
    let inserted = if insert.is_empty() { 0 } else { insert.len() + 2 };
    let mut room = (NAME_BYTES - 2 - usize::from(slash)).saturating_sub(inserted);
    let base_at = after_last_slash(&path[..end]);
    let base = &path[base_at..end.min(base_at + room)];
    room -= base.len();
    // The longest directory part of at most so many bytes, the slash after it not counted.
    let cut = |from: usize, bytes: usize| {
        let most = (from + bytes).min(base_at);
        let range = &path[from..(most + 1).min(base_at)];
        from + range.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
    };
    let prefix_end = cut(0, PREFIX_BYTES);
    let suffix_end = cut(prefix_end, room);
    let mut name = path[..suffix_end].to_vec();
    if !insert.is_empty() {
        name.extend_from_slice(insert);
        name.push(b'/');
    }
    name.extend_from_slice(base);
    if slash {
        name.push(b'/');
    }
    name
}

/// Which bytes of a name are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transform {
    /// All.
    None,
    /// ASCII ones; others and NULs are dropped, as Go does.
    Ascii,
    /// ASCII ones; each other character, or byte that is part of none, becomes a question mark, as Python does.
    Question,
}

/// All transforms, in the order of their codes.
pub const TRANSFORMS: [Transform; 3] = [Transform::None, Transform::Ascii, Transform::Question];

impl Transform {
    /// `text` with only the allowed bytes.
    pub fn of<'a>(self, text: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        match self {
            Self::None => text,
            _ if text.is_ascii() && !text.contains(&0) => text,
            Self::Ascii => text.iter().copied().filter(|&byte| byte.is_ascii() && byte != 0).collect(),
            Self::Question => {
                let mut out = Vec::with_capacity(text.len());
                for chunk in text.utf8_chunks() {
                    out.extend(
                        chunk
                            .valid()
                            .chars()
                            .map(|c| u8::try_from(c).ok().filter(u8::is_ascii).unwrap_or(b'?')),
                    );
                    out.extend(chunk.invalid().iter().map(|_| b'?'));
                }
                out.into()
            }
        }
    }
}

/// How a text goes into its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Cut to the field's width.
    Cut,
    /// Cut to one less: a NUL always ends it.
    CutOne,
    /// Cut to the width; when that leaves a slash at the end, it and those before it become NULs (Go's `formatString`).
    CutSlash,
    /// Cut to the width, then all slashes at the end dropped (Go's extension headers).
    Trim,
    /// Names too long for the field are split at the last slash that leaves the first part 155 bytes.
    SplitLast,
    /// Names too long for the field are split at the first slash that leaves the second part 100 bytes, or none.
    SplitFirst,
}

/// All places, in the order of their codes.
pub const PLACES: [Place; 6] =
    [Place::Cut, Place::CutOne, Place::CutSlash, Place::Trim, Place::SplitLast, Place::SplitFirst];

impl Place {
    /// What goes into the prefix field and into the field itself, of `width` bytes.
    pub fn of(self, text: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
        let cut = &text[..text.len().min(width)];
        match self {
            Self::Cut => Some((&[], cut)),
            Self::CutOne => Some((&[], &text[..text.len().min(width - 1)])),
            Self::CutSlash if text.len() > width => Some((&[], cut_slash(cut))),
            Self::CutSlash => Some((&[], cut)),
            Self::Trim => Some((&[], without_trailing_slashes(cut))),
            Self::SplitLast | Self::SplitFirst if text.len() <= width => Some((&[], text)),
            Self::SplitLast => {
                let ends_in_slash = text.ends_with(b"/") && text.len() <= PREFIX_BYTES + 1;
                let most = text.len().min(PREFIX_BYTES + 1) - usize::from(ends_in_slash);
                split(text, text[..most].iter().rposition(|&byte| byte == b'/')?, width)
                    .filter(|(_, name)| !name.is_empty())
            }
            Self::SplitFirst => {
                let least = (text.len() - width - 1).max(1);
                split(text, least + text[least..].iter().position(|&byte| byte == b'/')?, width)
            }
        }
    }
}

fn cut_slash(cut: &[u8]) -> &[u8] {
    if cut.ends_with(b"/") { without_trailing_slashes(cut) } else { cut }
}

fn split(text: &[u8], slash: usize, width: usize) -> Option<(&[u8], &[u8])> {
    let (prefix, name) = (&text[..slash], &text[slash + 1..]);
    ((1..=PREFIX_BYTES).contains(&prefix.len()) && name.len() <= width).then_some((prefix, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins() {
        let go = |path: &str| String::from_utf8(Join::Go((*b"P.0").into()).of(path.as_bytes())).unwrap();
        assert_eq!(go("a/b"), "a/P.0/b");
        assert_eq!(go("./b/"), "b/P.0");
        assert_eq!(go("../b"), "../P.0/b");
        assert_eq!(go("/b"), "/P.0/b");
        let gnu = |path: &str| String::from_utf8(Join::Gnu((*b"P").into()).of(path.as_bytes())).unwrap();
        assert_eq!(gnu("a/b"), "a/P/b");
        assert_eq!(gnu("./a/b/"), "./a/P/b");
        assert_eq!(gnu("b"), "./P/b");
        let bsd =
            |path: &str| String::from_utf8(Join::Libarchive((*b"P").into()).of(path.as_bytes())).unwrap();
        assert_eq!(bsd("a/b"), "a/P/b");
        assert_eq!(bsd("b/"), "P/b");
        assert_eq!(bsd("a/b/."), "a/P/b");
        assert_eq!(bsd("./"), "P/currentdir");
        assert_eq!(bsd("//"), "/P/rootdir");
    }

    #[test]
    fn hostile_names_do_not_panic() {
        for path in ["", "/", "//", ".", "/.", "./", "..", "/././."] {
            for length in [0, 1, 99, 100, 101, 154, 155, 156, 157, 300] {
                let path =
                    [path.as_bytes(), &vec![b'/'; length], path.as_bytes(), &vec![b'a'; length]].concat();
                for join in
                    [Join::Go((*b"x").into()), Join::Gnu((*b"x").into()), Join::Libarchive(Box::default())]
                {
                    for text in [join.of(&path), Join::Libarchive(vec![b'i'; length].into()).of(&path)] {
                        for (place, width) in PLACES.into_iter().flat_map(|place| [(place, 100), (place, 32)])
                        {
                            if let Some((prefix, name)) = place.of(&text, width) {
                                assert!(prefix.len() <= 155 && name.len() <= width);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn transforms() {
        let text = |transform: Transform, text: &[u8]| transform.of(text.into()).into_owned();
        assert_eq!(text(Transform::Ascii, "aß\u{1f600}b".as_bytes()), b"ab");
        assert_eq!(text(Transform::Question, "aß\u{1f600}b".as_bytes()), b"a??b");
        assert_eq!(text(Transform::Question, b"a\xff\xfeb"), b"a??b");
    }
}
