//! Reading a dimg: header, table and META at once, the rest when it is asked for.

use super::cdimg::with_documents;
use super::header::{CHECK_BYTES, Header, Section, assemble, check4, check8, slice};
use super::make::Groups;
use super::meta::Named;
use super::tables::{FRAME_SPECS, RECIPE_SPECS, check_uses, decode_frames, decode_recipes};
use super::{
    DimgError, FrameKind, FrameRow, Image, LayerCheck, LayerSource, Meta, Parent, Recipe, RecipeRow, Stage,
    Target, joint,
};
use crate::Digest;
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::compress::Level;
use crate::index::edit::{SPECS as INDEX_SPECS, content_at};
use crate::index::{Content, Edit, LayerIndex};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A dimg, or that of a cdimg. Its bytes are a mapped file or a vector; nothing is copied from them before it is needed.
pub struct Dimg {
    /// Of the file.
    bytes: Bytes,
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
        f.debug_struct("Dimg").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// A section as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionInfo {
    /// Its name.
    pub name: &'static str,
    /// From the start of the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub bytes: u64,
}

impl Dimg {
    /// Opens the dimg that `bytes` are.
    ///
    /// # Errors
    /// Header or META are not what the format allows, or it is a cdimg.
    pub fn open(bytes: Bytes) -> Result<Self, DimgError> {
        let header = Header::parse(&bytes)?;
        match header.is_cdimg {
            true => Err(DimgError::corrupt("header", 0, "not a dimg")),
            false => Self::of(bytes, header, None),
        }
    }

    /// The dimg in the file `bytes`, which starts with `header`; what its documents name, if it has any.
    pub(super) fn of(bytes: Bytes, header: Header, named: Option<&Named>) -> Result<Self, DimgError> {
        let place = header.place(Section::Meta);
        let stored = slice(&bytes, place).unwrap_or_default();
        let meta = Meta::decode(stored, header.has_parent, named)
            .map_err(|error| DimgError::wire(Section::Meta.name(), place.start, true, &error))?;
        let (edit, tables) = (OnceLock::new(), OnceLock::new());
        Ok(Self { bytes, header, meta, edit, tables, groups: Groups::default() })
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

    /// Bytes of the file that it is in.
    pub fn bytes(&self) -> u64 {
        self.header.place(Section::Data).end
    }

    /// Bytes of the frames; the rest is metadata.
    pub fn data_bytes(&self) -> u64 {
        let place = self.header.place(Section::Data);
        place.end - place.start
    }

    /// The sections, in order.
    pub fn sections(&self) -> impl Iterator<Item = SectionInfo> {
        let sections =
            Section::ALL.into_iter().filter(|section| *section != Section::Documents || self.header.is_cdimg);
        sections.map(|section| {
            let place = self.header.place(section);
            SectionInfo { name: section.name(), offset: place.start, bytes: place.end - place.start }
        })
    }

    /// The dimg without documents: what stands before its frames, and its frames.
    pub fn alone(&self) -> (Vec<u8>, &[u8]) {
        self.again(None, &self.meta.encode(false))
    }

    /// The dimg as a cdimg with these documents: what stands before its frames, and its frames.
    ///
    /// # Errors
    /// The documents are others than the dimg names, or exceed a limit, or a compressor fails.
    pub fn with_documents(
        &self,
        manifest: &[u8],
        config: &[u8],
        level: Level,
    ) -> Result<(Vec<u8>, &[u8]), DimgError> {
        let (documents, meta) = with_documents(manifest, config, &self.meta, level)?;
        Ok(self.again(Some(&documents), &meta))
    }

    fn again(&self, documents: Option<&[u8]>, meta: &[u8]) -> (Vec<u8>, &[u8]) {
        let part = |section| slice(&self.bytes, self.header.place(section)).unwrap_or_default();
        let (tables, data) = (part(Section::Tables), part(Section::Data));
        (assemble(self.header.has_parent, documents, meta, tables, data.len() as u64), data)
    }

    /// How the target's layers come from the parent's.
    ///
    /// # Errors
    /// The section TABLES is damaged.
    pub fn edit(&self) -> Result<&Edit, DimgError> {
        if let Some(edit) = self.edit.get() {
            return Ok(edit);
        }
        let (edit, tables) = self.read_tables()?;
        self.tables.get_or_init(|| tables);
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
        let (edit, tables) = self.read_tables()?;
        self.edit.get_or_init(|| edit);
        Ok(self.tables.get_or_init(|| tables))
    }

    fn read_tables(&self) -> Result<(Edit, Tables), DimgError> {
        let place = self.header.place(Section::Tables);
        let corrupt = |reason: String| DimgError::corrupt(Section::Tables.name(), place.start, reason);
        let stored = slice(&self.bytes, place).and_then(|stored| stored.split_at_checked(CHECK_BYTES));
        let (check, stored) = stored.ok_or_else(|| corrupt("it ends within its checksum".to_owned()))?;
        if check != check8(stored).to_le_bytes() {
            return Err(corrupt("its checksum is wrong".to_owned()));
        }
        let start = place.start + CHECK_BYTES as u64;
        let wire = |error| DimgError::wire(Section::Tables.name(), start, true, &error);
        let [index, recipes, frames] =
            joint::decode([&INDEX_SPECS[..], &RECIPE_SPECS, &FRAME_SPECS], stored).map_err(wire)?;
        let edit = Edit::from_columns(&index, &self.meta.claims()).map_err(wire)?;
        let frames = decode_frames(&frames, self.data_bytes()).map_err(wire)?;
        let recipes = decode_recipes(&recipes, &edit.new_contents, &edit.origins()).map_err(wire)?;
        check_uses(&recipes, &frames).map_err(|(number, why)| corrupt(format!("recipe {number}: {why}")))?;
        Ok((edit, Tables { recipes, frames }))
    }

    /// Where the section TABLES is; for errors.
    fn tables_offset(&self) -> u64 {
        self.header.place(Section::Tables).start
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
        self.header.place(Section::Data).start + row.offset
    }

    /// The bytes of frame `number`, their checksum verified.
    ///
    /// # Errors
    /// There is no such frame, or it is damaged.
    pub fn frame(&self, number: u32) -> Result<&[u8], DimgError> {
        let frames = self.frames()?;
        let row = frames.get(number as usize).ok_or_else(|| {
            let reason = format!("frame {number} of {} is asked for", frames.len());
            DimgError::corrupt(Section::Data.name(), self.header.place(Section::Data).start, reason)
        })?;
        let start = self.frame_offset(row);
        let bytes = slice(&self.bytes, &(start..start.saturating_add(row.bytes)));
        let bytes = bytes.filter(|bytes| check4(bytes) == row.check);
        bytes.ok_or_else(|| {
            let reason = format!("the checksum of frame {number} is wrong");
            DimgError::corrupt(Section::Data.name(), self.frame_offset(row), reason)
        })
    }

    /// What an engine says of frame `number`.
    pub(crate) fn bad_frame(&self, number: u32, error: EngineError) -> DimgError {
        let row = self.frames().ok().and_then(|frames| frames.get(number as usize));
        DimgError::frame(row.map_or(0, |row| self.frame_offset(row)), error)
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
        let (image, check) = self.resolve_unchecked(parent)?;
        check.run()?;
        Ok(image)
    }

    /// As [`Dimg::resolve`], but that the layers are those that the file names is left to be checked, on another thread.
    /// Nothing may come of the image before that.
    ///
    /// # Errors
    /// As for [`Dimg::resolve`].
    pub fn resolve_unchecked(
        &self,
        parent: Option<&[Arc<LayerIndex>]>,
    ) -> Result<(Image, Unchecked), DimgError> {
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
        let offset = self.tables_offset();
        let misfit = |reason: String| DimgError::corrupt(Section::Tables.name(), offset, reason);
        let layers = self.edit()?.apply(parent).map_err(|error| misfit(error.to_string()))?;
        let mut check = Unchecked { ids: Vec::new(), from_parent: self.meta.parent.is_some(), offset };
        for (number, (layer, named)) in layers.iter().zip(&self.meta.target.layers).enumerate() {
            if layer.entries.len() as u64 != named.entries {
                let (made, named) = (layer.entries.len(), named.entries);
                return Err(misfit(format!("layer {number} has {made} entries, META names {named}")));
            }
            if let LayerSource::Made { id } = named.source {
                check.ids.push((number, Arc::clone(layer), id));
            }
        }
        let recipes = || {
            let contents = distinct_contents(&layers);
            if contents != self.meta.target.contents {
                let named = self.meta.target.contents;
                return Err(misfit(format!("the layers have {contents} contents, META names {named}")));
            }
            self.named_recipes(parent)
        };
        match recipes() {
            Ok(recipes) => Ok((Image { layers, recipes }, check)),
            // Another parent than the one that it was made from is the better reason.
            Err(error) => Err(check.run().err().unwrap_or(error)),
        }
    }

    /// The recipes by the digest of what they make, bases named.
    fn named_recipes(&self, parent: &[Arc<LayerIndex>]) -> Result<HashMap<Digest, Recipe>, DimgError> {
        let (contents, tables) = (&self.edit()?.new_contents, self.tables()?);
        let offset = self.tables_offset();
        let bad = |number: usize, why: &str| {
            DimgError::corrupt(Section::Tables.name(), offset, format!("recipe {number}: {why}"))
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

/// What is left to be checked of an image ([`Dimg::resolve_unchecked`]).
#[derive(Debug)]
pub struct Unchecked {
    /// Each layer made, by its number, with the id that the file names.
    ids: Vec<(usize, Arc<LayerIndex>, LayerCheck)>,
    from_parent: bool,
    /// Of the section.
    offset: u64,
}

impl Unchecked {
    /// Compares the layers made with what the file names.
    ///
    /// # Errors
    /// The file is damaged, or was made against another parent.
    pub fn run(&self) -> Result<(), DimgError> {
        for (number, layer, id) in &self.ids {
            let found = LayerCheck::of(layer);
            if found != *id && self.from_parent {
                return Err(DimgError::ParentMismatch {
                    what: format!("id of layer {number} made from it"),
                    expected: id.to_string(),
                    found: found.to_string(),
                });
            }
            if found != *id {
                let reason = format!("layer {number} has the id {found}, META names {id}");
                return Err(DimgError::corrupt(Section::Tables.name(), self.offset, reason));
            }
        }
        Ok(())
    }
}

/// Distinct contents of an image: what [`Target::contents`] is.
pub fn distinct_contents(layers: &[Arc<LayerIndex>]) -> u64 {
    let contents = layers.iter().flat_map(|layer| layer.entries.iter().filter_map(|entry| entry.content));
    contents.map(|content| content.digest).collect::<HashSet<_>>().len() as u64
}
