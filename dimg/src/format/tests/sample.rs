//! Small files of every kind of frame and recipe.

use super::super::*;
use crate::Digest;
use crate::engine::bsdiff;
use crate::engine::compress::Level;
use crate::engine::frame::{BsdiffFrame, ProgramFrame, StoredFrame};
use crate::engine::matcher::{MatchOptions, diff};
use crate::index::edit::testing::{content, content_bytes, layer_of};
use crate::index::edit::{LayerEdit, Place};
use crate::index::{Content, Edit, Entry, Kind, LayerIndex, Shape, Tail, layer_id};
use std::sync::Arc;

/// Two images.
pub(in crate::format) struct Sample {
    pub(in crate::format) parent: Vec<Arc<LayerIndex>>,
    pub(in crate::format) target: Vec<Arc<LayerIndex>>,
}

fn diff_id(layer: &LayerIndex) -> Digest {
    // Any name will do where no tar is made.
    Digest::of(&layer_id(layer).0)
}

/// The bytes of a content of [`content`]; the bytes of one are as many as its number.
fn bytes_of(content: Content) -> Vec<u8> {
    content_bytes(u8::try_from(content.size).unwrap())
}

impl Sample {
    pub(in crate::format) fn edit(&self) -> Edit {
        Edit::between(&self.parent, &self.target).unwrap()
    }

    pub(in crate::format) fn meta(&self) -> Meta {
        let edit = self.edit();
        let layers = self.target.iter().zip(&edit.layers).map(|(layer, edit)| TargetLayer {
            diff_id: diff_id(layer),
            entries: layer.entries.len() as u64,
            tar_bytes: 1024,
            source: match edit {
                LayerEdit::Same(same) => LayerSource::Parent(*same),
                LayerEdit::Edited(_) => LayerSource::Made { id: LayerCheck::of(layer) },
            },
        });
        let config = self.config_of(self.target.iter().map(|layer| diff_id(layer)));
        let target = Target {
            manifest: Digest::of(&self.manifest_of(&config)),
            config: Digest::of(&config),
            name: "example.org/sample:2".to_owned(),
            contents: distinct_contents(&self.target),
            layers: layers.collect(),
        };
        let parent = Parent {
            manifest: Digest::of(b"parent"),
            layers: self.parent.iter().map(|layer| diff_id(layer)).collect(),
        };
        Meta { target, parent: Some(parent).filter(|_| !self.parent.is_empty()) }
    }

    fn config_of(&self, diff_ids: impl Iterator<Item = Digest>) -> Vec<u8> {
        let diff_ids: Vec<String> = diff_ids.map(|id| id.to_string()).collect();
        serde_json::to_vec(&serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }))
            .unwrap()
    }

    fn manifest_of(&self, config: &[u8]) -> Vec<u8> {
        let digest = Digest::of(config).to_string();
        serde_json::to_vec(&serde_json::json!({ "config": { "digest": digest } })).unwrap()
    }

    /// Manifest and config.
    pub(in crate::format) fn documents(&self) -> (Vec<u8>, Vec<u8>) {
        let config = self.config_of(self.target.iter().map(|layer| diff_id(layer)));
        (self.manifest_of(&config), config)
    }

    /// Frames of every kind, and the recipes that use them.
    pub(in crate::format) fn frames(&self, edit: &Edit) -> (DimgWriter, Vec<RecipeRow>) {
        let mut writer = DimgWriter::new(&std::env::temp_dir()).unwrap();
        let content_of =
            |place: Place| self.parent[place.layer as usize].entries[place.entry as usize].content;
        let (mut stored, mut programs, mut recipes) = (Vec::new(), Vec::new(), Vec::new());
        // Groups are the first two frames, so that their numbers are known; they hold what is found to be in them.
        for (number, (&content, origin)) in edit.new_contents.iter().zip(edit.origins()).enumerate() {
            let new = bytes_of(content);
            let base = origin.filter(|&place| content_of(place).is_some());
            let old = base.and_then(content_of).map(bytes_of);
            let stage = |codec, frame| StageRow {
                codec,
                version: codec.version(),
                frame,
                slot: 0,
                out_bytes: content.size,
            };
            match old {
                Some(old) if number % 3 == 0 => {
                    programs.push(diff(&old, &new, &MatchOptions::default()));
                    recipes.push(RecipeRow { base, stages: vec![stage(StageCodec::Program, u32::MAX)] });
                }
                Some(old) if number % 3 == 1 => {
                    let patch = bsdiff::diff(&old, &new).unwrap();
                    let frame = BsdiffFrame::encode(&patch, Level::Fast).unwrap();
                    let frame = writer.frame(FrameKind::Bsdiff, &frame).unwrap();
                    recipes.push(RecipeRow { base, stages: vec![stage(StageCodec::Bsdiff, frame)] });
                }
                Some(old) => {
                    // Two stages: something between, then the content.
                    let middle = [&old[..], b"middle"].concat();
                    let stages = [(&old, &middle), (&middle, &new)].map(|(old, new)| {
                        let program = diff(old, new, &MatchOptions::default());
                        let frame = ProgramFrame::encode(&[&program], Level::Fast).unwrap();
                        let frame = writer.frame(FrameKind::Program, &frame).unwrap();
                        let codec = StageCodec::Program;
                        let (version, out_bytes) = (codec.version(), new.len() as u64);
                        StageRow { codec, version, frame, slot: 0, out_bytes }
                    });
                    recipes.push(RecipeRow { base, stages: stages.to_vec() });
                }
                None if number % 2 == 0 => {
                    stored.push(new);
                    recipes.push(RecipeRow { base: None, stages: vec![stage(StageCodec::Stored, u32::MAX)] });
                }
                None => {
                    let frame = StoredFrame::encode(&[&new], Level::Fast).unwrap();
                    let frame = writer.frame(FrameKind::Chunk, &frame).unwrap();
                    recipes.push(RecipeRow { base: None, stages: vec![stage(StageCodec::Stored, frame)] });
                }
            }
        }
        let mut place = |codec: StageCodec, kind: FrameKind, bytes: Vec<u8>| {
            let frame = writer.frame(kind, &bytes).unwrap();
            let stages = recipes.iter_mut().flat_map(|recipe| &mut recipe.stages);
            stages
                .filter(|stage| stage.frame == u32::MAX && stage.codec == codec)
                .for_each(|stage| stage.frame = frame);
        };
        if !stored.is_empty() {
            let parts: Vec<&[u8]> = stored.iter().map(Vec::as_slice).collect();
            place(
                StageCodec::Stored,
                FrameKind::StoredGroup,
                StoredFrame::encode(&parts, Level::Fast).unwrap(),
            );
        }
        if !programs.is_empty() {
            let parts: Vec<_> = programs.iter().collect();
            place(
                StageCodec::Program,
                FrameKind::ProgramGroup,
                ProgramFrame::encode(&parts, Level::Fast).unwrap(),
            );
        }
        writer.number_slots(&mut recipes);
        (writer, recipes)
    }

    fn assembled(&self) -> Assembled {
        let edit = self.edit();
        let (writer, recipes) = self.frames(&edit);
        writer.finish(&self.meta(), &edit, &recipes, Level::Default).unwrap()
    }

    pub(in crate::format) fn dimg(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.assembled().write_to(&mut out).unwrap();
        out
    }

    pub(in crate::format) fn cdimg(&self) -> Vec<u8> {
        let (manifest, config) = self.documents();
        let mut out = Vec::new();
        write_cdimg(&manifest, &config, &mut self.assembled(), Level::Default, &mut out).unwrap();
        out
    }
}

fn file(path: &str, number: u8, mtime: i64) -> (Shape, Entry) {
    let shape = Shape {
        kind: Kind::Regular,
        raw: false,
        sparse: false,
        pax_keys: vec![b"SCHILY.xattr.user.note"[..].into()],
        style: b"\x01\x02"[..].into(),
    };
    let entry = Entry {
        shape: 0,
        path: path.as_bytes().into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        uname: b"root"[..].into(),
        gname: b"root"[..].into(),
        mtime,
        mtime_nsec: 0,
        dev_major: 0,
        dev_minor: 0,
        link: Box::default(),
        pax: [b"n"[..].into()].into(),
        content: Some(content(number)),
        bare_size: 0,
        sparse: Box::default(),
        raw: Box::default(),
    };
    (shape, entry)
}

fn link(path: &[u8], target: &str) -> (Shape, Entry) {
    let (shape, entry) = file("", 0, 7);
    let shape = Shape { kind: Kind::Symlink, pax_keys: Vec::new(), ..shape };
    let entry = Entry {
        path: path.into(),
        link: target.as_bytes().into(),
        mtime_nsec: 5,
        pax: Box::default(),
        content: None,
        ..entry
    };
    (shape, entry)
}

/// Two layers, the lower one unchanged, the upper one with changed, moved, new and gone entries.
pub(in crate::format) fn original() -> Sample {
    let tail = || Tail { zero_bytes: 1024, rest: Box::default() };
    let low = layer_of(vec![file("etc/a", 10, 1), file("etc/b", 20, 1), link(b"etc/l", "a")], tail());
    let upper = vec![
        file("usr/a", 100, 2),
        file("usr/b", 110, 2),
        file("usr/c", 120, 2),
        file("usr/d", 130, 2),
        file("usr/gone", 140, 2),
        link(b"usr/l", "d"),
    ];
    let new = vec![
        file("usr/a", 101, 3),
        file("usr/b", 111, 3),
        file("usr/c", 122, 3),
        file("usr/d", 133, 2),
        link(b"usr/l", "c"),
        file("usr/moved", 10, 1),
        file("usr/new1", 200, 3),
        file("usr/new2", 201, 3),
        file("usr/new3", 202, 3),
        link(b"usr/\xff \\", "\n"),
    ];
    Sample {
        parent: vec![Arc::clone(&low), layer_of(upper, tail())],
        target: vec![low, layer_of(new, Tail { zero_bytes: 1024, rest: b"x"[..].into() })],
    }
}
