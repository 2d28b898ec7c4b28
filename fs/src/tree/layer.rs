//! What one layer's members make by themselves.

use dimg::index::{Entry, Kind, LayerIndex};
use dimg::limits::MAX_ENTRIES;

use super::path::{Place, WHITEOUT, clean, find_last, resolve};
use super::{Attributes, Body, Directory, Node, NodeId, Tree, TreeError, Why};

const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// One layer as a tree of its own. Its root may be opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub(super) tree: Tree,
}

impl Layer {
    /// The tree of `index`: later members replace earlier ones of the same name, directories merge.
    ///
    /// # Errors
    /// A member that can be no file.
    pub fn new(index: &LayerIndex) -> Result<Self, TreeError> {
        let mut tree = Tree::default();
        tree.nodes.reserve_exact(index.entries.len());
        if let Some(root) = tree.directory_mut(Tree::ROOT) {
            root.implied = true;
        }
        let mut layer = Self { tree };
        for entry in &index.entries {
            layer.add(index, entry).map_err(|why| TreeError::new(&entry.path, why))?;
        }
        Ok(layer)
    }

    fn add(&mut self, index: &LayerIndex, entry: &Entry) -> Result<(), Why> {
        if self.tree.nodes.len() > MAX_ENTRIES {
            return Err(Why::TooMany);
        }
        let kind = index.kind(entry);
        if matches!(kind, Kind::Other(_)) {
            return Ok(());
        }
        let parts = clean(&entry.path)?;
        let Some((&name, parents)) = parts.split_last() else {
            // The root. Only a directory has something to say about it.
            if kind == Kind::Directory {
                self.describe(Tree::ROOT, attributes(index, entry)?);
            }
            return Ok(());
        };
        let place = resolve(&self.tree, parents)?;
        let parent = self.make_parents(&place)?;
        if name == OPAQUE {
            self.parent(parent)?.opaque = true;
            return Ok(());
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.hide(parent, hidden, attributes(index, entry)?);
        }
        match kind {
            Kind::HardLink => self.link(parent, name, &entry.link, attributes(index, entry)?),
            Kind::Directory => self.make_directory(parent, name, attributes(index, entry)?),
            _ => {
                let node = Node { attributes: attributes(index, entry)?, body: body(kind, entry)? };
                let node = self.tree.add(node);
                self.parent(parent)?.entries.insert(name.into(), node);
                Ok(())
            }
        }
    }

    fn parent(&mut self, id: NodeId) -> Result<&mut Directory, Why> {
        self.tree.directory_mut(id).ok_or(Why::NotADirectory)
    }

    /// The directory at `place`, with the ones above it made where they are missing.
    fn make_parents(&mut self, place: &Place) -> Result<NodeId, Why> {
        let mut here = Tree::ROOT;
        for (name, found) in place {
            here = match found.map(|id| (id, &self.tree.node(id).body)) {
                Some((id, Body::Directory(_))) => id,
                Some((_, Body::Whiteout)) => self.in_place_of_hidden(here, name)?,
                Some(_) => return Err(Why::NotADirectory),
                // A missing one may have been made for the same place, on a way that a link led in a circle.
                None => match self.tree.lookup(here, name) {
                    Some(id) => id,
                    None => self.implied(here, name)?,
                },
            };
        }
        Ok(here)
    }

    fn implied(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Why> {
        let mut node = Node::directory(Attributes::of_missing_directory());
        if let Some(directory) = node.as_directory_mut() {
            directory.implied = true;
        }
        let id = self.tree.add(node);
        self.parent(parent)?.entries.insert(name.into(), id);
        Ok(id)
    }

    /// A directory that no member describes, where the one below is hidden with its attributes.
    fn in_place_of_hidden(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Why> {
        let id = self.implied(parent, name)?;
        let directory = self.parent(id)?;
        (directory.opaque, directory.implied) = (true, false);
        Ok(id)
    }

    /// Gives a directory, or a file by one more name of it, the attributes of a member; extended ones of earlier members stay.
    fn describe(&mut self, id: NodeId, attributes: Attributes) {
        let node = self.tree.node_mut(id);
        let before = std::mem::replace(&mut node.attributes, attributes);
        for (name, value) in before.xattrs {
            node.attributes.xattrs.entry(name).or_insert(value);
        }
        if let Some(directory) = node.as_directory_mut() {
            directory.implied = false;
        }
    }

    fn make_directory(&mut self, parent: NodeId, name: &[u8], attributes: Attributes) -> Result<(), Why> {
        let there = self.tree.lookup(parent, name);
        let opaque = match there.map(|id| (id, &self.tree.node(id).body)) {
            Some((id, Body::Directory(_))) => {
                self.describe(id, attributes);
                return Ok(());
            }
            Some((_, Body::Whiteout)) => true,
            _ => false,
        };
        let mut node = Node::directory(attributes);
        if let Some(directory) = node.as_directory_mut() {
            directory.opaque = opaque;
        }
        let node = self.tree.add(node);
        self.parent(parent)?.entries.insert(name.into(), node);
        Ok(())
    }

    /// A whiteout: hides what is below, never a file of this layer.
    fn hide(&mut self, parent: NodeId, name: &[u8], attributes: Attributes) -> Result<(), Why> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(Why::BadWhiteout);
        }
        match self.tree.lookup(parent, name) {
            Some(there) => {
                if let Some(directory) = self.tree.directory_mut(there) {
                    (directory.opaque, directory.implied) = (true, false);
                }
            }
            None => {
                let attributes = Attributes { mode: 0, ..attributes };
                let node = self.tree.add(Node { attributes, body: Body::Whiteout });
                self.parent(parent)?.entries.insert(name.into(), node);
            }
        }
        Ok(())
    }

    /// A second name. The target's last component is taken as it is: a link to a symbolic link is one more name of that.
    /// The last of a file's members gives its attributes, as where containerd unpacks; but extended ones stay that the members of further names
    /// lack (GNU tar writes none for those).
    fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> Result<(), Why> {
        let (place, last, found) = find_last(&self.tree, target)?;
        let node = match found.map(|id| (id, &self.tree.node(id).body)) {
            Some((_, Body::Directory(_))) => return Err(Why::NoLinkTarget),
            // What this layer hides it may still name: links are made before files are taken away.
            Some((_, Body::Whiteout)) | None => {
                let mut path: Vec<&[u8]> = place.iter().map(|(name, _)| &**name).collect();
                path.push(last);
                let body = Body::Below(path.join(&b'/').into());
                self.tree.add(Node { attributes: Attributes::default(), body })
            }
            Some((id, _)) => {
                self.describe(id, attributes);
                id
            }
        };
        self.parent(parent)?.entries.insert(name.into(), node);
        Ok(())
    }
}

fn body(kind: Kind, entry: &Entry) -> Result<Body, Why> {
    Ok(match kind {
        Kind::Regular => Body::Regular(entry.content.filter(|content| content.size > 0)),
        Kind::Symlink => {
            if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
                return Err(Why::BadName);
            }
            Body::Symlink(entry.link.clone())
        }
        Kind::CharDevice => {
            let (major, minor) = device(entry)?;
            Body::CharDevice { major, minor }
        }
        Kind::BlockDevice => {
            let (major, minor) = device(entry)?;
            Body::BlockDevice { major, minor }
        }
        Kind::Fifo => Body::Fifo,
        Kind::Directory => Body::Directory(Directory::default()),
        // Callers handle links and drop others before they come here.
        Kind::HardLink => Body::Below(entry.link.clone()),
        Kind::Other(_) => Body::Whiteout,
    })
}

fn device(entry: &Entry) -> Result<(u32, u32), Why> {
    let number = |value: u64, bits: u32| u32::try_from(value).ok().filter(|value| value >> bits == 0);
    match (number(entry.dev_major, 12), number(entry.dev_minor, 20)) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(Why::BadDevice),
    }
}

fn attributes(index: &LayerIndex, entry: &Entry) -> Result<Attributes, Why> {
    // The highest number means "leave alone" to the system calls.
    let owner = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(Why::BadOwner);
    let xattrs = index.xattrs(entry).map(|(name, value)| (name.into(), value.into())).collect();
    let (uid, gid) = (owner(entry.uid)?, owner(entry.gid)?);
    let (mtime, mtime_nsec) = (entry.mtime, entry.mtime_nsec.min(999_999_999));
    Ok(Attributes { mode: entry.permissions(), uid, gid, mtime, mtime_nsec, xattrs })
}
