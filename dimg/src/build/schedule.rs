//! Who works when: jobs for the worker threads, memory, and the order of frames in the file.
//!
//! Contents are handed out in the order of their numbers, and results are taken up in that order too, whenever they
//! come; so are frames, by a ticket drawn when their place in the file is settled. How far the workers may run ahead is
//! bounded, by memory and by count.

use super::alike::Alike;
use super::encode::{self, Kept, Moved, SMALL_CONTENT_BYTES, chunks, frame_memory};
use super::groups::{Group, Groups};
use super::names::{Candidate, Found, Names};
use super::opened::{self, Encoded, Pack, Unpacking};
use super::relatives::Relatives;
use super::similar::{Similar, tells};
use super::{BuildOptions, Codec, Progress, Side};
use crate::content::Bytes;
use crate::engine::compress::Level;
use crate::engine::elf;
use crate::engine::elf::AddressMap;
use crate::engine::frame::{ParameterFrame, ProgramFrame, RelocationFrame, STORED_CHUNK_BYTES, StoredFrame};
use crate::engine::parallel::{Workers, with_workers};
use crate::engine::program::Program;
use crate::format::{DimgError, DimgWriter, FrameKind, RecipeRow, StageCodec, StageRow};
use crate::index::edit::Place;
use crate::index::{Content, Edit, LayerIndex};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

/// Contents that may be worked on or wait beyond the first that is not finished.
const AHEAD: usize = 8192;

/// Contents from this size on may be worked on by several threads.
const SHARED_BYTES: u64 = 1 << 20;

type Result<T> = std::result::Result<T, DimgError>;

/// Work for a thread.
enum Job {
    Content { number: usize, found: Found, threads: usize },
    Programs { ticket: usize, kind: FrameKind, programs: Vec<Program> },
    Maps { ticket: usize, maps: Vec<AddressMap> },
    Parameters { ticket: usize, parameters: Vec<Vec<u8>> },
    Stored { ticket: usize, contents: Vec<u32> },
    Chunk { ticket: usize, content: u32, chunk: usize },
}

/// Work done.
enum Done {
    Content { number: usize, encoded: Encoded },
    Frame { ticket: usize, kind: FrameKind, bytes: Vec<u8> },
}

/// Makes all new contents of `edit`: the frames, and a recipe each.
pub(super) fn run(
    edit: &Edit,
    below: &[Arc<LayerIndex>],
    above: &[Arc<LayerIndex>],
    parent: Option<&Side<'_>>,
    target: &Side<'_>,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<(DimgWriter, Vec<RecipeRow>)> {
    let contents = &edit.new_contents;
    let all_bytes: u64 = contents.iter().map(|content| content.size).sum();
    progress.start(contents.len() as u64, all_bytes);
    let opened = contents.iter().map(|_| OnceLock::new()).collect();
    let alike = Alike::new(parent.map_or(&(), |parent| parent.contents), below);
    let worker = Worker { contents, paths: paths(contents, above), opened, parent, alike, target, options };
    let threads = options.threads.get();
    let work = |(job, memory)| (worker.run(job), memory);
    with_workers(threads, work, |workers| {
        let bases = Bases::new(edit, below, options.codec);
        let coordinator = Coordinator {
            worker: &worker,
            bases,
            similar: None,
            likeness: None,
            relatives: None,
            left_bytes: all_bytes,
            workers,
            next: 0,
            cursor: 0,
            early: BTreeMap::new(),
            under_way: 0,
            memory: 0,
            held: 0,
            ready: VecDeque::new(),
            groups: Groups::default(),
            grouped: false,
            tickets: Vec::new(),
            written: 0,
            early_frames: BTreeMap::new(),
            writer: DimgWriter::new(&options.dir)?,
            plans: vec![Plan::default(); contents.len()],
        };
        coordinator.run(progress)
    })
}

/// The path of each content's first user.
fn paths<'a>(contents: &[Content], above: &'a [Arc<LayerIndex>]) -> Vec<&'a [u8]> {
    let mut first = HashMap::with_capacity(contents.len());
    for entry in above.iter().flat_map(|layer| &layer.entries) {
        if let Some(content) = entry.content {
            first.entry(content.digest).or_insert(&*entry.path);
        }
    }
    contents.iter().map(|content| first.get(&content.digest).copied().unwrap_or_default()).collect()
}

/// What the worker threads share.
struct Worker<'a> {
    contents: &'a [Content],
    paths: Vec<&'a [u8]>,
    /// Of those contents that are kept opened, how often they were, and the bytes of the last opened form.
    opened: Vec<OnceLock<(usize, u64)>>,
    parent: Option<&'a Side<'a>>,
    alike: Alike<'a>,
    target: &'a Side<'a>,
    options: &'a BuildOptions,
}

impl Worker<'_> {
    fn run(&self, job: Job) -> Result<Done> {
        let level = self.options.level;
        match job {
            Job::Content { number, found, threads } => {
                let content = &self.contents[number];
                let new = encode::open(self.target.contents, content)?;
                let path = self.paths[number];
                let encoded =
                    opened::encode(content, path, &new, &found, &self.alike, self.options, threads)?;
                if let Some(packing) = &encoded.packing {
                    // Each content is encoded once.
                    let _ = self.opened[number].set((packing.packs.len(), packing.opened_bytes));
                }
                Ok(Done::Content { number, encoded })
            }
            Job::Programs { ticket, kind, programs } => {
                let programs: Vec<&Program> = programs.iter().collect();
                let bytes = ProgramFrame::encode(&programs, level)?;
                Ok(Done::Frame { ticket, kind, bytes })
            }
            Job::Maps { ticket, maps } => {
                let maps: Vec<&AddressMap> = maps.iter().collect();
                let bytes = RelocationFrame::encode(&maps, level)?;
                Ok(Done::Frame { ticket, kind: FrameKind::Relocations, bytes })
            }
            Job::Parameters { ticket, parameters } => {
                let parameters: Vec<&[u8]> = parameters.iter().map(Vec::as_slice).collect();
                let bytes = ParameterFrame::encode(&parameters, level)?;
                Ok(Done::Frame { ticket, kind: FrameKind::Parameters, bytes })
            }
            Job::Stored { ticket, contents } => {
                let open = |number: &u32| self.kept(*number as usize);
                let parts = contents.iter().map(open).collect::<Result<Vec<_>>>()?;
                let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
                Ok(Done::Frame {
                    ticket,
                    kind: FrameKind::StoredGroup,
                    bytes: StoredFrame::encode(&parts, level)?,
                })
            }
            Job::Chunk { ticket, content, chunk } => {
                let content = self.kept(content as usize)?;
                let part = chunks(&content).nth(chunk).unwrap_or_default();
                Ok(Done::Frame {
                    ticket,
                    kind: FrameKind::Chunk,
                    bytes: StoredFrame::encode(&[part], level)?,
                })
            }
        }
    }

    /// The bytes by which a content is kept: its own, or those of its opened form.
    fn kept(&self, number: usize) -> Result<Bytes> {
        let content = encode::open(self.target.contents, &self.contents[number])?;
        match self.opened[number].get() {
            None => Ok(content),
            Some((depth, _)) => opened::reopen(&content, *depth, self.options),
        }
    }

    /// How many these are.
    fn kept_bytes(&self, number: usize) -> u64 {
        self.opened[number].get().map_or(self.contents[number].size, |(_, bytes)| *bytes)
    }

    fn memory(&self, job: &Job) -> u64 {
        let level = self.options.level;
        match job {
            Job::Content { number, found, .. } => {
                encode::memory(&self.contents[*number], found, self.options)
            }
            Job::Programs { programs, .. } => {
                frame_memory(programs.iter().map(Program::raw_bytes).sum::<u64>(), level)
            }
            Job::Maps { maps, .. } => frame_memory(maps.iter().map(AddressMap::memory).sum(), level),
            Job::Parameters { parameters, .. } => {
                frame_memory(parameters.iter().map(|item| item.len() as u64).sum(), level)
            }
            Job::Stored { contents, .. } => {
                frame_memory(contents.iter().map(|number| self.kept_bytes(*number as usize)).sum(), level)
            }
            Job::Chunk { .. } => frame_memory(STORED_CHUNK_BYTES, level),
        }
    }
}

/// Finds what a content may be made from.
struct Bases<'a> {
    layers: &'a [Arc<LayerIndex>],
    origins: Vec<Option<Place>>,
    names: Names,
    none: bool,
}

impl<'a> Bases<'a> {
    fn new(edit: &Edit, layers: &'a [Arc<LayerIndex>], codec: Codec) -> Self {
        let none = codec == Codec::Store || layers.is_empty();
        let names = if none { Names::default() } else { Names::new(layers) };
        Self { layers, origins: edit.origins(), names, none }
    }

    /// The content of the parent's entry at `place`.
    fn content_at(&self, place: Place) -> Option<Content> {
        self.layers.get(place.layer as usize)?.entries.get(place.entry as usize)?.content
    }

    /// The likeliest first: what the entry is a copy of, what was at its path, what had its name but for the version.
    fn of(&self, number: usize, content: &Content, path: &[u8]) -> Vec<Candidate> {
        let mut bases: Vec<Candidate> = Vec::new();
        if self.none || content.size == 0 {
            return bases;
        }
        let origin = self
            .origins
            .get(number)
            .copied()
            .flatten()
            .and_then(|place| Some(Candidate { place, content: self.content_at(place)? }));
        for base in [origin, self.names.at(path), self.names.like(path, content.size)].into_iter().flatten() {
            let known = bases.iter().any(|other| other.content.digest == base.content.digest);
            if base.content.size > 0 && !known {
                bases.push(base);
            }
        }
        bases
    }
}

/// Where a content ended up.
#[derive(Clone, Default)]
struct Plan {
    base: Option<Place>,
    /// In the order in which they are run.
    stages: Vec<Planned>,
    /// Before all of them the base is unpacked, and that again.
    unpacked: Vec<Unpacked>,
    /// Then a fill, by its ticket, and the bytes that it makes.
    fill: Option<(usize, u64)>,
    /// By which version it is relocated.
    relocation: Option<elf::Version>,
    /// After all of them the content is packed.
    packed: Vec<Packed>,
}

/// An unpacking of a plan.
#[derive(Clone, Copy)]
struct Unpacked {
    out_bytes: u64,
    version: u32,
    /// The frame of what of it is opened; none within until it is known.
    places: Option<Option<usize>>,
}

/// A packing of a plan.
#[derive(Clone, Copy)]
struct Packed {
    /// The frame of the parameters; none until it is known.
    ticket: Option<usize>,
    version: u32,
    out_bytes: u64,
}

/// A stage of a plan.
#[derive(Clone, Copy)]
struct Planned {
    ticket: usize,
    kind: FrameKind,
    out_bytes: u64,
}

/// The one thread that hands out jobs and writes.
struct Coordinator<'a> {
    worker: &'a Worker<'a>,
    bases: Bases<'a>,
    /// The parent's contents by what is in them, made when first needed.
    similar: Option<Similar>,
    /// What the content of this number was last found to be like: a job may have to wait for memory and come again.
    likeness: Option<(usize, Option<Candidate>)>,
    /// For contents like no other, those of the parent that share words with them, by number; found when first needed.
    relatives: Option<HashMap<usize, Candidate>>,
    /// Bytes of the contents not handed out.
    left_bytes: u64,
    /// Jobs and results, with the memory of each.
    workers: Workers<'a, (Job, u64), (Result<Done>, u64)>,
    /// The first content not handed out.
    next: usize,
    /// The first content not taken up.
    cursor: usize,
    /// Results that came before their turn.
    early: BTreeMap<usize, Encoded>,
    under_way: usize,
    memory: u64,
    /// Bytes of results that wait for their turn.
    held: u64,
    /// Frame jobs, which go before contents.
    ready: VecDeque<Job>,
    groups: Groups,
    /// Whether the last groups have been closed.
    grouped: bool,
    /// Frame numbers by ticket, for those written.
    tickets: Vec<u32>,
    /// Tickets written: the next frame to write.
    written: usize,
    early_frames: BTreeMap<usize, (FrameKind, Vec<u8>)>,
    writer: DimgWriter,
    plans: Vec<Plan>,
}

impl Coordinator<'_> {
    fn run(mut self, progress: &mut dyn Progress) -> Result<(DimgWriter, Vec<RecipeRow>)> {
        loop {
            self.hand_out();
            if self.under_way == 0 {
                break;
            }
            let Some((result, memory)) = self.workers.receive() else {
                return Err(DimgError::Refused("a worker thread died".to_owned()));
            };
            self.under_way -= 1;
            self.memory -= memory;
            match result? {
                Done::Content { number, encoded } => {
                    progress.advance(1, self.worker.contents[number].size);
                    self.held += encoded.kept.bytes();
                    self.early.insert(number, encoded);
                    while let Some(encoded) = self.early.remove(&self.cursor) {
                        self.held -= encoded.kept.bytes();
                        self.take_up(self.cursor, encoded)?;
                        self.cursor += 1;
                    }
                    if self.cursor == self.worker.contents.len() && !self.grouped {
                        self.grouped = true;
                        for (kind, group) in std::mem::take(&mut self.groups).finish() {
                            match kind {
                                FrameKind::Program | FrameKind::ProgramGroup => self.close_programs(group)?,
                                _ => self.close(kind, group),
                            }
                        }
                    }
                }
                Done::Frame { ticket, kind, bytes } => self.write(ticket, kind, bytes)?,
            }
        }
        let stage = |planned: &Planned, relocation: Option<elf::Version>| StageRow {
            codec: planned.kind.codec(),
            version: match (planned.kind.codec(), relocation) {
                (StageCodec::Elf, Some(version)) => version.number(),
                (codec, _) => codec.version(),
            },
            frame: self.tickets[planned.ticket],
            slot: 0,
            out_bytes: planned.out_bytes,
        };
        let recipes = self.plans.iter().map(|plan| {
            let unpack = |&Unpacked { out_bytes, version, places }: &Unpacked| {
                let (codec, frame) = match places {
                    Some(ticket) => (StageCodec::UnpackSome, self.tickets[ticket?]),
                    None => (StageCodec::Unpack, 0),
                };
                Some(StageRow { codec, version, frame, slot: 0, out_bytes })
            };
            let pack = |packed: &Packed| {
                Some(StageRow {
                    codec: StageCodec::Pack,
                    version: packed.version,
                    frame: self.tickets[packed.ticket?],
                    slot: 0,
                    out_bytes: packed.out_bytes,
                })
            };
            let fill = |(ticket, out_bytes): (usize, u64)| StageRow {
                codec: StageCodec::Program,
                version: StageCodec::FILL,
                frame: self.tickets[ticket],
                slot: 0,
                out_bytes,
            };
            let before = plan.unpacked.iter().filter_map(unpack).chain(plan.fill.map(fill));
            let stages = before.chain(plan.stages.iter().map(|planned| stage(planned, plan.relocation)));
            RecipeRow { base: plan.base, stages: stages.chain(plan.packed.iter().filter_map(pack)).collect() }
        });
        let mut recipes: Vec<_> = recipes.collect();
        self.writer.number_slots(&mut recipes);
        Ok((self.writer, recipes))
    }

    /// Gives the workers what memory allows, at least one job.
    fn hand_out(&mut self) {
        while self.under_way < 2 * self.worker.options.threads.get() {
            let Some(job) = self.ready.pop_front().or_else(|| self.next_content()) else { return };
            let memory = self.worker.memory(&job);
            if self.under_way > 0 && self.memory + memory > self.worker.options.memory_bytes {
                self.put_back(job);
                return;
            }
            self.memory += memory;
            self.under_way += 1;
            self.workers.send((job, memory));
        }
    }

    fn next_content(&mut self) -> Option<Job> {
        let number = self.next;
        let content = self.worker.contents.get(number)?;
        let crowded = self.held > self.worker.options.memory_bytes / 4;
        if number > self.cursor && (crowded || number - self.cursor >= AHEAD) {
            return None;
        }
        self.next += 1;
        let mut bases = self.bases.of(number, content, self.worker.paths[number]);
        if bases.is_empty() && !self.bases.none && tells(content) {
            bases.extend(self.like(number, content));
        }
        // A content of more than its share of what is left would keep one thread busy while the rest wait.
        let threads = self.worker.options.threads.get();
        let alone = content.size >= (self.left_bytes / threads as u64).max(SHARED_BYTES);
        self.left_bytes -= content.size;
        Some(Job::Content {
            number,
            found: Found { relative: bases.is_empty().then(|| self.relative(number)).flatten(), bases },
            threads: if alone { threads } else { 1 },
        })
    }

    /// The content of the parent most like this one, of which no name tells.
    fn like(&mut self, number: usize, content: &Content) -> Option<Candidate> {
        if let Some((_, found)) = self.likeness.filter(|(known, _)| *known == number) {
            return found;
        }
        let Worker { parent, target, options, contents, paths, .. } = self.worker;
        let parent = (*parent)?;
        let bases = &self.bases;
        let similar = self.similar.get_or_insert_with(|| {
            let new = contents.iter().zip(paths).enumerate().filter(|(number, (content, path))| {
                tells(content) && bases.of(*number, content, path).is_empty()
            });
            let wanted: Vec<_> = new.map(|(_, (content, path))| (content.size, *path)).collect();
            Similar::new(&wanted, bases.layers, parent.contents, options.level, options.threads.get())
        });
        let found = similar.to(content, target.contents);
        self.likeness = Some((number, found));
        found
    }

    /// The content of the parent that shares most words with this one, of which nothing else tells.
    fn relative(&mut self, number: usize) -> Option<Candidate> {
        let Worker { parent, target, options, contents, paths, .. } = self.worker;
        let parent = (*parent)?;
        if self.bases.none || options.codec != Codec::Auto || options.level == Level::Fast {
            return None;
        }
        let bases = &self.bases;
        let relatives = self.relatives.get_or_insert_with(|| {
            let wanted = contents.iter().zip(paths).enumerate().filter(|(number, (content, path))| {
                Relatives::wants(content) && bases.of(*number, content, path).is_empty()
            });
            let wanted = wanted.map(|(number, (content, path))| (number, *content, *path)).collect();
            Relatives::new(wanted, target.contents).find(bases.layers, parent.contents, options)
        });
        relatives.get(&number).copied()
    }

    fn put_back(&mut self, job: Job) {
        match job {
            Job::Content { number, .. } => {
                self.next = number;
                self.left_bytes += self.worker.contents[number].size;
            }
            frame => self.ready.push_front(frame),
        }
    }

    fn take_up(&mut self, number: usize, encoded: Encoded) -> Result<()> {
        let Encoded { class, kept, packing } = encoded;
        let size = self.worker.kept_bytes(number);
        // Below MAX_CONTENTS.
        let content = u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(packing) = packing {
            for Unpacking { opened_bytes, version, places } in packing.unpacked {
                let ticket = places.is_some().then_some(None);
                self.plans[number].unpacked.push(Unpacked {
                    out_bytes: opened_bytes,
                    version,
                    places: ticket,
                });
                if let Some(full) = places.and_then(|places| self.groups.pack(content, places)) {
                    self.close(FrameKind::Parameters, full);
                }
            }
            for Pack { parameters, version, out_bytes } in packing.packs {
                self.plans[number].packed.push(Packed { ticket: None, version, out_bytes });
                if let Some(full) = self.groups.pack(content, parameters) {
                    self.close(FrameKind::Parameters, full);
                }
            }
        }
        match kept {
            Kept::Stored if size <= SMALL_CONTENT_BYTES => {
                if let Some(full) = self.groups.store(class, content, size) {
                    self.close(FrameKind::StoredGroup, full);
                }
            }
            Kept::Stored => {
                let count = usize::try_from(size.div_ceil(STORED_CHUNK_BYTES)).unwrap_or(usize::MAX);
                for chunk in 0..count {
                    let ticket = self.ticket();
                    if chunk == 0 {
                        self.plan(number, FrameKind::Chunk, ticket);
                    }
                    self.ready.push_back(Job::Chunk { ticket, content, chunk });
                }
            }
            Kept::Chunks(frames) => {
                for (chunk, bytes) in frames.into_iter().enumerate() {
                    let ticket = self.ticket();
                    if chunk == 0 {
                        self.plan(number, FrameKind::Chunk, ticket);
                    }
                    self.write(ticket, FrameKind::Chunk, bytes)?;
                }
            }
            Kept::Program(base, moved, program) => {
                self.plans[number].base = Some(base);
                self.relocate(content, moved)?;
                if let Some(full) = self.groups.patch(class, content, *program) {
                    self.close_programs(full)?;
                }
            }
            Kept::Either(base, program, frame) => {
                self.plans[number].base = Some(base);
                if let Some(full) = self.groups.either(class, content, *program, frame) {
                    self.close_programs(full)?;
                }
            }
            Kept::Frame(base, moved, kind, bytes) => {
                self.relocate(content, moved)?;
                let ticket = self.ticket();
                self.plans[number].base = Some(base);
                self.plan(number, kind, ticket);
                self.write(ticket, kind, bytes)?;
            }
        }
        Ok(())
    }

    /// Has the base of a content relocated before its patch is applied.
    fn relocate(&mut self, content: u32, moved: Option<Box<Moved>>) -> Result<()> {
        let Some(moved) = moved else { return Ok(()) };
        if let Some(fill) = &moved.fill {
            // A few copies.
            let bytes = ProgramFrame::encode(&[fill], self.worker.options.level)?;
            let ticket = self.ticket();
            self.plans[content as usize].fill = Some((ticket, fill.out_bytes));
            self.write(ticket, FrameKind::Program, bytes)?;
        }
        self.plans[content as usize].relocation = Some(moved.version);
        if let Some(full) = self.groups.relocate(content, moved.map) {
            self.close(FrameKind::Relocations, full);
        }
        Ok(())
    }

    /// Makes a group of programs a frame job, but for those whose contents other frames hold in less room.
    fn close_programs(&mut self, mut group: Group) -> Result<()> {
        for (content, frame) in group.take_apart() {
            let ticket = self.ticket();
            self.plan(content as usize, FrameKind::Reference, ticket);
            self.write(ticket, FrameKind::Reference, frame)?;
        }
        match group.contents.len() {
            0 => {}
            1 => self.close(FrameKind::Program, group),
            _ => self.close(FrameKind::ProgramGroup, group),
        }
        Ok(())
    }

    /// Makes a group a frame job.
    fn close(&mut self, kind: FrameKind, group: Group) {
        let ticket = self.ticket();
        for content in &group.contents {
            match kind {
                FrameKind::Relocations => self.plan_relocation(*content as usize, ticket),
                FrameKind::Parameters => {
                    // Groups are closed in the order in which they are filled.
                    let plan = &mut self.plans[*content as usize];
                    let places = plan.unpacked.iter_mut().filter_map(|unpacked| unpacked.places.as_mut());
                    let mut all = places.chain(plan.packed.iter_mut().map(|packed| &mut packed.ticket));
                    if let Some(unknown) = all.find(|known| known.is_none()) {
                        *unknown = Some(ticket);
                    }
                }
                _ => self.plan(*content as usize, kind, ticket),
            }
        }
        self.ready.push_back(match kind {
            FrameKind::Relocations => Job::Maps { ticket, maps: group.maps },
            FrameKind::Parameters => Job::Parameters { ticket, parameters: group.parameters },
            FrameKind::StoredGroup => Job::Stored { ticket, contents: group.contents },
            _ => Job::Programs { ticket, kind, programs: group.programs },
        });
    }

    /// Adds the stage that makes a content, or its opened form.
    fn plan(&mut self, number: usize, kind: FrameKind, ticket: usize) {
        let out_bytes = self.worker.kept_bytes(number);
        self.plans[number].stages.push(Planned { ticket, kind, out_bytes });
    }

    /// Adds the stage that relocates a content's base, or the opened form of it, which goes before all others.
    fn plan_relocation(&mut self, number: usize, ticket: usize) {
        let plan = &mut self.plans[number];
        let base = plan.base.and_then(|place| self.bases.content_at(place)).map_or(0, |base| base.size);
        let out_bytes = plan.unpacked.last().map_or(base, |unpacked| unpacked.out_bytes);
        plan.stages.insert(0, Planned { ticket, kind: FrameKind::Relocations, out_bytes });
    }

    fn ticket(&mut self) -> usize {
        self.tickets.push(u32::MAX);
        self.tickets.len() - 1
    }

    /// Writes the frame, or keeps it until those before it are written.
    fn write(&mut self, ticket: usize, kind: FrameKind, bytes: Vec<u8>) -> Result<()> {
        self.held += bytes.len() as u64;
        self.early_frames.insert(ticket, (kind, bytes));
        while let Some((kind, bytes)) = self.early_frames.remove(&self.written) {
            self.held -= bytes.len() as u64;
            self.tickets[self.written] = self.writer.frame(kind, &bytes)?;
            self.written += 1;
        }
        Ok(())
    }
}
