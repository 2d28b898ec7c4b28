//! Writing a dimg: frames first, into a file aside, then everything that names them.

use super::cdimg::with_documents;
use super::header::{assemble, check4, check8};
use super::tables::{check_uses, encode_frames, encode_recipes, frames_of, number_slots};
use super::{DimgError, FrameKind, FrameRow, LayerSource, Meta, RecipeRow, StageCodec, StageRow, joint};
use crate::engine::compress::Level;
use crate::index::Edit;
use crate::index::edit::LayerEdit;
use crate::limits::{MAX_FRAMES, MAX_IMAGE_NAME_BYTES, MAX_SECTION_BYTES, MAX_STAGES};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Takes frames as they are made. They wait in a file without a name, so memory stays small and nothing is left behind.
#[derive(Debug)]
pub struct DimgWriter {
    dir: PathBuf,
    data: BufWriter<File>,
    data_bytes: u64,
    frames: Vec<FrameRow>,
    /// Where the frames are in the file aside, in the order in which they are written; empty if they are there in that order.
    places: Vec<Extent>,
}

/// Bytes of the file aside.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    bytes: u64,
}

impl DimgWriter {
    /// A writer that keeps its frames in `dir`, best that of the output: there has to be room there.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn new(dir: &Path) -> Result<Self, DimgError> {
        let data = tempfile::tempfile_in(dir).map_err(DimgError::io("make temporary file", dir))?;
        let data = BufWriter::with_capacity(256 << 10, data);
        Ok(Self { dir: dir.to_path_buf(), data, data_bytes: 0, frames: Vec::new(), places: Vec::new() })
    }

    /// Adds a frame; its number.
    ///
    /// # Errors
    /// It cannot be written, or there are too many.
    pub fn frame(&mut self, kind: FrameKind, bytes: &[u8]) -> Result<u32, DimgError> {
        let number = u32::try_from(self.frames.len()).ok().filter(|_| self.frames.len() < MAX_FRAMES);
        let number = number.ok_or_else(|| DimgError::Refused(format!("more than {MAX_FRAMES} frames")))?;
        self.data.write_all(bytes).map_err(DimgError::io("write temporary file", &self.dir))?;
        let row = FrameRow { kind, offset: self.data_bytes, bytes: bytes.len() as u64, check: check4(bytes) };
        self.data_bytes += row.bytes;
        self.frames.push(row);
        Ok(number)
    }

    /// Bytes of the frames so far.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Gives the stages of `recipes` the slots of their frames in the order in which they stand: right when the
    /// contents and programs of each group were put together in the order of their recipes.
    pub fn number_slots(&self, recipes: &mut [RecipeRow]) {
        number_slots(recipes, &self.frames);
    }

    /// Puts the frames in the order in which `recipes` use them first, wherever they came from; no frame comes after that.
    pub fn order_by_use(&mut self, recipes: &mut [RecipeRow]) {
        let (mut numbers, mut order) = (vec![None; self.frames.len()], Vec::with_capacity(self.frames.len()));
        let mut number = |numbers: &mut [Option<u32>], frame: usize| {
            if let Some(new @ None) = numbers.get_mut(frame) {
                // They are fewer than MAX_FRAMES.
                *new = u32::try_from(order.len()).ok();
                order.push(frame);
            }
        };
        for stage in recipes.iter().flat_map(|recipe| &recipe.stages).filter(|stage| stage.codec.has_frame())
        {
            let first = stage.frame as usize;
            let count = self.frames.get(first).map_or(1, |row| frames_of(row.kind, stage.out_bytes));
            let end = first.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
            (first..end.min(numbers.len())).for_each(|frame| number(&mut numbers, frame));
        }
        (0..numbers.len()).for_each(|frame| number(&mut numbers, frame));
        let (old, mut offset) = (std::mem::take(&mut self.frames), 0);
        self.places.clear();
        for frame in order {
            let Some(row) = old.get(frame) else { continue };
            self.frames.push(FrameRow { offset, ..*row });
            offset += row.bytes;
            match self.places.last_mut().filter(|last| last.offset + last.bytes == row.offset) {
                Some(last) => last.bytes += row.bytes,
                None => self.places.push(Extent { offset: row.offset, bytes: row.bytes }),
            }
        }
        for stage in recipes.iter_mut().flat_map(|recipe| &mut recipe.stages) {
            if stage.codec.has_frame()
                && let Some(Some(new)) = numbers.get(stage.frame as usize)
            {
                stage.frame = *new;
            }
        }
    }

    /// The finished dimg: `recipes` make the new contents of `edit`, in their order.
    ///
    /// # Errors
    /// The parts do not fit together, or a compressor or the file aside fails.
    pub fn finish(
        self,
        meta: &Meta,
        edit: &Edit,
        recipes: &[RecipeRow],
        level: Level,
    ) -> Result<Assembled, DimgError> {
        check_fit(meta, edit, recipes)?;
        check_uses(recipes, &self.frames)
            .map_err(|(number, why)| DimgError::Refused(format!("recipe {number}: {why}")))?;
        let (index, recipes) = (edit.encode()?, encode_recipes(recipes, &edit.origins()));
        let mut tables = joint::encode(&[&index, &recipes, &encode_frames(&self.frames)], level)?;
        tables.splice(..0, check8(&tables).to_le_bytes());
        let columns = index.iter().chain(recipes.iter()).map(|(data, _)| data.len() as u64);
        let raw_bytes = columns.sum::<u64>().max(tables.len() as u64);
        if raw_bytes > MAX_SECTION_BYTES {
            let reason = format!("tables of {raw_bytes} bytes exceed the limit of {MAX_SECTION_BYTES}");
            return Err(DimgError::Refused(reason));
        }
        let head = assemble(meta.parent.is_some(), None, &meta.encode(false), &tables, self.data_bytes);
        let data = self.data.into_inner().map_err(io::IntoInnerError::into_error);
        let data = data.map_err(DimgError::io("write temporary file", &self.dir))?;
        let all = Extent { offset: 0, bytes: self.data_bytes };
        let places = if self.places.is_empty() { vec![all] } else { self.places };
        let (meta, data_bytes, dir) = (meta.clone(), self.data_bytes, self.dir);
        Ok(Assembled { head, meta, tables, data, places, data_bytes, dir })
    }
}

fn check_fit(meta: &Meta, edit: &Edit, recipes: &[RecipeRow]) -> Result<(), DimgError> {
    let refuse = |why: String| Err(DimgError::Refused(why));
    if edit.layers.len() != meta.target.layers.len() {
        let (meta, edit) = (meta.target.layers.len(), edit.layers.len());
        return refuse(format!("{meta} layers named, {edit} made"));
    }
    for (number, (made, named)) in edit.layers.iter().zip(&meta.target.layers).enumerate() {
        let fits = match (made, named.source) {
            (LayerEdit::Same(made), LayerSource::Parent(same)) => {
                let parent = meta.parent.as_ref().and_then(|parent| parent.layers.get(same as usize));
                *made == same && parent == Some(&named.diff_id)
            }
            (LayerEdit::Edited(made), LayerSource::Made { .. }) => made.entries() as u64 == named.entries,
            _ => false,
        };
        if !fits {
            return refuse(format!("layer {number} is made otherwise than it is named"));
        }
    }
    if meta.target.name.len() > MAX_IMAGE_NAME_BYTES {
        return refuse(format!("an image's name exceeds {MAX_IMAGE_NAME_BYTES} bytes"));
    }
    if recipes.len() != edit.new_contents.len() {
        return refuse(format!("{} recipes for {} contents", recipes.len(), edit.new_contents.len()));
    }
    for (number, (recipe, content)) in recipes.iter().zip(&edit.new_contents).enumerate() {
        let stored = |stage: &StageRow| stage.codec == StageCodec::Stored;
        let Some((first, rest)) = recipe.stages.split_first() else {
            return refuse(format!("recipe {number} has no stages"));
        };
        if recipe.stages.len() > MAX_STAGES
            || stored(first) != recipe.base.is_none()
            || rest.iter().any(stored)
            || recipe.stages.last().is_none_or(|last| last.out_bytes != content.size)
        {
            return refuse(format!("recipe {number} does not make its content"));
        }
    }
    Ok(())
}

/// A finished dimg that waits to be written out.
#[derive(Debug)]
pub struct Assembled {
    head: Vec<u8>,
    meta: Meta,
    tables: Vec<u8>,
    data: File,
    places: Vec<Extent>,
    data_bytes: u64,
    dir: PathBuf,
}

impl Assembled {
    /// Bytes of the dimg in all.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.data_bytes
    }

    /// Bytes of the frames.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Writes it all; may be done again.
    ///
    /// # Errors
    /// Reading the file aside, or `out`, fails.
    pub fn write_to(&mut self, out: &mut dyn Write) -> Result<(), DimgError> {
        out.write_all(&self.head).map_err(DimgError::Output)?;
        self.write_data(out)
    }

    /// What stands before the frames in a cdimg.
    pub(super) fn cdimg_head(
        &self,
        manifest: &[u8],
        config: &[u8],
        level: Level,
    ) -> Result<Vec<u8>, DimgError> {
        let (documents, meta) = with_documents(manifest, config, &self.meta, level)?;
        Ok(assemble(self.meta.parent.is_some(), Some(&documents), &meta, &self.tables, self.data_bytes))
    }

    /// Writes the frames.
    pub(super) fn write_data(&self, out: &mut dyn Write) -> Result<(), DimgError> {
        let mut buffer = vec![0; 256 << 10];
        for &Extent { mut offset, bytes } in &self.places {
            let end = offset + bytes;
            while offset < end {
                let count = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
                self.data
                    .read_exact_at(&mut buffer[..count], offset)
                    .map_err(DimgError::io("read temporary file", &self.dir))?;
                out.write_all(&buffer[..count]).map_err(DimgError::Output)?;
                offset += count as u64;
            }
        }
        Ok(())
    }

    /// Writes it to `path`, which appears whole or not at all.
    ///
    /// # Errors
    /// As for [`Assembled::write_to`], and those of making the file.
    pub fn write_file(&mut self, path: &Path) -> Result<(), DimgError> {
        let mut output = super::OutputFile::create(path)?;
        self.write_to(&mut output)?;
        output.commit()
    }
}
