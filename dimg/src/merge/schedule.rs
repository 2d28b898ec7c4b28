//! Who works when, as in the builder: steps for the worker threads, memory, and the order of frames in the file.
//!
//! Frames that are copied come first. What is stored is handed out in the order of the frames that it is from, so that what stood together
//! stands together again; then the programs in the order of their contents. Results are taken up in that order whenever they come.

use super::chains::{Chain, Link};
use super::plan::{Plan, Step, compose_memory};
use super::pool::{Full, Pool, Seat};
use super::work::{Made, With, Worker, level_for};
use super::{MergeError, MergeOptions, Progress};
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::compress::{Level, pack_memory};
use crate::engine::frame::{PROGRAM_GROUP_BYTES, ProgramFrame, STORED_CHUNK_BYTES, StoredFrame};
use crate::engine::parallel::{Workers, with_workers};
use crate::engine::program::Program;
use crate::format::{Dimg, DimgError, DimgWriter, FrameKind, RecipeRow, StageRow};
use crate::index::Content;
use crate::limits::MAX_STAGES;
use std::collections::{BTreeMap, VecDeque};

/// Steps that may be worked on or wait beyond the first that is not finished.
const AHEAD: usize = 4096;

type Result<T> = std::result::Result<T, MergeError>;

/// What has to be done.
#[derive(Clone, Copy)]
enum Task {
    /// This step of a content stores something.
    Stored { content: u32, step: u32 },
    /// All programs of a content.
    Programs { content: u32 },
}

impl Task {
    fn number(self) -> u32 {
        let (Self::Stored { content, .. } | Self::Programs { content }) = self;
        content
    }

    fn content(self) -> usize {
        self.number() as usize
    }
}

/// What a task became: for each step its number and the parts.
type Parts = Vec<(u32, Vec<Made>)>;

/// Work for a thread.
enum Job {
    Step { number: usize, threads: usize },
    Programs { ticket: usize, kind: FrameKind, programs: Vec<Program>, level: Level },
    Stored { ticket: usize, contents: Vec<Bytes> },
    Chunk { ticket: usize, content: Bytes },
}

/// Work done.
enum Done {
    Step { number: usize, made: Parts },
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
    progress.start(tasks.len() as u64, tasks.iter().map(|task| contents[task.content()].size).sum());
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
            framed: 0,
            stored: Pool::new(STORED_CHUNK_BYTES),
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

/// What has to be done, in order.
fn tasks(plan: &Plan) -> Vec<Task> {
    let (mut stored, mut programs) = (Vec::new(), Vec::new());
    for (content, steps) in (0u32..).zip(&plan.steps) {
        for (step, what) in (0u32..).zip(steps) {
            if let Some(link) = source(what) {
                stored.push((link.file, link.row.frame, link.row.slot, content, step));
            }
        }
        if steps.iter().any(|step| matches!(step, Step::Programs(_))) {
            programs.push(Task::Programs { content });
        }
    }
    stored.sort_unstable();
    let stored = stored.into_iter().map(|(_, _, _, content, step)| Task::Stored { content, step });
    stored.chain(programs).collect()
}

/// The stored content that a step starts from, with which what it makes stands in a frame.
fn source(step: &Step) -> Option<&Link> {
    match step {
        Step::Kept { .. } | Step::Programs(_) => None,
        Step::Stored(link) => Some(link),
        Step::Run(links) => links.first(),
    }
}

fn do_task(
    worker: &Worker<'_>,
    plan: &Plan,
    contents: &[Content],
    task: Task,
    threads: usize,
) -> Result<Parts> {
    let steps = &plan.steps[task.content()];
    let Task::Stored { step, .. } = task else { return worker.programs(steps, threads) };
    let made = match &steps[step as usize] {
        Step::Stored(link) => worker.taken(link)?,
        Step::Run(links) => worker.run(links, contents.get(task.content()).filter(|_| steps.len() == 1))?,
        Step::Kept { .. } | Step::Programs(_) => return Ok(Vec::new()),
    };
    Ok(vec![(step, vec![Made::Stored(made)])])
}

fn do_job(worker: &Worker<'_>, plan: &Plan, contents: &[Content], tasks: &[Task], job: Job) -> Result<Done> {
    let level = worker.options.level;
    let encoded = |ticket, kind, bytes: std::result::Result<Vec<u8>, EngineError>| match bytes {
        Ok(bytes) => Ok(Done::Frame { ticket, kind, bytes }),
        Err(error) => Err(MergeError::Write(error.into())),
    };
    match job {
        Job::Step { number, threads } => {
            let made = do_task(worker, plan, contents, tasks[number], threads)?;
            Ok(Done::Step { number, made })
        }
        Job::Programs { ticket, kind, programs, level } => {
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

/// The memory of a task, about.
fn memory(
    files: &[&Dimg],
    plan: &Plan,
    contents: &[Content],
    task: Task,
    options: &MergeOptions,
) -> Result<u64> {
    let (steps, size) = (&plan.steps[task.content()], contents[task.content()].size);
    if let Task::Stored { step, .. } = task {
        // Decoders' windows; large results go to files.
        let run = matches!(steps.get(step as usize), Some(Step::Run(_)));
        return Ok(if run { (32 << 20) + size.min(16 << 20) } else { size });
    }
    let programs = steps.iter().filter_map(|step| match step {
        Step::Programs(links) => Some(links),
        _ => None,
    });
    let mut memory = 0u64;
    for link in programs.flatten() {
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

/// Bytes of memory that results hold.
fn held(made: &Parts) -> u64 {
    made.iter().flat_map(|(_, parts)| parts).map(Made::bytes).sum()
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
    early: BTreeMap<usize, Parts>,
    under_way: usize,
    /// Memory of the jobs under way.
    used: u64,
    /// Bytes of results that wait for their turn.
    held: u64,
    /// Frame jobs, which go before steps.
    ready: VecDeque<Job>,
    programs: Pool<Program>,
    /// Bytes of the programs put in frames so far.
    framed: u64,
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
                    progress.advance(1, self.contents[self.tasks[number].content()].size);
                    self.held += held(&made);
                    self.early.insert(number, made);
                    while let Some(made) = self.early.remove(&self.cursor) {
                        self.held -= held(&made);
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

    fn take_up(&mut self, task: Task, made: Parts) -> Result<()> {
        let mut own = Vec::new();
        let mut own_bytes = 0;
        for (step, parts) in made {
            for (part, made) in (0u32..).zip(parts) {
                let seat = Seat { content: task.number(), step, part };
                match made {
                    Made::Program { program, with, version, out_bytes } => {
                        let place = Placed::new(At::Frame(0), FrameKind::ProgramGroup, out_bytes);
                        self.placed.insert(seat, Placed { version, ..place });
                        // A varint of at most ten bytes counts its operations.
                        let bytes = program.raw_bytes() + 10;
                        if with == With::Others {
                            let full = self.programs.add((0, 0), seat, *program, bytes);
                            full.into_iter().for_each(|full| self.close_programs(full));
                            continue;
                        }
                        if own_bytes + bytes > PROGRAM_GROUP_BYTES {
                            self.close_programs(Full(std::mem::take(&mut own)));
                            own_bytes = 0;
                        }
                        own_bytes += bytes;
                        own.push((seat, *program));
                    }
                    Made::Frame { bytes, version, out_bytes } => {
                        let ticket = self.ticket();
                        let place = Placed::new(At::Ticket(ticket), FrameKind::Program, out_bytes);
                        self.placed.insert(seat, Placed { version, ..place });
                        self.held += bytes.len() as u64;
                        self.write(ticket, Frame::Bytes(FrameKind::Program, bytes))?;
                    }
                    Made::Copy(link) => {
                        let ticket = self.ticket();
                        let placed = Placed::new(At::Ticket(ticket), link.kind, link.row.out_bytes);
                        self.placed.insert(seat, Placed { version: link.row.version, ..placed });
                        self.write(ticket, Frame::Copy(link))?;
                    }
                    Made::Stored(bytes) => {
                        let what = &self.plan.steps[task.content()][step as usize];
                        let group = source(what).filter(|link| link.kind.is_group());
                        self.store(group.map(|link| (link.file, link.row.frame)), seat, &bytes);
                    }
                }
            }
        }
        if !own.is_empty() {
            self.close_programs(Full(own));
        }
        Ok(())
    }

    /// Stores a content, with those of a group if it comes from one.
    fn store(&mut self, group: Option<(usize, u32)>, seat: Seat, bytes: &Bytes) {
        let out_bytes = bytes.len() as u64;
        if let Some(source) = group
            && out_bytes <= STORED_CHUNK_BYTES
        {
            let place = Placed::new(At::Frame(0), FrameKind::StoredGroup, out_bytes);
            self.placed.insert(seat, place);
            let full = self.stored.add(source, seat, bytes.clone(), out_bytes);
            full.into_iter().for_each(|full| self.close_stored(full));
            return;
        }
        let chunk = usize::try_from(STORED_CHUNK_BYTES).unwrap_or(usize::MAX);
        for start in (0..bytes.len().max(1)).step_by(chunk) {
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
            self.framed = self.framed.saturating_add(program.raw_bytes());
            programs.push(program);
        }
        let level = level_for(self.framed, self.options.level);
        self.ready.push_back(Job::Programs { ticket, kind, programs, level });
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
