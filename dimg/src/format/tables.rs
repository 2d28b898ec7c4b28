//! The columns RECIPES and FRAMES (`FORMAT.md`, section 5): how each new content is made, and what lies in DATA.

use crate::engine::compress::Kind::{Bytes, Numbers};
use crate::engine::elf;
use crate::engine::frame::STORED_CHUNK_BYTES;
use crate::index::Content;
use crate::index::columns::{Columns, Spec};
use crate::index::edit::{Place, PlaceCoder};
use crate::limits::{MAX_FRAMES, MAX_STAGES};
use crate::wire::{Reader, WireError, put_i64, put_u64, put_usize};
use std::collections::HashMap;
use std::fmt;

/// How a stage of a recipe makes its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StageCodec {
    /// They stand in the frame.
    Stored,
    /// A plain program of copy-add and insert.
    Program,
    /// A patch of the crate `bsdiff`.
    Bsdiff,
    /// A content compressed with its base in the dictionary.
    Reference,
    /// The addresses in an ELF file, or in a class data archive, are moved by a map.
    Elf,
    /// The opened form of a content with compressed members ([`crate::engine::member`]); it takes no frame.
    Unpack,
    /// A content from its opened form and parameters in the frame.
    Pack,
    /// As unpack, but of what is deflated only what the parameters in the frame name.
    UnpackSome,
}

impl StageCodec {
    /// The version of a plain program that is a *fill*: of what it is given it makes as many bytes, others where the stages behind it do not
    /// look. A reader may leave it out; whoever merges puts it behind what makes those bytes, which then takes less.
    pub const FILL: u32 = 2;

    /// The tag in the format.
    pub fn tag(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Program => 1,
            Self::Bsdiff => 2,
            Self::Elf => 3,
            Self::Unpack => 4,
            Self::Pack => 5,
            Self::Reference => 6,
            Self::UnpackSome => 7,
        }
    }

    /// Whether its stages use frames; those of others have frame and slot 0.
    pub fn has_frame(self) -> bool {
        self != Self::Unpack
    }

    /// The version of packing what [`Self::UnpackSome`] makes.
    pub const PACK_SOME: u32 = 6;

    /// The version of the codec that this program writes, but for unpacking and packing, where a content says which and this is the last, and
    /// for [fills](Self::FILL).
    pub fn version(self) -> u32 {
        match self {
            Self::Stored => 0,
            Self::Elf => elf::Version::USUAL.number(),
            Self::Unpack => 5,
            Self::Pack => Self::PACK_SOME,
            Self::Program | Self::Bsdiff | Self::Reference | Self::UnpackSome => 1,
        }
    }

    /// Whether this program reads a version of the codec.
    fn reads(self, version: u32) -> bool {
        match self {
            Self::Elf => elf::Version::from_number(version).is_some(),
            Self::Unpack | Self::Pack => (1..=self.version()).contains(&version),
            Self::Program => version == self.version() || version == Self::FILL,
            _ => version == self.version(),
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Stored),
            1 => Some(Self::Program),
            2 => Some(Self::Bsdiff),
            3 => Some(Self::Elf),
            4 => Some(Self::Unpack),
            5 => Some(Self::Pack),
            6 => Some(Self::Reference),
            7 => Some(Self::UnpackSome),
            _ => None,
        }
    }

    /// The name that listings show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Program => "plain",
            Self::Bsdiff => "bsdiff",
            Self::Elf => "elf",
            Self::Unpack => "unpack",
            Self::Pack => "pack",
            Self::Reference => "reference",
            Self::UnpackSome => "unpack-some",
        }
    }
}

impl fmt::Display for StageCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Contents as they are, one or several.
    StoredGroup,
    /// A part of one large content as it is.
    Chunk,
    /// Several programs.
    ProgramGroup,
    /// One program.
    Program,
    /// One patch of the crate `bsdiff`.
    Bsdiff,
    /// Address maps, one or several.
    Relocations,
    /// Parameters of packing, or of unpacking in part, of one content or several.
    Parameters,
    /// One content compressed with its base in the dictionary.
    Reference,
}

impl FrameKind {
    fn tag(self) -> u8 {
        match self {
            Self::StoredGroup => 0,
            Self::Chunk => 1,
            Self::ProgramGroup => 2,
            Self::Program => 3,
            Self::Bsdiff => 4,
            Self::Relocations => 5,
            Self::Parameters => 6,
            Self::Reference => 7,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        [
            Self::StoredGroup,
            Self::Chunk,
            Self::ProgramGroup,
            Self::Program,
            Self::Bsdiff,
            Self::Relocations,
            Self::Parameters,
            Self::Reference,
        ]
        .into_iter()
        .find(|kind| kind.tag() == tag)
    }

    /// Whether stages of `codec` use such frames.
    fn serves(self, codec: StageCodec) -> bool {
        self.codec() == codec || (self == Self::Parameters && codec == StageCodec::UnpackSome)
    }

    /// The codec of the stages that use such frames; for parameters that of packing.
    pub fn codec(self) -> StageCodec {
        match self {
            Self::StoredGroup | Self::Chunk => StageCodec::Stored,
            Self::ProgramGroup | Self::Program => StageCodec::Program,
            Self::Bsdiff => StageCodec::Bsdiff,
            Self::Relocations => StageCodec::Elf,
            Self::Parameters => StageCodec::Pack,
            Self::Reference => StageCodec::Reference,
        }
    }

    /// Whether several stages may use one frame.
    pub fn is_group(self) -> bool {
        matches!(self, Self::StoredGroup | Self::ProgramGroup | Self::Relocations | Self::Parameters)
    }

    /// The name that listings show.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoredGroup => "stored-group",
            Self::Chunk => "chunk",
            Self::ProgramGroup => "program-group",
            Self::Program => "program",
            Self::Bsdiff => "bsdiff",
            Self::Relocations => "relocations",
            Self::Parameters => "parameters",
            Self::Reference => "reference",
        }
    }
}

/// A frame of the DATA section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRow {
    /// What it holds.
    pub kind: FrameKind,
    /// From the start of the section.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The first half of their XXH3-64.
    pub check: u32,
}

/// A stage of a recipe as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageRow {
    /// How it makes its bytes.
    pub codec: StageCodec,
    /// The codec's version.
    pub version: u32,
    /// The frame; for a large stored content the first of its chunks; 0 for a codec without frames.
    pub frame: u32,
    /// Where in a frame that is a group: a program's or parameters' number; a stored content's distance from the start. Else zero.
    pub slot: u64,
    /// Bytes that it makes; the last stage makes the content.
    pub out_bytes: u64,
}

impl StageRow {
    /// Whether it may be left out.
    pub fn is_fill(&self) -> bool {
        self.codec == StageCodec::Program && self.version == StageCodec::FILL
    }
}

/// A recipe as the file has it, for the new content of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeRow {
    /// The parent's entry whose content the first stage patches; none when it is stored.
    pub base: Option<Place>,
    /// One or more. The first is stored exactly when there is no base; the others are patches.
    pub stages: Vec<StageRow>,
}

/// Frames that a stage takes: a large stored content several.
pub(crate) fn frames_of(kind: FrameKind, out_bytes: u64) -> u64 {
    match kind {
        FrameKind::Chunk => out_bytes.div_ceil(STORED_CHUNK_BYTES).max(1),
        _ => 1,
    }
}

/// Which slot of a frame is expected next: the one after the last one named, the first at first.
#[derive(Debug, Default)]
struct Slots(HashMap<u32, u64>);

impl Slots {
    fn expected(&self, frame: u32) -> u64 {
        self.0.get(&frame).copied().unwrap_or(0)
    }

    fn note(&mut self, stage: &StageRow) {
        let next =
            stage.slot.saturating_add(if stage.codec == StageCodec::Stored { stage.out_bytes } else { 1 });
        self.0.insert(stage.frame, next);
    }
}

/// Gives the stages of `recipes` the slots of their frames in the order in which they stand.
pub(crate) fn number_slots(recipes: &mut [RecipeRow], frames: &[FrameRow]) {
    let mut slots = Slots::default();
    for stage in recipes.iter_mut().flat_map(|recipe| &mut recipe.stages) {
        if !stage.codec.has_frame() {
            continue;
        }
        if frames.get(stage.frame as usize).is_some_and(|frame| frame.kind.is_group()) {
            stage.slot = slots.expected(stage.frame);
            slots.note(stage);
        }
    }
}

pub(crate) static RECIPE_SPECS: [Spec; 8] = [
    Spec { name: "column stage counts", kind: Numbers },
    Spec { name: "column stage codecs", kind: Numbers },
    Spec { name: "column stage versions", kind: Numbers },
    Spec { name: "column bases", kind: Numbers },
    Spec { name: "column base places", kind: Numbers },
    Spec { name: "column stage frames", kind: Numbers },
    Spec { name: "column stage slots", kind: Numbers },
    Spec { name: "column stage sizes", kind: Numbers },
];

pub(crate) static FRAME_SPECS: [Spec; 3] = [
    Spec { name: "column frame kinds", kind: Numbers },
    Spec { name: "column frame sizes", kind: Numbers },
    Spec { name: "column frame checks", kind: Bytes },
];

/// The columns RECIPES. `origins` are the entries that the first users of the contents are copies of.
pub(crate) fn encode_recipes(recipes: &[RecipeRow], origins: &[Option<Place>]) -> Columns {
    let mut columns = Columns::new(&RECIPE_SPECS);
    let (mut places, mut slots, mut frame) = (PlaceCoder::default(), Slots::default(), 0u32);
    for (recipe, origin) in recipes.iter().zip(origins) {
        put_usize(columns.get_mut(0), recipe.stages.len());
        let base = match recipe.base {
            None => 0,
            base if base == *origin => 1,
            Some(place) => {
                places.put(columns.get_mut(4), place, 1);
                2
            }
        };
        columns.get_mut(3).push(base);
        for (at, stage) in recipe.stages.iter().enumerate() {
            columns.get_mut(1).push(stage.codec.tag());
            put_u64(columns.get_mut(2), u64::from(stage.version));
            if stage.codec.has_frame() {
                put_i64(columns.get_mut(5), i64::from(stage.frame) - i64::from(frame));
                frame = stage.frame;
                let distance = stage.slot.wrapping_sub(slots.expected(frame)).cast_signed();
                put_i64(columns.get_mut(6), distance);
                slots.note(stage);
            }
            if at + 1 < recipe.stages.len() {
                put_u64(columns.get_mut(7), stage.out_bytes);
            }
        }
    }
    columns
}

/// Reads the columns RECIPES: one recipe for each of `contents`.
pub(crate) fn decode_recipes(
    columns: &Columns,
    contents: &[Content],
    origins: &[Option<Place>],
) -> Result<Vec<RecipeRow>, WireError> {
    let mut readers = columns.readers();
    let [counts, codecs, versions, bases, base_places, frames, distances, sizes] = &mut readers[..] else {
        return Err(Reader::new(&[], "table RECIPES").error("columns", "not eight"));
    };
    let (mut places, mut slots, mut last) = (PlaceCoder::default(), Slots::default(), 0u32);
    let mut recipes = Vec::with_capacity(contents.len().min(counts.remaining()));
    for (content, origin) in contents.iter().zip(origins) {
        let before = counts.clone();
        let count = counts.count(MAX_STAGES, "number of stages")?;
        if count == 0 {
            return Err(before.error("number of stages", "a recipe has none"));
        }
        let before = bases.clone();
        let base = match bases.byte("base")? {
            0 => None,
            1 => {
                Some(origin.ok_or_else(|| before.error("base", "the content is not one of a copied entry"))?)
            }
            2 => Some(places.get(base_places, 1)?),
            other => return Err(before.error("base", format!("{other} is not known"))),
        };
        let mut stages = Vec::with_capacity(count);
        for at in 0..count {
            let before = codecs.clone();
            let tag = codecs.byte("codec of a stage")?;
            let codec = StageCodec::from_tag(tag)
                .ok_or_else(|| before.error("codec of a stage", format!("{tag} is not known")))?;
            if (codec == StageCodec::Stored) != (at == 0 && base.is_none()) {
                let why = format!("{codec} as stage {at} of a recipe {}", with(base.is_some()));
                return Err(before.error("codec of a stage", why));
            }
            let before = versions.clone();
            let version = versions.u64("version of a codec")?;
            let version =
                u32::try_from(version).ok().filter(|&version| codec.reads(version)).ok_or_else(|| {
                    before.error("version of a codec", format!("version {version} of {codec} is not known"))
                })?;
            if codec == StageCodec::Program && version == StageCodec::FILL && at + 1 == count {
                return Err(before.error("version of a codec", "the last stage of a recipe is a fill"));
            }
            let (frame, slot) = match codec.has_frame() {
                true => frame_and_slot(frames, distances, &mut last, &slots)?,
                false => (0, 0),
            };
            let out_bytes = if at + 1 < count { sizes.u64("size of a stage")? } else { content.size };
            let stage = StageRow { codec, version, frame, slot, out_bytes };
            if codec.has_frame() {
                slots.note(&stage);
            }
            stages.push(stage);
        }
        recipes.push(RecipeRow { base, stages });
    }
    readers.iter().try_for_each(Reader::end)?;
    Ok(recipes)
}

/// The frame of a stage, which becomes the `last` one, and the slot in it.
fn frame_and_slot(
    frames: &mut Reader<'_>,
    distances: &mut Reader<'_>,
    last: &mut u32,
    slots: &Slots,
) -> Result<(u32, u64), WireError> {
    let before = frames.clone();
    let frame = i64::from(*last).checked_add(frames.i64("frame of a stage")?);
    let frame = frame
        .and_then(|frame| u32::try_from(frame).ok())
        .ok_or_else(|| before.error("frame of a stage", "there is no such frame"))?;
    *last = frame;
    let before = distances.clone();
    let slot = slots.expected(frame).checked_add_signed(distances.i64("slot of a stage")?);
    Ok((frame, slot.ok_or_else(|| before.error("slot of a stage", "there is no such slot"))?))
}

fn with(base: bool) -> &'static str {
    if base { "with a base" } else { "without a base" }
}

/// The columns FRAMES.
pub(crate) fn encode_frames(frames: &[FrameRow]) -> Columns {
    let mut columns = Columns::new(&FRAME_SPECS);
    for frame in frames {
        columns.get_mut(0).push(frame.kind.tag());
        put_u64(columns.get_mut(1), frame.bytes);
        columns.get_mut(2).extend_from_slice(&frame.check.to_le_bytes());
    }
    columns
}

/// Reads the columns FRAMES; the frames fill `data_bytes`.
pub(crate) fn decode_frames(columns: &Columns, data_bytes: u64) -> Result<Vec<FrameRow>, WireError> {
    let mut readers = columns.readers();
    let [kinds, sizes, checks] = &mut readers[..] else {
        return Err(Reader::new(&[], "table FRAMES").error("columns", "not three"));
    };
    if kinds.remaining() > MAX_FRAMES {
        return Err(kinds.error("kind of a frame", format!("more than {MAX_FRAMES} frames")));
    }
    let mut frames = Vec::with_capacity(kinds.remaining());
    let mut offset = 0u64;
    while kinds.remaining() > 0 {
        let before = kinds.clone();
        let tag = kinds.byte("kind of a frame")?;
        let kind = FrameKind::from_tag(tag)
            .ok_or_else(|| before.error("kind of a frame", format!("{tag} is not known")))?;
        let before = sizes.clone();
        let bytes = sizes.u64("bytes of a frame")?;
        let end = offset.checked_add(bytes).filter(|&end| end <= data_bytes);
        let end = end.ok_or_else(|| before.error("bytes of a frame", "it ends after the section DATA"))?;
        let mut check = [0; 4];
        check.copy_from_slice(checks.take(4, "checksum of a frame")?);
        frames.push(FrameRow { kind, offset, bytes, check: u32::from_le_bytes(check) });
        offset = end;
    }
    if offset != data_bytes {
        let why = format!("{} bytes of the section DATA belong to none", data_bytes - offset);
        return Err(sizes.error("bytes of a frame", why));
    }
    readers.iter().try_for_each(Reader::end)?;
    Ok(frames)
}

/// Checks that recipes and frames fit: each stage's frame is there and of its kind, each frame is used, and only groups
/// by several.
///
/// # Errors
/// The number of the recipe that does not fit (that of recipes when it is a frame), and why.
pub(crate) fn check_uses(recipes: &[RecipeRow], frames: &[FrameRow]) -> Result<(), (usize, String)> {
    let mut used = vec![false; frames.len()];
    for (number, recipe) in recipes.iter().enumerate() {
        for stage in recipe.stages.iter().filter(|stage| stage.codec.has_frame()) {
            let frame = stage.frame as usize;
            let Some(row) = frames.get(frame) else {
                return Err((number, format!("frame {frame} is not there")));
            };
            if !row.kind.serves(stage.codec) {
                let why = format!("frame {frame} is {}, its stage {}", row.kind.name(), stage.codec);
                return Err((number, why));
            }
            if !row.kind.is_group() && stage.slot != 0 {
                return Err((number, format!("frame {frame} has no slot {}", stage.slot)));
            }
            let count = frames_of(row.kind, stage.out_bytes);
            for at in stage.frame.into()..count.saturating_add(stage.frame.into()) {
                let Some((row_at, used)) = usize::try_from(at)
                    .ok()
                    .and_then(|at| Some((frames.get(at)?, used.get_mut(at)?)))
                    .filter(|(row_at, _)| row_at.kind == row.kind)
                else {
                    return Err((number, format!("chunk {at} of frame {frame} is not there")));
                };
                if std::mem::replace(used, true) && !row_at.kind.is_group() {
                    return Err((number, format!("frame {at} is used twice")));
                }
            }
        }
    }
    match used.iter().position(|used| !used) {
        Some(frame) => Err((recipes.len(), format!("frame {frame} has no use"))),
        None => Ok(()),
    }
}
