//! Two small images, the second an update of the first, made of real tars.

use d4c_image::tar::{ParseOptions, ParsedLayer, parse};
use dimg::Digest;
use dimg::build::{BuildOptions, Codec, Side, SideLayer, build};
use dimg::content::{Bytes, ContentSource};
use dimg::engine::compress::Level;
use dimg::format::write_cdimg;
use dimg::index::{Content, LayerIndex};
use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tar::{Builder, EntryType, Header};

/// How tars are parsed here: no threads, small holes.
pub const SMALL: ParseOptions =
    ParseOptions { threads: NonZeroUsize::MIN, diff_id: true, max_hole_bytes: 1 << 20 };

/// An image in memory.
pub struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<SideLayer>,
    contents: Contents,
}

struct Contents(HashMap<Digest, Vec<u8>>);

impl ContentSource for Contents {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok(self.0.get(&content.digest).map(|bytes| bytes.clone().into()))
    }
}

/// The bytes of a content of a parsed tar.
pub fn content_of(tar: &[u8], layer: &ParsedLayer, digest: &Digest) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let content = layer.content(tar, digest).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    content.reader().read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Image {
    /// An image with these tars as its layers.
    fn new(tars: &[Vec<u8>]) -> Self {
        let (mut layers, mut contents) = (Vec::new(), HashMap::new());
        for tar in tars {
            let parsed = parse(tar, &SMALL).expect("the tar was made here");
            for place in parsed.places() {
                let digest = place.content.digest;
                contents.insert(digest, content_of(tar, &parsed, &digest).expect("the tar has its contents"));
            }
            let diff_id = parsed.diff_id.expect("it was asked for");
            layers.push(SideLayer { diff_id, tar_bytes: tar.len() as u64, index: Arc::new(parsed.index) });
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } })
            .to_string()
            .into_bytes();
        let digest = Digest::of(&config).to_string();
        let manifest = serde_json::json!({ "config": { "digest": digest } }).to_string().into_bytes();
        Self { manifest, config, layers, contents: Contents(contents) }
    }

    /// The first image: the parent of deltas.
    pub fn old() -> Self {
        Self::new(&[layer(0, 3), layer(1, 6)])
    }

    /// The second: its lowest layer is the first's.
    pub fn new_one() -> Self {
        Self::new(&[layer(0, 3), layer(2, 8)])
    }

    /// The layers' indexes.
    pub fn indexes(&self) -> Vec<Arc<LayerIndex>> {
        self.layers.iter().map(|layer| Arc::clone(&layer.index)).collect()
    }

    /// The bytes of a content.
    pub fn content(&self, content: &Content) -> Option<&[u8]> {
        self.contents.0.get(&content.digest).map(Vec::as_slice)
    }

    fn side(&self) -> Side<'_> {
        let (manifest, config) = (Digest::of(&self.manifest), Digest::of(&self.config));
        Side { manifest, config, layers: &self.layers, contents: &self.contents }
    }

    /// The delta that makes this image from `parent`, or from nothing: the dimg and the cdimg.
    pub fn delta(&self, parent: Option<&Self>, codec: Codec) -> (Vec<u8>, Vec<u8>) {
        let options = BuildOptions {
            level: Level::Fast,
            codec,
            threads: NonZeroUsize::MIN,
            memory_bytes: 64 << 20,
            name: "fuzz:2".to_owned(),
            dir: std::env::temp_dir(),
        };
        let parent = parent.map(Self::side);
        let mut built =
            build(parent.as_ref(), &self.side(), &options, &mut ()).expect("the images were made here");
        let (mut dimg, mut cdimg) = (Vec::new(), Vec::new());
        built.write_to(&mut dimg).expect("memory takes it");
        write_cdimg(&self.manifest, &self.config, &mut built, Level::Fast, &mut cdimg)
            .expect("memory takes it");
        (dimg, cdimg)
    }
}

/// Text that differs a little from one version to the next.
pub fn text(number: u8, version: u8) -> Vec<u8> {
    let lines = (0..40 + u32::from(number) * 8).map(|line| {
        let word = if line % 11 == u32::from(version) { "changed" } else { "same" };
        format!("{line} {word} of file {number}\n")
    });
    lines.collect::<String>().into_bytes()
}

/// A layer: directories, files of both headers, a link, an attribute, a whiteout.
fn layer(version: u8, files: u8) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, link: &str, data: &[u8]| {
        let mut header = if path.contains("gnu") { Header::new_gnu() } else { Header::new_ustar() };
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000 + u64::from(version));
        header.set_size(data.len() as u64);
        if path.contains("attr") {
            builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"b"[..])]).expect("memory takes it");
        }
        let added = match link {
            "" => builder.append_data(&mut header, path, data),
            link => builder.append_link(&mut header, path, link),
        };
        added.expect("memory takes it");
    };
    add(EntryType::Directory, "usr/", "", &[]);
    for number in 0..files {
        let kind = ["plain", "gnu", "attr"][usize::from(number % 3)];
        add(EntryType::Regular, &format!("usr/{kind}{number}"), "", &text(number, version));
    }
    add(EntryType::Symlink, "usr/link", "plain0", &[]);
    add(EntryType::Link, "usr/hard", "usr/plain0", &[]);
    add(EntryType::Regular, "usr/.wh.gone", "", &[]);
    builder.into_inner().expect("memory takes it")
}
