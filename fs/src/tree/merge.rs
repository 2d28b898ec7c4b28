//! A layer laid on the layers below it.

use std::collections::HashMap;

use super::path::find_last;
use super::{Attributes, Body, Directory, Layer, Node, NodeId, Tree, TreeError, Why};

impl Layer {
    /// The layer as it lies on `lower`, the merged tree of the layers below: directories that no member describes have
    /// the attributes of the ones below, and links to lower files are those files, copied up under every name that they
    /// keep, so that the names stay links of each other. Whiteouts and opaque directories are kept, but an opaque root
    /// becomes whiteouts of what it hides.
    ///
    /// # Errors
    /// A link to a lower file that is not there.
    pub fn on(&self, lower: &Tree) -> Result<Tree, TreeError> {
        self.clone().laid_on(lower)
    }

    /// As [`Layer::on`].
    pub(super) fn laid_on(self, lower: &Tree) -> Result<Tree, TreeError> {
        let mut tree = self.tree;
        hide_below_root(&mut tree, lower);
        inherit(&mut tree, lower);
        let below: Vec<(Box<[u8]>, NodeId)> =
            tree.walk().filter(|(_, id)| matches!(tree.node(*id).body, Body::Below(_))).collect();
        if below.is_empty() {
            return Ok(tree);
        }
        let names = names_by_node(lower);
        let mut copied: HashMap<NodeId, NodeId> = HashMap::new();
        for (path, placeholder) in below {
            let source = target(&tree, placeholder, lower).map_err(|why| TreeError::new(&path, why))?;
            let copy = match copied.get(&source) {
                Some(copy) => *copy,
                None => {
                    let copy = tree.add(lower.node(source).clone());
                    copied.insert(source, copy);
                    for name in names.get(&source).into_iter().flatten() {
                        copy_up(&mut tree, lower, name, copy);
                    }
                    copy
                }
            };
            rename(&mut tree, &path, copy);
        }
        Ok(tree)
    }
}

impl Tree {
    /// Lays `layer` over this tree.
    ///
    /// # Errors
    /// Those of [`Layer::on`]; the tree is then as it was.
    pub fn apply(&mut self, layer: &Layer) -> Result<(), TreeError> {
        let upper = layer.on(self)?;
        self.cover(&upper);
        Ok(())
    }

    /// Lays `upper`, a layer as [`Layer::on`] made it for this tree, over this tree.
    pub fn cover(&mut self, upper: &Tree) {
        self.cover_with(upper.clone());
    }

    /// As [`Tree::cover`].
    pub(super) fn cover_with(&mut self, mut upper: Tree) {
        let hides = |node: &Node| matches!(node.body, Body::Whiteout | Body::Below(_));
        if self.is_empty() && !upper.nodes.iter().any(hides) {
            for directory in upper.nodes.iter_mut().filter_map(Node::as_directory_mut) {
                (directory.opaque, directory.implied) = (false, false);
            }
            *self = upper;
            return;
        }
        // By the number in `upper`: what was moved here, and what it is here.
        let mut moved: Vec<Option<NodeId>> = vec![None; upper.numbered()];
        // Directories of `upper` with the directory here that they lie over or become.
        let mut pending = vec![(Self::ROOT, Self::ROOT)];
        while let Some((from, to)) = pending.pop() {
            let node = upper.node_mut(from);
            self.node_mut(to).attributes = std::mem::take(&mut node.attributes);
            let Some(directory) = node.as_directory_mut().map(std::mem::take) else { continue };
            if directory.opaque
                && let Some(here) = self.directory_mut(to)
            {
                here.entries.clear();
            }
            for (name, id) in directory.entries {
                let covered = self.lookup(to, &name).filter(|id| self.node(*id).as_directory().is_some());
                let entry = match (moved[id.index()], &upper.node(id).body, covered) {
                    (Some(new), ..) => Some(new),
                    (None, Body::Whiteout | Body::Below(_), _) => None,
                    (None, Body::Directory(_), Some(covered)) => {
                        pending.push((id, covered));
                        continue;
                    }
                    (None, Body::Directory(_), None) => {
                        let new = self.add(Node::directory(Attributes::default()));
                        pending.push((id, new));
                        Some(new)
                    }
                    (None, ..) => {
                        let gone = Node { attributes: Attributes::default(), body: Body::Whiteout };
                        let new = self.add(std::mem::replace(upper.node_mut(id), gone));
                        moved[id.index()] = Some(new);
                        Some(new)
                    }
                };
                let Some(here) = self.directory_mut(to) else { continue };
                match entry {
                    Some(entry) => here.entries.insert(name, entry),
                    None => here.entries.remove(&name),
                };
            }
        }
    }
}

/// Turns an opaque root into what an overlay mount can show: the roots of its layers always merge, so each lower entry is
/// hidden by itself.
fn hide_below_root(tree: &mut Tree, lower: &Tree) {
    match tree.directory_mut(Tree::ROOT) {
        Some(root) if root.opaque => root.opaque = false,
        _ => return,
    }
    let names = lower.node(Tree::ROOT).as_directory().into_iter().flat_map(|root| root.entries.keys());
    for name in names {
        match tree.lookup(Tree::ROOT, name) {
            Some(id) => {
                if let Some(directory) = tree.directory_mut(id) {
                    directory.opaque = true;
                }
            }
            None => {
                let id = tree.add(Node { attributes: Attributes::default(), body: Body::Whiteout });
                if let Some(root) = tree.directory_mut(Tree::ROOT) {
                    root.entries.insert(name.clone(), id);
                }
            }
        }
    }
}

/// Gives directories that no member describes the attributes that the layers below give to their paths, links followed:
/// a directory that takes the place of a link to one looks like that one.
fn inherit(tree: &mut Tree, lower: &Tree) {
    let mut pending = vec![(Tree::ROOT, Vec::new(), true)];
    while let Some((id, path, visible)) = pending.pop() {
        let Some(directory) = tree.node(id).as_directory() else { continue };
        let (mut visible, opaque) = (visible, directory.opaque);
        let mut inherited = None;
        if directory.implied && visible {
            let below = lower.find(&path).map(|below| lower.node(below));
            inherited = below.filter(|below| below.as_directory().is_some());
            // Where there is no directory there are none further down.
            visible = inherited.is_some();
        }
        for (name, &entry) in &directory.entries {
            if tree.node(entry).as_directory().is_some() {
                // An opaque directory hides what is in the one below, not that one's attributes.
                pending.push((entry, [&path, &b"/"[..], name].concat(), visible && !opaque));
            }
        }
        if let Some(below) = inherited {
            tree.node_mut(id).attributes = below.attributes.clone();
        }
    }
}

/// The lower node that a placeholder stands for.
fn target(tree: &Tree, placeholder: NodeId, lower: &Tree) -> Result<NodeId, Why> {
    let Body::Below(path) = &tree.node(placeholder).body else { return Err(Why::NoLinkTarget) };
    let (_, _, found) = find_last(lower, path)?;
    found.filter(|id| lower.node(*id).as_directory().is_none()).ok_or(Why::NoLinkTarget)
}

fn names_by_node(tree: &Tree) -> HashMap<NodeId, Vec<Box<[u8]>>> {
    let mut names: HashMap<NodeId, Vec<Box<[u8]>>> = HashMap::new();
    for (path, id) in tree.walk() {
        if tree.node(id).as_directory().is_none() {
            names.entry(id).or_default().push(path);
        }
    }
    names
}

/// Puts `copy` of a lower file into the layer under the name that it has below, unless the layer hides or replaces that.
fn copy_up(tree: &mut Tree, lower: &Tree, path: &[u8], copy: NodeId) {
    let Some((parents, name)) = split(path) else { return };
    // First without a change: is the name still visible?
    let (mut here, mut below) = (Some(Tree::ROOT), Tree::ROOT);
    for part in &parents {
        if let Some(id) = here {
            if tree.node(id).as_directory().is_none_or(|directory| directory.opaque) {
                return;
            }
            here = tree.lookup(id, part);
        }
        let Some(next) = lower.lookup(below, part) else { return };
        below = next;
    }
    let hides = |directory: &Directory| directory.opaque || directory.entries.contains_key(name);
    if here.is_some_and(|id| tree.node(id).as_directory().is_none_or(hides)) {
        return;
    }
    let (mut here, mut below) = (Tree::ROOT, Tree::ROOT);
    for part in &parents {
        let Some(next) = lower.lookup(below, part) else { return };
        below = next;
        here = match tree.lookup(here, part) {
            Some(id) => id,
            None => {
                let id = tree.add(Node::directory(lower.node(below).attributes.clone()));
                insert(tree, here, part, id);
                id
            }
        };
    }
    insert(tree, here, name, copy);
}

/// Makes the existing name `path` of the layer, as [`Tree::walk`] gave it, one of `copy`.
fn rename(tree: &mut Tree, path: &[u8], copy: NodeId) {
    let Some((parents, name)) = split(path) else { return };
    let mut here = Tree::ROOT;
    for part in parents {
        let Some(next) = tree.lookup(here, part) else { return };
        here = next;
    }
    insert(tree, here, name, copy);
}

fn insert(tree: &mut Tree, directory: NodeId, name: &[u8], node: NodeId) {
    if let Some(directory) = tree.directory_mut(directory) {
        directory.entries.insert(name.into(), node);
    }
}

fn split(path: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = parts.pop()?;
    Some((parts, name))
}
