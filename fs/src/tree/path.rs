//! Paths as a layer writes them.
//!
//! The meaning is that of containerd's applier: a member's name is cleaned as text first (`a/../b` is `b`, `..` at the
//! root is the root), then its parent is looked up within the tree, symbolic links followed but never out of the root;
//! the last component is taken as it is.

use super::{Body, NodeId, Tree, Why};

/// Linux's bound of a name's bytes.
const NAME_MAX: usize = 255;
/// Linux's bound of a path's bytes, the closing NUL not counted.
const PATH_MAX: usize = 4095;
/// Links that may be followed on the way to one file.
const MAX_LINKS_FOLLOWED: usize = 255;

/// What the name of a whiteout has before the one that it hides, which may be as long as any.
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// The components of a member's name, cleaned; none for the root.
pub(super) fn clean(name: &[u8]) -> Result<Vec<&[u8]>, Why> {
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part if part.contains(&0) => return Err(Why::BadName),
            part if part.strip_prefix(WHITEOUT).unwrap_or(part).len() > NAME_MAX => return Err(Why::BadName),
            part => parts.push(part),
        }
    }
    let bytes = parts.iter().map(|part| part.len() + 1).sum::<usize>();
    if bytes > PATH_MAX { Err(Why::BadName) } else { Ok(parts) }
}

/// A place in a tree: the names that lead there from the root, each with its node if it is there.
pub(super) type Place = Vec<(Box<[u8]>, Option<NodeId>)>;

/// Looks up `parts` within `tree`, following every symbolic link, also a last one. What is not there is taken by name.
pub(super) fn resolve(tree: &Tree, parts: &[&[u8]]) -> Result<Place, Why> {
    let mut place = Place::new();
    let mut ahead: Vec<Box<[u8]>> = parts.iter().rev().map(|part| (*part).into()).collect();
    // By way of links a member may be deeper than its name says.
    let (mut followed, mut bytes) = (0, 0);
    while let Some(part) = ahead.pop() {
        match &*part {
            b"" | b"." => continue,
            b".." => {
                bytes -= place.pop().map_or(0, |(name, _)| name.len() + 1);
                continue;
            }
            _ => {}
        }
        let here = place.last().map_or(Some(Tree::ROOT), |(_, node)| *node);
        let found = here.and_then(|here| tree.lookup(here, &part));
        let Some(Body::Symlink(target)) = found.map(|found| &tree.node(found).body) else {
            bytes += part.len() + 1;
            if part.len() > NAME_MAX || bytes > PATH_MAX {
                return Err(Why::BadName);
            }
            place.push((part, found));
            continue;
        };
        followed += 1;
        if followed > MAX_LINKS_FOLLOWED {
            return Err(Why::TooManyLinks);
        }
        if target.starts_with(b"/") {
            place.clear();
            bytes = 0;
        }
        ahead.extend(target.split(|byte| *byte == b'/').rev().map(Box::from));
        if ahead.len() > PATH_MAX * 16 {
            return Err(Why::TooManyLinks);
        }
    }
    Ok(place)
}

/// What `path` names, links of its directories followed but not a last one: its directory's place, its name, and its node if it is there.
///
/// # Errors
/// `path` is the root's, or can be no file's.
pub(super) fn find_last<'a>(tree: &Tree, path: &'a [u8]) -> Result<(Place, &'a [u8], Option<NodeId>), Why> {
    let parts = clean(path)?;
    let (last, parents) = parts.split_last().ok_or(Why::NoLinkTarget)?;
    let place = resolve(tree, parents)?;
    let directory = place.last().map_or(Some(Tree::ROOT), |(_, id)| *id);
    let found = directory.and_then(|directory| tree.lookup(directory, last));
    Ok((place, last, found))
}
