//! Layers as file trees, and trees laid over each other.
//!
//! A [`Layer`] is what a layer's members make by themselves: files, whiteouts, opaque directories, links to files of
//! lower layers. Laid on the [`Tree`] of the layers below it becomes one overlay layer ([`Layer::on`]), and that tree
//! grows by it ([`Tree::apply`]): what an overlay mount of the unpacked layers shows, the merged tree holds.
//!
//! The meaning of a member follows containerd's applier on overlayfs: symbolic links on a member's path are followed
//! within its own layer only and never out of the root; a directory that a layer needs but does not describe takes the
//! attributes that the layers below give it. Where that applier depends on the order of members (a whiteout beside a
//! file of its own layer) the image specification decides: a whiteout hides lower layers, never its own.

mod error;
mod layer;
mod merge;
mod node;
mod path;

use std::collections::HashSet;
use std::sync::Arc;

use dimg::index::{Content, LayerIndex};

pub use error::{TreeError, Why};
pub use layer::Layer;
pub use node::{Attributes, Body, Directory, Node, NodeId};

/// A file tree. Node 0 is its root, a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    /// An empty root, 0755 and root's.
    fn default() -> Self {
        Self { nodes: vec![Node::directory(Attributes::of_missing_directory())] }
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// The tree that `layers` make, the lowest first.
    ///
    /// # Errors
    /// A member that makes no file, or refers to one that is not there.
    pub fn merge(layers: &[Arc<LayerIndex>]) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        for index in layers {
            let upper = Layer::new(index)?.laid_on(&tree)?;
            tree.cover_with(upper);
        }
        Ok(tree)
    }

    /// Whether there is nothing but the root.
    fn is_empty(&self) -> bool {
        self.node(Self::ROOT).as_directory().is_none_or(|root| root.entries.is_empty())
    }

    /// How many nodes have numbers: those that no name leads to any more, too.
    pub(crate) fn numbered(&self) -> usize {
        self.nodes.len()
    }

    /// How many names [`Tree::walk`] gives.
    pub fn names(&self) -> usize {
        let (mut walk, mut names) = (self.walk(), 0);
        while walk.step().is_some() {
            names += 1;
        }
        names
    }

    /// The node by this number.
    ///
    /// # Panics
    /// The number is of another tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The entry `name` of `directory`; `None` where there is none, or where that is no directory.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(directory).as_directory()?.entries.get(name).copied()
    }

    /// What `path` names, its symbolic links followed within the tree, a last one included.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let parts: Vec<_> = path.split(|byte| *byte == b'/').collect();
        match path::resolve(self, &parts).ok()?.last() {
            None => Some(Self::ROOT),
            Some((_, found)) => *found,
        }
    }

    /// Every name of the tree but the root's: its path without a leading slash, and its node. A directory comes before
    /// its entries, entries in the order of their names.
    pub fn walk(&self) -> Walk<'_> {
        Walk { tree: self, path: Vec::new(), stack: vec![self.level(Self::ROOT, 0)] }
    }

    /// Every content once, in the order of [`Tree::walk`].
    pub fn contents(&self) -> Vec<Content> {
        let mut seen = HashSet::new();
        let mut contents = Vec::new();
        let mut walk = self.walk();
        while let Some((_, id)) = walk.step() {
            if let Body::Regular(Some(content)) = self.node(id).body
                && seen.insert(content.digest)
            {
                contents.push(content);
            }
        }
        contents
    }

    fn level(&self, directory: NodeId, path_bytes: usize) -> Level<'_> {
        let entries = self.node(directory).as_directory().map(|directory| directory.entries.iter());
        Level { path_bytes, entries: entries.unwrap_or_default() }
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id =
            u32::try_from(self.nodes.len()).expect("a layer has fewer members than 2^24, each of few nodes");
        self.nodes.push(node);
        NodeId(id)
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        self.node_mut(id).as_directory_mut()
    }
}

/// One directory on the way down.
#[derive(Debug)]
struct Level<'a> {
    /// Bytes of the path that are the directory's own.
    path_bytes: usize,
    entries: std::collections::btree_map::Iter<'a, Box<[u8]>, NodeId>,
}

/// See [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    path: Vec<u8>,
    stack: Vec<Level<'a>>,
}

impl Walk<'_> {
    /// As [`Iterator::next`], the path borrowed.
    pub fn step(&mut self) -> Option<(&[u8], NodeId)> {
        loop {
            let level = self.stack.last_mut()?;
            let Some((name, &id)) = level.entries.next() else {
                self.stack.pop();
                continue;
            };
            self.path.truncate(level.path_bytes);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            if self.tree.node(id).as_directory().is_some() {
                let below = self.tree.level(id, self.path.len());
                self.stack.push(below);
            }
            return Some((&self.path, id));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Box<[u8]>, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        self.step().map(|(path, id)| (path.into(), id))
    }
}

#[cfg(test)]
mod tests;
