//! Making contents from their recipes.

use super::{Dimg, DimgError, FrameKind, FrameRow, Recipe, Stage, StageCodec};
use crate::HashingWriter;
use crate::engine::EngineError;
use crate::engine::elf::{self, AddressMap};
use crate::engine::frame::{
    BsdiffFrame, ParameterFrame, ParameterGroup, ProgramFrame, ProgramGroup, ReferenceFrame, RelocationFrame,
    STORED_CHUNK_BYTES, StoredFrame,
};
use crate::engine::member::{self, Plan};
use crate::memory::{self, Memory};
use d4c_sys::Map;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Decoded groups kept unless asked otherwise: making the contents of a group one after the other decodes it once.
const KEPT_GROUPS: usize = 4;

/// What stages but the last make is held in memory up to this size together: a file takes about a tenth of the time that relocating an
/// executable does. With what decoding takes it is less than 64 MiB.
const MEMORY_STAGES_BYTES: u64 = 32 << 20;
/// What one of them makes is held in memory up to this size, whatever else is.
const SMALL_STAGE_BYTES: u64 = 4 << 20;

/// Gives files without a name for what stages but the last make: they are mapped, not held in memory.
pub type Scratch<'a> = &'a (dyn Fn() -> io::Result<File> + Sync);

/// The groups decoded last.
pub(super) struct Groups {
    kept: Kept,
    limit: AtomicUsize,
    /// Those of stored contents that are kept in files, and how.
    in_files: Kept,
    files: OnceLock<(usize, NewFile)>,
    /// Whose memory it is; none: nobody counts it.
    memory: OnceLock<Arc<Memory>>,
}

/// Frames and what they hold, the one used last at the end.
type Kept = Mutex<Vec<(u32, Place)>>;
/// A group, once it is decoded, and the memory that it has.
type Place = Arc<Mutex<Option<(Group, Option<memory::Kept>)>>>;
type NewFile = Box<dyn Fn(usize) -> io::Result<File> + Send + Sync>;

impl Default for Groups {
    fn default() -> Self {
        let limit = AtomicUsize::new(KEPT_GROUPS);
        let (files, memory) = (OnceLock::new(), OnceLock::new());
        Self { kept: Mutex::default(), limit, in_files: Mutex::default(), files, memory }
    }
}

#[derive(Clone)]
enum Group {
    Stored(Arc<Vec<u8>>),
    /// Stored contents in a file of so many bytes.
    InFile(Arc<File>, usize),
    Programs(Arc<ProgramGroup>),
    Maps(Arc<Vec<AddressMap>>),
    Parameters(Arc<ParameterGroup>),
}

impl Group {
    fn memory(&self) -> u64 {
        match self {
            Self::Stored(bytes) => bytes.capacity() as u64,
            Self::InFile(..) => 0,
            Self::Programs(group) => group.memory(),
            Self::Maps(maps) => maps.iter().map(AddressMap::memory).sum(),
            Self::Parameters(group) => group.memory(),
        }
    }
}

/// What a stage but the last made.
enum Between {
    Memory(Vec<u8>),
    File(Map),
}

impl AsRef<[u8]> for Between {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::File(map) => map,
        }
    }
}

impl Groups {
    /// The group of `frame`; made by `decode` when it is not kept. Of threads that want the same one at once, one decodes it.
    fn get(&self, frame: u32, decode: impl FnOnce() -> Result<Group, DimgError>) -> Result<Group, DimgError> {
        let place = place(&self.kept, self.limit.load(Ordering::Relaxed), frame);
        let mut group = lock(&place);
        if let Some((group, _)) = &*group {
            return Ok(group.clone());
        }
        let decoded = decode()?;
        let Some(memory) = self.memory.get() else {
            return Ok(group.insert((decoded, None)).0.clone());
        };
        loop {
            if let Some(kept) = memory.keep(decoded.memory()) {
                return Ok(group.insert((decoded, Some(kept))).0.clone());
            }
            // In the place of one that was used earlier, or not at all.
            let mut all = lock(&self.kept);
            let Some(oldest) = all.iter().position(|(_, other)| !Arc::ptr_eq(other, &place)) else {
                return Ok(decoded);
            };
            drop(all.remove(oldest));
        }
    }

    /// Whether the group of `frame` is there, decoded.
    pub(super) fn has(&self, frame: u32) -> bool {
        [&self.kept, &self.in_files].into_iter().any(|kept| {
            let found =
                lock(kept).iter().find(|(number, _)| *number == frame).map(|(_, place)| Arc::clone(place));
            found.is_some_and(|place| place.try_lock().is_ok_and(|group| group.is_some()))
        })
    }

    /// As [`Groups::get`], of stored contents.
    fn stored(
        &self,
        frame: u32,
        decode: impl FnOnce() -> Result<Vec<u8>, DimgError>,
    ) -> Result<Group, DimgError> {
        let Some((limit, new_file)) = self.files.get() else {
            return self.get(frame, || Ok(Group::Stored(Arc::new(decode()?))));
        };
        let place = place(&self.in_files, *limit, frame);
        let mut group = lock(&place);
        if let Some((group, _)) = &*group {
            return Ok(group.clone());
        }
        let bytes = decode()?;
        let written = new_file(bytes.len()).and_then(|mut file| {
            file.write_all(&bytes)?;
            Ok(Group::InFile(Arc::new(file), bytes.len()))
        });
        match written {
            Ok(written) => Ok(group.insert((written, None)).0.clone()),
            // The disk is full: it is decoded again for the next one.
            Err(_) => Ok(Group::Stored(Arc::new(bytes))),
        }
    }

    fn clear(&self) {
        for kept in [&self.kept, &self.in_files] {
            lock(kept).clear();
        }
    }
}

/// No code that could panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of a frame among those kept, of which there are at most `limit`.
fn place(kept: &Kept, limit: usize, frame: u32) -> Place {
    let mut kept = lock(kept);
    match kept.iter().position(|(number, _)| *number == frame) {
        Some(at) => kept[at..].rotate_left(1),
        None => {
            if kept.len() >= limit {
                kept.remove(0);
            }
            kept.push((frame, Arc::default()));
        }
    }
    Arc::clone(&kept[kept.len() - 1].1)
}

impl Dimg {
    /// Keeps so many decoded groups, of up to 4 MiB each, instead of few: for contents that are made in another order than that of the file.
    pub fn keep_groups(&self, count: NonZeroUsize) {
        self.groups.limit.store(count.get(), Ordering::Relaxed);
    }

    /// Keeps so many decoded groups of stored contents in files that `new_file` makes for so many bytes, which should have no names, instead of in
    /// memory: for contents that are made in any order. Only the first call counts.
    pub fn keep_groups_in_files(
        &self,
        count: NonZeroUsize,
        new_file: impl Fn(usize) -> io::Result<File> + Send + Sync + 'static,
    ) {
        drop(self.groups.files.set((count.get(), Box::new(new_file))));
    }

    /// Has everything that is made from now on share `memory` with others: whoever makes a content waits until there is enough for it, and
    /// groups are kept as far as there is. Only the first call counts.
    pub fn share_memory(&self, memory: Arc<Memory>) {
        drop(self.groups.memory.set(memory));
    }

    /// Forgets all decoded groups.
    pub fn forget_groups(&self) {
        self.groups.clear();
    }

    /// Writes the content that `recipe`, one of this file's, makes from `base` to `out`. Its digest is verified at the
    /// end, when all has been written: whoever reads `out` waits for the result.
    ///
    /// # Errors
    /// The base is missing or of another size, the file is damaged, writing fails, or the digest is another one.
    pub fn make(
        &self,
        recipe: &Recipe,
        base: Option<&[u8]>,
        out: &mut dyn Write,
        scratch: Scratch<'_>,
    ) -> Result<(), DimgError> {
        self.make_on(1, recipe, base, out, scratch)
    }

    /// As [`Dimg::make`], with so many threads for what can be done side by side: for whoever waits for one large content.
    ///
    /// # Errors
    /// As for [`Dimg::make`].
    pub fn make_on(
        &self,
        threads: usize,
        recipe: &Recipe,
        base: Option<&[u8]>,
        out: &mut dyn Write,
        scratch: Scratch<'_>,
    ) -> Result<(), DimgError> {
        let mut out = HashingWriter::new(out);
        self.make_unverified(threads, recipe, base, &mut out, scratch)?;
        let found = out.finish();
        match found == recipe.content.digest {
            true => Ok(()),
            false => Err(DimgError::WrongContent { expected: recipe.content.digest, found }),
        }
    }

    /// As [`Dimg::make_on`], for an `out` that verifies what it gets by itself, so that no byte is hashed twice. `out` must not wait for
    /// another content of a file that shares memory with this one ([`Dimg::share_memory`]).
    ///
    /// # Errors
    /// As for [`Dimg::make`], but a wrong digest is not noticed.
    pub fn make_unverified(
        &self,
        threads: usize,
        recipe: &Recipe,
        base: Option<&[u8]>,
        out: &mut dyn Write,
        scratch: Scratch<'_>,
    ) -> Result<(), DimgError> {
        let cannot = |reason: String| DimgError::Make { content: recipe.content.digest, reason };
        let base = match (recipe.base, base) {
            (None, _) => &[][..],
            (Some(named), Some(base)) if named.size == base.len() as u64 => base,
            (Some(named), Some(base)) => {
                return Err(cannot(format!("its base has {} bytes, not {}", base.len(), named.size)));
            }
            (Some(named), None) => return Err(cannot(format!("its base {} is needed", named.digest))),
        };
        let Some((last, stages)) = recipe.stages.split_last() else {
            return Err(cannot("its recipe has no stages".to_owned()));
        };
        let memory = self.groups.memory.get();
        let threads = memory.map_or(threads, |memory| memory.threads(threads));
        // The base is there: nobody is waited for while this is taken.
        let _taken = memory.map(|memory| memory.take(self.making_bytes(recipe, threads)));
        let mut between: Option<Between> = None;
        for stage in stages {
            let old = between.as_ref().map_or(base, AsRef::as_ref);
            if stage.is_fill() {
                if stage.out_bytes != old.len() as u64 {
                    let reason = format!("a stage fills {} bytes, not {}", old.len(), stage.out_bytes);
                    return Err(DimgError::corrupt("recipes", 0, reason));
                }
                continue;
            }
            let held = match &between {
                Some(Between::Memory(bytes)) => bytes.len() as u64,
                _ => 0,
            };
            between = Some(if self.holds(held, stage.out_bytes) {
                // At most this much is written.
                let mut made = Vec::with_capacity(usize::try_from(stage.out_bytes).unwrap_or(0));
                self.stage_on(threads, stage, old, &mut made)?;
                Between::Memory(made)
            } else {
                let file = scratch().map_err(DimgError::Output)?;
                let mut writer = io::BufWriter::with_capacity(128 << 10, &file);
                self.stage_on(threads, stage, old, &mut writer)?;
                writer.flush().map_err(DimgError::Output)?;
                drop(writer);
                Between::File(Map::file(&file).map_err(DimgError::Output)?)
            });
        }
        self.stage_on(threads, last, between.as_ref().map_or(base, AsRef::as_ref), out)
    }

    /// Whether so many bytes that a stage but the last makes are held in memory, not in a file, beside those that it is given.
    pub(super) fn holds(&self, given: u64, bytes: u64) -> bool {
        let most = self.groups.memory.get().map_or(MEMORY_STAGES_BYTES, |all| all.part(MEMORY_STAGES_BYTES));
        bytes <= SMALL_STAGE_BYTES || given.saturating_add(bytes) <= most
    }

    /// Writes exactly `stage.out_bytes` bytes.
    pub(crate) fn stage(&self, stage: &Stage, old: &[u8], out: &mut dyn Write) -> Result<(), DimgError> {
        self.stage_on(1, stage, old, out)
    }

    fn stage_on(
        &self,
        threads: usize,
        stage: &Stage,
        old: &[u8],
        out: &mut dyn Write,
    ) -> Result<(), DimgError> {
        if !stage.codec.has_frame() {
            return unpack(stage, old, out);
        }
        // Its checksum is over all of it: not for each content of a group that is decoded already.
        let bytes = || self.frame(stage.frame);
        let row = self.frame_row(stage.frame)?;
        let offset = self.frame_offset(&row);
        let bad = |error| DimgError::frame(offset, error);
        match (stage.codec, stage.kind) {
            (StageCodec::Stored, FrameKind::Chunk) => self.chunks(stage, out),
            (StageCodec::Stored, _) => {
                let decode = || StoredFrame::parse(bytes()?).and_then(|frame| frame.decode()).map_err(bad);
                let group = self.groups.stored(stage.frame, decode)?;
                let all = match &group {
                    Group::Stored(bytes) => bytes.len(),
                    Group::InFile(_, bytes) => *bytes,
                    _ => return Err(DimgError::corrupt("frame", offset, "it holds no stored contents")),
                };
                let start = usize::try_from(stage.slot).unwrap_or(usize::MAX);
                let count = usize::try_from(stage.out_bytes).unwrap_or(usize::MAX);
                let end = start.saturating_add(count);
                if end > all {
                    let reason = format!("{all} bytes hold no {count} bytes from {start} on");
                    return Err(DimgError::corrupt("frame", offset, reason));
                }
                match group {
                    Group::Stored(bytes) => out.write_all(&bytes[start..end]).map_err(DimgError::Output),
                    Group::InFile(file, _) => {
                        let mut bytes = vec![0; count];
                        file.read_exact_at(&mut bytes, stage.slot).map_err(DimgError::Output)?;
                        out.write_all(&bytes).map_err(DimgError::Output)
                    }
                    _ => Ok(()),
                }
            }
            (StageCodec::Program, FrameKind::ProgramGroup) => {
                let decode = || {
                    let group = ProgramFrame::parse(bytes()?).and_then(|frame| frame.group()).map_err(bad)?;
                    Ok(Group::Programs(Arc::new(group)))
                };
                let Group::Programs(group) = self.groups.get(stage.frame, decode)? else {
                    return Err(DimgError::corrupt("frame", offset, "it holds no programs"));
                };
                group.apply_slot(stage.slot, old, stage.out_bytes, out).map_err(bad)
            }
            (StageCodec::Program, _) => {
                let frame = ProgramFrame::parse(bytes()?).map_err(bad)?;
                if frame.slots() != 1 {
                    let reason = format!("it holds {} programs, not one", frame.slots());
                    return Err(DimgError::corrupt("frame", offset, reason));
                }
                frame.apply_slot(0, old, stage.out_bytes, out).map_err(bad)
            }
            (StageCodec::Pack | StageCodec::UnpackSome, _) => {
                let decode = || {
                    let group =
                        ParameterFrame::parse(bytes()?).and_then(|frame| frame.group()).map_err(bad)?;
                    Ok(Group::Parameters(Arc::new(group)))
                };
                let Group::Parameters(group) = self.groups.get(stage.frame, decode)? else {
                    return Err(DimgError::corrupt("frame", offset, "it holds no parameters"));
                };
                let parameters = group.parameters(stage.slot).map_err(bad)?;
                if stage.codec == StageCodec::UnpackSome {
                    return opens(Plan::open_some(old, parameters, stage.out_bytes, out), stage, old);
                }
                if member::form_version(old) > stage.version {
                    let reason = format!("pack version {} does not make such a content", stage.version);
                    return Err(DimgError::corrupt("recipes", 0, reason));
                }
                member::pack(old, parameters, stage.out_bytes, out).map_err(bad)
            }
            (StageCodec::Unpack, _) => unpack(stage, old, out),
            (StageCodec::Elf, _) => {
                if stage.out_bytes != old.len() as u64 {
                    let reason = format!("a stage relocates {} bytes, not {}", old.len(), stage.out_bytes);
                    return Err(DimgError::corrupt("frame", offset, reason));
                }
                let version = elf::Version::from_number(stage.version).ok_or_else(|| {
                    DimgError::corrupt("recipes", 0, format!("elf has no version {}", stage.version))
                })?;
                let frame = RelocationFrame::parse(bytes()?).map_err(bad)?;
                let decode = || Ok(Group::Maps(Arc::new(frame.decode().map_err(bad)?)));
                // A large map alone is not worth keeping.
                let group =
                    if frame.slots() == 1 { decode()? } else { self.groups.get(stage.frame, decode)? };
                let Group::Maps(maps) = group else {
                    return Err(DimgError::corrupt("frame", offset, "it holds no address maps"));
                };
                let map = usize::try_from(stage.slot).ok().and_then(|slot| maps.get(slot));
                let map = map.ok_or_else(|| {
                    DimgError::corrupt("frame", offset, format!("it has no slot {}", stage.slot))
                })?;
                elf::relocate_on(old, map, version, threads, out).map_err(DimgError::Output)
            }
            (StageCodec::Reference, _) => ReferenceFrame::parse(bytes()?)
                .and_then(|frame| frame.apply(old, stage.out_bytes, out))
                .map_err(bad),
            (StageCodec::Bsdiff, _) => BsdiffFrame::parse(bytes()?)
                .and_then(|frame| frame.apply(old, stage.out_bytes, out))
                .map_err(bad),
        }
    }

    fn frame_row(&self, number: u32) -> Result<FrameRow, DimgError> {
        let row = self.frames()?.get(number as usize).copied();
        row.ok_or_else(|| DimgError::corrupt("section DATA", 0, format!("there is no frame {number}")))
    }

    /// A large content: all chunks but the last are full.
    fn chunks(&self, stage: &Stage, out: &mut dyn Write) -> Result<(), DimgError> {
        let mut left = stage.out_bytes;
        let mut number = stage.frame;
        loop {
            let offset = self.frame_offset(&self.frame_row(number)?);
            let bad = |error| DimgError::frame(offset, error);
            let frame = StoredFrame::parse(self.frame(number)?).map_err(bad)?;
            let expected = left.min(STORED_CHUNK_BYTES);
            if frame.raw_bytes() != expected {
                let reason = format!("the chunk has {} bytes, not {expected}", frame.raw_bytes());
                return Err(DimgError::corrupt("frame", offset, reason));
            }
            let mut reader = frame.reader().map_err(bad)?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = reader
                    .read(&mut buffer)
                    .map_err(|error| DimgError::corrupt("frame", offset, error.to_string()))?;
                if count == 0 {
                    break;
                }
                out.write_all(&buffer[..count]).map_err(DimgError::Output)?;
            }
            left -= expected;
            if left == 0 {
                return Ok(());
            }
            number = number.saturating_add(1);
        }
    }
}

/// Writes the opened form of `old`; bytes of no use before an error.
fn unpack(stage: &Stage, old: &[u8], out: &mut dyn Write) -> Result<(), DimgError> {
    let plan = Plan::open(old, stage.out_bytes, out).map(|plan| {
        // A file names the least version that opens a content.
        plan.filter(|_| member::version(old) <= stage.version)
    });
    opens(plan, stage, old)
}

/// Whether `old` was opened to as many bytes as `stage` makes.
fn opens(plan: Result<Option<Plan>, EngineError>, stage: &Stage, old: &[u8]) -> Result<(), DimgError> {
    let plan = plan.map_err(|error| match error {
        EngineError::Output(source) => DimgError::Output(source),
        other => DimgError::corrupt("section TABLES", 0, other.to_string()),
    })?;
    match plan.is_some_and(|plan| plan.opened_bytes() == stage.out_bytes) {
        true => Ok(()),
        false => {
            let reason = format!("unpack {} bytes: they do not open to {}", old.len(), stage.out_bytes);
            Err(DimgError::corrupt("section TABLES", 0, reason))
        }
    }
}
