//! Reading a dimg: header, table and META at once, the rest when it is asked for.

use super::header::{Header, Section, check8, check16};
use super::make::Groups;
use super::tables::{check_uses, decode_frames, decode_recipes};
use super::{
    DimgError, FrameKind, FrameRow, Image, LayerSource, Meta, Parent, Recipe, RecipeRow, Stage, Target, blob,
};
use crate::Digest;
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::compress::Codec;
use crate::index::edit::content_at;
use crate::index::{Content, Edit, LayerIndex, layer_id};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A dimg. Its bytes are a mapped file or a vector; nothing is copied from them before it is needed.
pub struct Dimg {
    bytes: Bytes,
    /// Where the dimg starts in its file; for offsets in errors.
    start: u64,
    header: Header,
    meta: Meta,
    edit: OnceLock<Edit>,
    tables: OnceLock<Tables>,
    pub(super) groups: Groups,
}

#[derive(Debug)]
struct Tables {
    recipes: Vec<RecipeRow>,
    frames: Vec<FrameRow>,
}

impl fmt::Debug for Dimg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dimg").field("start", &self.start).field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// A section as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionInfo {
    /// Its name.
    pub name: &'static str,
    /// From the start of the dimg.
    pub offset: u64,
    /// Its bytes in the file.
    pub stored_bytes: u64,
    /// Bytes of what it decodes to; zero for DATA.
    pub raw_bytes: u64,
    /// How it is compressed.
    pub codec: &'static str,
}

impl Dimg {
    /// Opens the dimg that `bytes` are.
    ///
    /// # Errors
    /// Header, table or META are not what the format allows.
    pub fn open(bytes: Bytes) -> Result<Self, DimgError> {
        Self::open_at(bytes, 0)
    }

    /// As [`Dimg::open`], of a dimg that starts at `start` of its file; `bytes` are those of the dimg.
    pub(super) fn open_at(bytes: Bytes, start: u64) -> Result<Self, DimgError> {
        let header = Header::parse(&bytes, start)?;
        let meta_bytes = section(&bytes, start, &header, Section::Meta)?;
        let exact = header.rows[Section::Meta as usize].codec == Codec::Raw;
        let offset = start + header.rows[Section::Meta as usize].offset;
        let meta = Meta::decode(&meta_bytes, header.has_parent)
            .map_err(|error| DimgError::wire(Section::Meta.name(), offset, exact, &error))?;
        Ok(Self {
            bytes,
            start,
            header,
            meta,
            edit: OnceLock::new(),
            tables: OnceLock::new(),
            groups: Groups::default(),
        })
    }

    /// The image that the file makes.
    pub fn target(&self) -> &Target {
        &self.meta.target
    }

    /// The image that a delta starts from; none for a base image.
    pub fn parent(&self) -> Option<&Parent> {
        self.meta.parent.as_ref()
    }

    /// Target and parent as the file names them.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its bytes in all.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// Bytes of the frames; the rest is metadata.
    pub fn data_bytes(&self) -> u64 {
        self.header.rows[Section::Data as usize].stored_bytes
    }

    /// The sections, in order.
    pub fn sections(&self) -> impl Iterator<Item = SectionInfo> {
        Section::ALL.into_iter().zip(&self.header.rows).map(|(section, row)| SectionInfo {
            name: section.name(),
            offset: row.offset,
            stored_bytes: row.stored_bytes,
            raw_bytes: row.raw_bytes,
            codec: row.codec.name(),
        })
    }

    /// What a reader of a section needs for its errors: where it lies, and whether offsets in it are offsets in the file.
    fn place(&self, section: Section) -> (u64, bool) {
        let row = &self.header.rows[section as usize];
        (self.start + row.offset, row.codec == Codec::Raw)
    }

    fn section(&self, section: Section) -> Result<Cow<'_, [u8]>, DimgError> {
        self::section(&self.bytes, self.start, &self.header, section)
    }

    /// How the target's layers come from the parent's.
    ///
    /// # Errors
    /// The INDEX section is damaged.
    pub fn edit(&self) -> Result<&Edit, DimgError> {
        if let Some(edit) = self.edit.get() {
            return Ok(edit);
        }
        let bytes = self.section(Section::Index)?;
        let (offset, exact) = self.place(Section::Index);
        let edit = Edit::decode(&bytes, &self.meta.claims())
            .map_err(|error| DimgError::wire(Section::Index.name(), offset, exact, &error))?;
        Ok(self.edit.get_or_init(|| edit))
    }

    /// Lets go of what [`Dimg::edit`] decoded: it is large, and seldom of use once the target is resolved.
    pub fn forget_edit(&mut self) {
        self.edit = OnceLock::new();
    }

    fn tables(&self) -> Result<&Tables, DimgError> {
        if let Some(tables) = self.tables.get() {
            return Ok(tables);
        }
        let edit = self.edit()?;
        let bytes = self.section(Section::Frames)?;
        let (offset, exact) = self.place(Section::Frames);
        let frames = decode_frames(&bytes, self.data_bytes())
            .map_err(|error| DimgError::wire(Section::Frames.name(), offset, exact, &error))?;
        let bytes = self.section(Section::Recipes)?;
        let (offset, exact) = self.place(Section::Recipes);
        let recipes = decode_recipes(&bytes, &edit.new_contents, &edit.origins())
            .map_err(|error| DimgError::wire(Section::Recipes.name(), offset, exact, &error))?;
        check_uses(&recipes, &frames).map_err(|(number, why)| {
            DimgError::corrupt(Section::Recipes.name(), offset, format!("recipe {number}: {why}"))
        })?;
        Ok(self.tables.get_or_init(|| Tables { recipes, frames }))
    }

    /// The recipes of the new contents of [`Dimg::edit`], in their order.
    ///
    /// # Errors
    /// A section is damaged.
    pub fn recipes(&self) -> Result<&[RecipeRow], DimgError> {
        Ok(&self.tables()?.recipes)
    }

    /// The frames of the DATA section.
    ///
    /// # Errors
    /// A section is damaged.
    pub fn frames(&self) -> Result<&[FrameRow], DimgError> {
        Ok(&self.tables()?.frames)
    }

    /// Where frame `row` starts in the file.
    pub(super) fn frame_offset(&self, row: &FrameRow) -> u64 {
        self.start + self.header.rows[Section::Data as usize].offset + row.offset
    }

    /// The bytes of frame `number`, their checksum verified.
    ///
    /// # Errors
    /// There is no such frame, or it is damaged.
    pub fn frame(&self, number: u32) -> Result<&[u8], DimgError> {
        let frames = self.frames()?;
        let row = frames.get(number as usize).ok_or_else(|| {
            let reason = format!("frame {number} of {} is asked for", frames.len());
            DimgError::corrupt(Section::Data.name(), self.start, reason)
        })?;
        let start = self.header.rows[Section::Data as usize].offset + row.offset;
        let bytes = slice(&self.bytes, start, row.bytes).filter(|bytes| check8(bytes) == row.check);
        bytes.ok_or_else(|| {
            let reason = format!("the checksum of frame {number} is wrong");
            DimgError::corrupt(Section::Data.name(), self.frame_offset(row), reason)
        })
    }

    /// What an engine says of frame `number`.
    pub(crate) fn bad_frame(&self, number: u32, error: EngineError) -> DimgError {
        let row = self.frames().ok().and_then(|frames| frames.get(number as usize));
        DimgError::frame(row.map_or(self.start, |row| self.frame_offset(row)), error)
    }

    /// Checks that an image with these diff IDs is the parent; nothing to check for a base image.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_parent(&self, diff_ids: &[Digest]) -> Result<(), DimgError> {
        let Some(parent) = &self.meta.parent else { return Ok(()) };
        if parent.layers.len() != diff_ids.len() {
            return Err(DimgError::ParentMismatch {
                what: "layers".to_owned(),
                expected: format!("{} layers", parent.layers.len()),
                found: format!("{} layers", diff_ids.len()),
            });
        }
        let differs = parent.layers.iter().zip(diff_ids).position(|(expected, found)| expected != found);
        match differs {
            None => Ok(()),
            Some(number) => Err(DimgError::ParentMismatch {
                what: format!("layer {number}"),
                expected: parent.layers[number].to_string(),
                found: diff_ids[number].to_string(),
            }),
        }
    }

    /// The target's layers and the recipes of its new contents. `parent` are the layers of the parent, needed when
    /// there is one.
    ///
    /// # Errors
    /// The file is damaged, or `parent` is missing or not the parent's.
    pub fn resolve(&self, parent: Option<&[Arc<LayerIndex>]>) -> Result<Image, DimgError> {
        let parent = match (&self.meta.parent, parent) {
            (None, _) => &[][..],
            (Some(named), None) => return Err(DimgError::NoParent(named.manifest)),
            (Some(named), Some(parent)) if named.layers.len() != parent.len() => {
                return Err(DimgError::ParentMismatch {
                    what: "layers".to_owned(),
                    expected: format!("{} layers", named.layers.len()),
                    found: format!("{} layers", parent.len()),
                });
            }
            (Some(_), Some(parent)) => parent,
        };
        let (offset, _) = self.place(Section::Index);
        let misfit = |reason: String| DimgError::corrupt(Section::Index.name(), offset, reason);
        let layers = self.edit()?.apply(parent).map_err(|error| misfit(error.to_string()))?;
        for (number, (layer, named)) in layers.iter().zip(&self.meta.target.layers).enumerate() {
            if layer.entries.len() as u64 != named.entries {
                let (made, named) = (layer.entries.len(), named.entries);
                return Err(misfit(format!("layer {number} has {made} entries, META names {named}")));
            }
            if let LayerSource::Made { id } = named.source {
                let found = layer_id(layer);
                if found != id && self.meta.parent.is_some() {
                    return Err(DimgError::ParentMismatch {
                        what: format!("id of layer {number} made from it"),
                        expected: id.to_string(),
                        found: found.to_string(),
                    });
                }
                if found != id {
                    return Err(misfit(format!("layer {number} has the id {found}, META names {id}")));
                }
            }
        }
        let contents = distinct_contents(&layers);
        if contents != self.meta.target.contents {
            let named = self.meta.target.contents;
            return Err(misfit(format!("the layers have {contents} contents, META names {named}")));
        }
        let recipes = self.named_recipes(parent)?;
        Ok(Image { layers, recipes })
    }

    /// The recipes by the digest of what they make, bases named.
    fn named_recipes(&self, parent: &[Arc<LayerIndex>]) -> Result<HashMap<Digest, Recipe>, DimgError> {
        let (contents, tables) = (&self.edit()?.new_contents, self.tables()?);
        let (offset, _) = self.place(Section::Recipes);
        let bad = |number: usize, why: &str| {
            DimgError::corrupt(Section::Recipes.name(), offset, format!("recipe {number}: {why}"))
        };
        let mut named = HashMap::with_capacity(contents.len());
        for (number, (recipe, &content)) in tables.recipes.iter().zip(contents).enumerate() {
            let base = match recipe.base {
                None => None,
                Some(place) => {
                    Some(content_at(parent, place).ok_or_else(|| bad(number, "its base is not there"))?)
                }
            };
            let stages = recipe.stages.iter().map(|row| Stage {
                codec: row.codec,
                version: row.version,
                kind: tables.frames.get(row.frame as usize).map_or(FrameKind::Program, |frame| frame.kind),
                frame: row.frame,
                slot: row.slot,
                out_bytes: row.out_bytes,
            });
            let stages = stages.collect();
            if named.insert(content.digest, Recipe { content, base, stages }).is_some() {
                return Err(bad(number, "another one makes the same content"));
            }
        }
        Ok(named)
    }

    /// The recipes of a file, without its parent: bases are named by their places in it.
    ///
    /// # Errors
    /// A section is damaged.
    pub fn contents(&self) -> Result<impl Iterator<Item = (Content, &RecipeRow)>, DimgError> {
        let (contents, recipes) = (&self.edit()?.new_contents, self.recipes()?);
        Ok(contents.iter().copied().zip(recipes))
    }
}

/// Distinct contents of an image: what [`Target::contents`] is.
pub fn distinct_contents(layers: &[Arc<LayerIndex>]) -> u64 {
    let contents = layers.iter().flat_map(|layer| layer.entries.iter().filter_map(|entry| entry.content));
    contents.map(|content| content.digest).collect::<HashSet<_>>().len() as u64
}

fn slice(bytes: &[u8], start: u64, count: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(count).ok()?)?)
}

/// A section's bytes, verified and decompressed.
fn section<'a>(
    bytes: &'a [u8],
    start: u64,
    header: &Header,
    section: Section,
) -> Result<Cow<'a, [u8]>, DimgError> {
    let row = &header.rows[section as usize];
    let corrupt = |reason: String| DimgError::corrupt(section.name(), start + row.offset, reason);
    let stored = slice(bytes, row.offset, row.stored_bytes);
    let stored = stored.ok_or_else(|| corrupt("it lies outside of the file".to_owned()))?;
    if check16(stored) != row.check {
        return Err(corrupt("its checksum is wrong".to_owned()));
    }
    if row.codec == Codec::Raw && row.raw_bytes == row.stored_bytes {
        return Ok(Cow::Borrowed(stored));
    }
    blob::unpack(row.codec, stored, row.raw_bytes).map(Cow::Owned).map_err(|error| corrupt(error.to_string()))
}
