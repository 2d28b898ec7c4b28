//! Who works when, as in the builder: steps for the worker threads, memory, and the order of frames in the file.
//!
//! Frames that are copied come first. Steps are handed out in the order of the frames that they are from, so that a group is
//! decoded once and what stood together stands together again; results are taken up in that order whenever they come.

use super::chains::{Chain, Link};
use super::plan::{Plan, Step, compose_memory};
use super::pool::{Full, Pool, Seat};
use super::work::{Made, SMALL_CONTENT_BYTES, Worker};
use super::{MergeError, MergeOptions, Progress};
use crate::content::Bytes;
use crate::engine::compress::pack_memory;
use crate::engine::frame::{
    PROGRAM_GROUP_BYTES, ProgramFrame, STORED_CHUNK_BYTES, STORED_GROUP_BYTES, StoredFrame,
};
use crate::engine::parallel::{Workers, with_workers};
use crate::engine::program::Program;
use crate::format::{Dimg, DimgError, DimgWriter, FrameKind, RecipeRow, StageRow};
use crate::index::Content;
use crate::limits::MAX_STAGES;
use std::collections::{BTreeMap, VecDeque};

/// Steps that may be worked on or wait beyond the first that is not finished.
const AHEAD: usize = 4096;

type Result<T> = std::result::Result<T, MergeError>;

/// A step that has to be done: of which content, and which of its steps.
#[derive(Clone, Copy)]
struct Task {
    content: u32,
    step: u32,
}

/// Work for a thread.
enum Job {
    Step { number: usize, threads: usize },
    Programs { ticket: usize, kind: FrameKind, programs: Vec<Program> },
    Stored { ticket: usize, contents: Vec<Bytes> },
    Chunk { ticket: usize, content: Bytes },
}

/// Work done.
enum Done {
    Step { number: usize, made: Vec<Made> },
    Frame { ticket: usize, kind: FrameKind, bytes: Vec<u8> },
}

/// A frame that waits for its turn.
enum Frame {
    Bytes(FrameKind, Vec<u8>),
    Copy(Link),
}

/// Where a stage of the merged file is: a frame's number, or the ticket of one that will have a number.
#[derive(Clone, Copy)]
enum At {
    Frame(u32),
    Ticket(usize),
}

#[derive(Clone, Copy)]
struct Placed {
    at: At,
    slot: u64,
    kind: FrameKind,
    /// Of the stage's codec.
    version: u32,
    out_bytes: u64,
}

impl Placed {
    /// By the version of the codec that this program writes.
    fn new(at: At, kind: FrameKind, out_bytes: u64) -> Self {
        Self { at, slot: 0, kind, version: kind.codec().version(), out_bytes }
    }
}

/// Does all steps of `plan`: the frames, and a recipe for each content.
pub(super) fn run(
    files: &[&Dimg],
    contents: &[Content],
    chains: &[Chain],
    plan: &Plan,
    options: &MergeOptions,
    progress: &mut dyn Progress,
) -> Result<(DimgWriter, Vec<RecipeRow>)> {
    let tasks = tasks(plan);
    progress.start(tasks.len() as u64, tasks.iter().map(|task| contents[task.content as usize].size).sum());
    let mut writer = DimgWriter::new(&options.dir)?;
    for &(file, frame) in &plan.copied {
        copy(files, &mut writer, file, frame)?;
    }
    let worker = Worker::new(files, options);
    let threads = options.threads.get();
    let work = |(job, memory)| (do_job(&worker, plan, contents, &tasks, job), memory);
    with_workers(threads, work, |workers| {
        let memory = tasks.iter().map(|task| memory(files, plan, contents, *task, options));
        let memory = memory.collect::<Result<Vec<_>>>()?;
        let coordinator = Coordinator {
            files,
            contents,
            plan,
            tasks: &tasks,
            all_memory: memory.iter().sum(),
            memory,
            options,
            workers,
            next: 0,
            cursor: 0,
            early: BTreeMap::new(),
            under_way: 0,
            used: 0,
            held: 0,
            ready: VecDeque::new(),
            programs: Pool::new(PROGRAM_GROUP_BYTES),
            stored: Pool::new(STORED_GROUP_BYTES),
            pooled: false,
            tickets: Vec::new(),
            written: 0,
            early_frames: BTreeMap::new(),
            writer,
            placed: BTreeMap::new(),
        };
        coordinator.run(chains, progress)
    })
}

/// Copies a frame of a file.
fn copy(files: &[&Dimg], writer: &mut DimgWriter, file: usize, frame: u32) -> Result<u32> {
    let failed = MergeError::file(file);
    let rows = files[file].frames().map_err(&failed)?;
    let kind = rows.get(frame as usize).map_or(FrameKind::Program, |row| row.kind);
    let bytes = files[file].frame(frame).map_err(&failed)?;
    Ok(writer.frame(kind, bytes)?)
}

/// The steps that have to be done, in order.
fn tasks(plan: &Plan) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (content, steps) in (0u32..).zip(&plan.steps) {
        for (step, what) in (0u32..).zip(steps) {
            if let Some(link) = from(what) {
                let source = source(what, link, content);
                tasks.push(((source, link.row.slot, content, step), Task { content, step }));
            }
        }
    }
    tasks.sort_unstable_by_key(|(key, _)| *key);
    tasks.into_iter().map(|(_, task)| task).collect()
}

/// What the results of a step stand with: those of the same frame of a file, or of the same content.
fn source(step: &Step, link: &Link, content: u32) -> (usize, u32) {
    match step {
        Step::Joined(_) => (usize::MAX, content),
        _ => (link.file, link.row.frame),
    }
}

/// The link that tells what a step's result stands with; none when there is nothing to do.
fn from(step: &Step) -> Option<&Link> {
    match step {
        Step::Kept { .. } => None,
        Step::Programs(links) => links.last(),
        Step::Joined(link) | Step::Stored(link) => Some(link),
        Step::Run(links) => links.first(),
    }
}

fn do_job(worker: &Worker<'_>, plan: &Plan, contents: &[Content], tasks: &[Task], job: Job) -> Result<Done> {
    let level = worker.options.level;
    let encoded = |ticket, kind, bytes: std::result::Result<Vec<u8>, _>| match bytes {
        Ok(bytes) => Ok(Done::Frame { ticket, kind, bytes }),
        Err(error) => Err(MergeError::Write(DimgError::Engine(error))),
    };
    match job {
        Job::Step { number, threads } => {
            let Task { content, step } = tasks[number];
            let content = content as usize;
            let made = worker.step(&plan.steps[content][step as usize], &contents[content], threads)?;
            Ok(Done::Step { number, made })
        }
        Job::Programs { ticket, kind, programs } => {
            let programs: Vec<&Program> = programs.iter().collect();
            encoded(ticket, kind, ProgramFrame::encode(&programs, level))
        }
        Job::Stored { ticket, contents } => {
            let parts: Vec<&[u8]> = contents.iter().map(|content| &**content).collect();
            encoded(ticket, FrameKind::StoredGroup, StoredFrame::encode(&parts, level))
        }
        Job::Chunk { ticket, content } => {
            encoded(ticket, FrameKind::Chunk, StoredFrame::encode(&[&content], level))
        }
    }
}

/// The memory of a step, about.
fn memory(
    files: &[&Dimg],
    plan: &Plan,
    contents: &[Content],
    task: Task,
    options: &MergeOptions,
) -> Result<u64> {
    let size = contents[task.content as usize].size;
    match &plan.steps[task.content as usize][task.step as usize] {
        Step::Kept { .. } => Ok(0),
        Step::Programs(links) => {
            let mut memory = 0u64;
            for link in links {
                memory = memory.saturating_add(match link.kind.is_group() {
                    // A small program, laid out.
                    true => 1 << 20,
                    false => compose_memory(files, link)?.saturating_add(pack_memory(
                        link.row.out_bytes.min(16 << 20),
                        options.level,
                        24,
                    )),
                });
            }
            Ok(memory)
        }
        Step::Joined(link) => compose_memory(files, link),
        Step::Stored(_) => Ok(size),
        // Decoders' windows; large results go to files.
        Step::Run(_) => Ok((32 << 20) + size.min(16 << 20)),
    }
}

/// The one thread that hands out jobs and writes.
struct Coordinator<'a> {
    files: &'a [&'a Dimg],
    contents: &'a [Content],
    plan: &'a Plan,
    tasks: &'a [Task],
    /// Of each task.
    memory: Vec<u64>,
    all_memory: u64,
    options: &'a MergeOptions,
    /// Jobs and results, with the memory of each.
    workers: Workers<'a, (Job, u64), (Result<Done>, u64)>,
    /// The first task not handed out.
    next: usize,
    /// The first task not taken up.
    cursor: usize,
    /// Results that came before their turn.
    early: BTreeMap<usize, Vec<Made>>,
    under_way: usize,
    /// Memory of the jobs under way.
    used: u64,
    /// Bytes of results that wait for their turn.
    held: u64,
    /// Frame jobs, which go before steps.
    ready: VecDeque<Job>,
    programs: Pool<Program>,
    stored: Pool<Bytes>,
    /// Whether the last groups have been closed.
    pooled: bool,
    /// Frame numbers by ticket, for those written.
    tickets: Vec<u32>,
    /// Tickets written: the next frame to write.
    written: usize,
    early_frames: BTreeMap<usize, Frame>,
    writer: DimgWriter,
    placed: BTreeMap<Seat, Placed>,
}

impl Coordinator<'_> {
    fn run(mut self, chains: &[Chain], progress: &mut dyn Progress) -> Result<(DimgWriter, Vec<RecipeRow>)> {
        loop {
            if self.cursor == self.tasks.len() && !std::mem::replace(&mut self.pooled, true) {
                let (programs, stored) = (self.programs.finish(), self.stored.finish());
                programs.into_iter().for_each(|full| self.close_programs(full));
                stored.into_iter().for_each(|full| self.close_stored(full));
            }
            self.hand_out();
            if self.under_way == 0 {
                break;
            }
            let Some((result, memory)) = self.workers.receive() else {
                return Err(DimgError::Refused("a worker thread died".to_owned()).into());
            };
            self.under_way -= 1;
            self.used -= memory;
            match result? {
                Done::Step { number, made } => {
                    progress.advance(1, self.contents[self.tasks[number].content as usize].size);
                    self.held += made.iter().map(Made::bytes).sum::<u64>();
                    self.early.insert(number, made);
                    while let Some(made) = self.early.remove(&self.cursor) {
                        self.held -= made.iter().map(Made::bytes).sum::<u64>();
                        self.take_up(self.tasks[self.cursor], made)?;
                        self.cursor += 1;
                    }
                }
                Done::Frame { ticket, kind, bytes } => {
                    self.held += bytes.len() as u64;
                    self.write(ticket, Frame::Bytes(kind, bytes))?;
                }
            }
        }
        let recipes = self.recipes(chains)?;
        Ok((self.writer, recipes))
    }

    fn recipes(&self, chains: &[Chain]) -> Result<Vec<RecipeRow>> {
        let mut recipes = Vec::with_capacity(chains.len());
        for (content, (chain, steps)) in (0u32..).zip(chains.iter().zip(&self.plan.steps)) {
            let mut stages = Vec::new();
            for (step, what) in (0u32..).zip(steps) {
                if let Step::Kept { link, frame } = what {
                    stages.push(StageRow { frame: *frame, ..link.row });
                    continue;
                }
                let seats = Seat { content, step, part: 0 }..=Seat { content, step, part: u32::MAX };
                for (_, placed) in self.placed.range(seats) {
                    let frame = match placed.at {
                        At::Frame(frame) => frame,
                        At::Ticket(ticket) => self.tickets[ticket],
                    };
                    let Placed { slot, kind, version, out_bytes, .. } = *placed;
                    stages.push(StageRow { codec: kind.codec(), version, frame, slot, out_bytes });
                }
            }
            if stages.len() > MAX_STAGES {
                let content = self.contents[content as usize].digest;
                return Err(MergeError::Stages { content, stages: stages.len(), limit: MAX_STAGES });
            }
            recipes.push(RecipeRow { base: chain.base, stages });
        }
        Ok(recipes)
    }

    /// Gives the workers what memory allows, at least one job.
    fn hand_out(&mut self) {
        while self.under_way < 2 * self.options.threads.get() {
            let Some(job) = self.ready.pop_front().or_else(|| self.next_step()) else { return };
            let memory = self.job_memory(&job);
            if self.under_way > 0 && self.used.saturating_add(memory) > self.options.memory_bytes {
                match job {
                    Job::Step { number, .. } => self.next = number,
                    frame => self.ready.push_front(frame),
                }
                return;
            }
            self.used += memory;
            self.under_way += 1;
            // There is room for all that may be under way, and workers live as long as this sender.
            self.workers.send((job, memory));
        }
    }

    fn next_step(&mut self) -> Option<Job> {
        let number = self.next;
        let memory = *self.memory.get(number)?;
        let crowded = self.held > self.options.memory_bytes / 4;
        if number > self.cursor && (crowded || number - self.cursor >= AHEAD) {
            return None;
        }
        self.next += 1;
        // What outweighs all others would keep one thread busy while the rest wait.
        let threads = if memory > self.all_memory / 4 { self.options.threads.get() } else { 1 };
        Some(Job::Step { number, threads })
    }

    fn job_memory(&self, job: &Job) -> u64 {
        let frame = |raw_bytes: u64| 2 * raw_bytes + pack_memory(raw_bytes, self.options.level, 24);
        match job {
            Job::Step { number, .. } => self.memory[*number],
            Job::Programs { programs, .. } => frame(programs.iter().map(Program::raw_bytes).sum()),
            Job::Stored { contents, .. } => frame(contents.iter().map(|content| content.len() as u64).sum()),
            Job::Chunk { content, .. } => frame(content.len() as u64),
        }
    }

    fn take_up(&mut self, task: Task, made: Vec<Made>) -> Result<()> {
        let step = &self.plan.steps[task.content as usize][task.step as usize];
        // Only results of one source are put together, unless they are few.
        let source = from(step).map(|link| source(step, link, task.content)).unwrap_or_default();
        for (part, made) in (0u32..).zip(made) {
            let seat = Seat { content: task.content, step: task.step, part };
            match made {
                Made::Program { program, out_bytes } => {
                    let place = Placed::new(At::Frame(0), FrameKind::ProgramGroup, out_bytes);
                    self.placed.insert(seat, place);
                    // A varint of at most ten bytes counts its operations.
                    let bytes = program.raw_bytes() + 10;
                    let full = self.programs.add(source, seat, *program, bytes);
                    full.into_iter().for_each(|full| self.close_programs(full));
                }
                Made::Frame { kind, bytes, out_bytes } => {
                    let ticket = self.ticket();
                    self.placed.insert(seat, Placed::new(At::Ticket(ticket), kind, out_bytes));
                    self.held += bytes.len() as u64;
                    self.write(ticket, Frame::Bytes(kind, bytes))?;
                }
                Made::Copy(link) => {
                    let ticket = self.ticket();
                    let placed = Placed::new(At::Ticket(ticket), link.kind, link.row.out_bytes);
                    self.placed.insert(seat, Placed { version: link.row.version, ..placed });
                    self.write(ticket, Frame::Copy(link))?;
                }
                Made::Stored(bytes) => self.store(source, seat, &bytes),
            }
        }
        Ok(())
    }

    fn store(&mut self, source: (usize, u32), seat: Seat, bytes: &Bytes) {
        let out_bytes = bytes.len() as u64;
        if out_bytes <= SMALL_CONTENT_BYTES {
            let place = Placed::new(At::Frame(0), FrameKind::StoredGroup, out_bytes);
            self.placed.insert(seat, place);
            let full = self.stored.add(source, seat, bytes.clone(), out_bytes);
            full.into_iter().for_each(|full| self.close_stored(full));
            return;
        }
        let chunk = usize::try_from(STORED_CHUNK_BYTES).unwrap_or(usize::MAX);
        for start in (0..bytes.len()).step_by(chunk) {
            let ticket = self.ticket();
            if start == 0 {
                let place = Placed::new(At::Ticket(ticket), FrameKind::Chunk, out_bytes);
                self.placed.insert(seat, place);
            }
            let end = start.saturating_add(chunk).min(bytes.len());
            let content = bytes.slice(start..end).unwrap_or_default();
            self.ready.push_back(Job::Chunk { ticket, content });
        }
    }

    fn close_programs(&mut self, full: Full<Program>) {
        let ticket = self.ticket();
        let kind = if full.0.len() == 1 { FrameKind::Program } else { FrameKind::ProgramGroup };
        let mut programs = Vec::with_capacity(full.0.len());
        for (slot, (seat, program)) in (0u64..).zip(full.0) {
            if let Some(placed) = self.placed.get_mut(&seat) {
                (placed.at, placed.slot, placed.kind) = (At::Ticket(ticket), slot, kind);
            }
            programs.push(program);
        }
        self.ready.push_back(Job::Programs { ticket, kind, programs });
    }

    fn close_stored(&mut self, full: Full<Bytes>) {
        let ticket = self.ticket();
        let mut contents = Vec::with_capacity(full.0.len());
        let mut offset = 0u64;
        for (seat, content) in full.0 {
            if let Some(placed) = self.placed.get_mut(&seat) {
                (placed.at, placed.slot) = (At::Ticket(ticket), offset);
            }
            offset += content.len() as u64;
            contents.push(content);
        }
        self.ready.push_back(Job::Stored { ticket, contents });
    }

    fn ticket(&mut self) -> usize {
        self.tickets.push(u32::MAX);
        self.tickets.len() - 1
    }

    /// Writes the frame, or keeps it until those before it are written.
    fn write(&mut self, ticket: usize, frame: Frame) -> Result<()> {
        self.early_frames.insert(ticket, frame);
        while let Some(frame) = self.early_frames.remove(&self.written) {
            self.tickets[self.written] = match frame {
                Frame::Bytes(kind, bytes) => {
                    self.held -= bytes.len() as u64;
                    self.writer.frame(kind, &bytes)?
                }
                Frame::Copy(link) => copy(self.files, &mut self.writer, link.file, link.row.frame)?,
            };
            self.written += 1;
        }
        Ok(())
    }
}
