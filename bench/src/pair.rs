//! Two files, or two images, and what changed between them.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use d4c_image::layers::ReadLayers;
use d4c_image::source::{Options, Source};
use d4c_sys::Map;
use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::{Bytes, ContentSource, open_exact};
use dimg::index::{Content, Kind, LayerIndex};

/// Two images; a file alone is an image of one layer.
pub struct Pair {
    pub name: String,
    pub old: Image,
    pub new: Image,
    /// Each changed or new file, and what was at its path.
    pub files: Vec<(Option<Bytes>, Bytes)>,
}

/// One of them.
pub struct Image {
    pub layers: Vec<SideLayer>,
    pub contents: Vec<Arc<dyn ContentSource>>,
}

impl Pair {
    /// Opens both and finds what changed.
    pub fn open(old: &str, new: &str) -> Result<Self> {
        let name = format!("{} → {}", short(old), short(new));
        let (old, new) = (Image::open(old)?, Image::open(new)?);
        let (before, after) = (old.files(), new.files());
        let mut paths: Vec<_> = after.keys().collect();
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let content = &after[path];
            let was = before.get(path);
            if was.is_some_and(|was| was.digest == content.digest) {
                continue;
            }
            let was = was.map(|was| open_exact(&old.contents, was)).transpose()?;
            files.push((was, open_exact(&new.contents, content)?));
        }
        Ok(Self { name, old, new, files })
    }

    /// Bytes of all changed files.
    pub fn changed_bytes(&self) -> u64 {
        self.files.iter().map(|(_, new)| new.len() as u64).sum()
    }
}

fn short(source: &str) -> &str {
    source.rsplit('/').next().unwrap_or(source)
}

impl Image {
    fn open(text: &str) -> Result<Self> {
        if Path::new(text).is_file() {
            return Self::of_file(Path::new(text));
        }
        let open = Source::parse(text)?.open(&Options::default())?;
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let read = ReadLayers::default().read(&[&open], threads, &std::env::temp_dir(), &|| ())?.concat();
        Ok(Self {
            layers: read.iter().map(|read| read.layer.clone()).collect(),
            contents: read.into_iter().map(|read| read as Arc<dyn ContentSource>).collect(),
        })
    }

    /// An image that has this file alone, at a path that is the same for all.
    fn of_file(path: &Path) -> Result<Self> {
        let map = Map::path(path).with_context(|| format!("read file: {}", path.display()))?;
        let digest = Digest::of(&map);
        let content = Content { digest, size: map.len() as u64 };
        let index = LayerIndex::of_file(b"file", content);
        Ok(Self {
            layers: vec![SideLayer { diff_id: digest, tar_bytes: content.size, index: Arc::new(index) }],
            contents: vec![Arc::new(Single { content, bytes: Bytes::new(map) })],
        })
    }

    /// Regular files by path, the topmost layer's of each.
    fn files(&self) -> HashMap<&[u8], Content> {
        let mut files = HashMap::new();
        for layer in &self.layers {
            for entry in &layer.index.entries {
                if let (Kind::Regular, Some(content)) = (layer.index.kind(entry), entry.content)
                    && content.size > 0
                {
                    files.insert(&*entry.path, content);
                }
            }
        }
        files
    }
}

struct Single {
    content: Content,
    bytes: Bytes,
}

impl ContentSource for Single {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok((*content == self.content).then(|| self.bytes.clone()))
    }
}

/// The file's bytes where a program can open them.
pub fn write_all(pair: &Pair, dir: &Path) -> Result<()> {
    for (number, (old, new)) in pair.files.iter().enumerate() {
        if let Some(old) = old {
            std::fs::write(dir.join(format!("{number}.old")), old)?;
        }
        std::fs::write(dir.join(format!("{number}.new")), new)?;
    }
    Ok(())
}
