//! The scan: all fields of a file, in the order of their offsets.

use super::archive::Targets;
use super::code::Tables;
use super::coding::Coding;
use super::golang::Golang;
use super::image::{Image, Machine};
use super::tables::{Region, RegionKind, regions};
use super::{Version, arm, arm32, data, tables, tables32, wasm, x86};

/// How a field holds its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 bits: the target, less the base.
    Add32,
    /// 32 bits: the base, less the target.
    Sub32,
    /// 64 bits: the target, less the base.
    Add64,
    /// 32 bits: a number of entries of 24 bytes from the base.
    Entry32,
    /// 32 bits: a number of words of 4 bytes from the base.
    Word32,
    /// 32 bits: a number of 64 KiB from [`the first place`](super::wasm).
    Block32,
    /// The lowest 26 bits of a word: the distance from base to target in words.
    Branch26,
    /// 21 bits of a word, two of them high up: the distance in pages.
    Page21,
    /// Twelve bits of a word from bit 10 on: the target within its page, shifted right by so many bits.
    Low12 {
        /// The shift.
        scale: u8,
        /// Bytes back to the word that has the page.
        back: u16,
    },
    /// What only 32-bit ARM has.
    Arm32(Coding),
}

impl Form {
    /// Bytes of the field.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Add64 => 8,
            _ => 4,
        }
    }
}

/// A place in the file that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) offset: usize,
    pub(super) form: Form,
    /// The address that it names.
    pub(super) target: u64,
    /// The address that the target is told from; none when it stands alone.
    pub(super) base: Option<u64>,
}

/// Takes fields, and keeps those that are in order and within the file. Code has so many that `each` is known to its scan.
pub(super) struct Sink<'s, F: ?Sized = dyn FnMut(&Field) + 's> {
    each: &'s mut F,
    from: usize,
    end: usize,
}

impl<F: FnMut(&Field) + ?Sized> Sink<'_, F> {
    #[inline]
    pub(super) fn put(&mut self, field: &Field) {
        let end = field.offset.saturating_add(field.form.bytes());
        if field.offset >= self.from && end <= self.end {
            (self.each)(field);
            self.from = end;
        }
    }
}

/// Bytes of a region of code or of even entries that are scanned as one unit.
const SLICE_BYTES: usize = if cfg!(fuzzing) { 1 << 10 } else { 1 << 20 };

/// A part of a region, scanned by itself.
#[derive(Clone, Debug)]
struct Unit {
    /// The region's number.
    region: usize,
    from: usize,
    to: usize,
    /// What is known of x86-64 code.
    slice: Option<x86::Slice>,
}

/// What a scan has to know of the whole file first, and the units that it can be done in.
pub(super) struct Scan<'i> {
    pub(super) image: &'i Image<'i>,
    version: Version,
    regions: Vec<Region>,
    golang: Golang,
    /// In a class data archive.
    targets: Targets,
    jump_tables: Vec<u64>,
    units: Vec<Unit>,
}

impl<'i> Scan<'i> {
    /// Looks through the file with so many threads.
    pub(super) fn new(image: &'i Image<'i>, version: Version, threads: usize) -> Self {
        Self::sliced(image, version, SLICE_BYTES, x86::MAX_MARK_BYTES, threads)
    }

    /// As [`Scan::new`], with slices of so many bytes and so much room for marks: the fields are the same.
    pub(super) fn sliced(
        image: &'i Image<'i>,
        version: Version,
        slice_bytes: usize,
        mut room: usize,
        threads: usize,
    ) -> Self {
        let regions = regions(image, version);
        let golang = match (version, image.machine) {
            (Version::One, _) | (_, Machine::Arm32) => Golang::default(),
            _ => Golang::new(image, &regions),
        };
        let targets = match image.machine {
            Machine::Archive if !regions.is_empty() => Targets::new(image),
            _ => Targets::default(),
        };
        let mut jump_tables = Tables::default();
        let mut units: Vec<Unit> = Vec::new();
        for (number, region) in regions.iter().enumerate() {
            let starts = match (region.kind, image.machine) {
                (RegionKind::Code, Machine::X86) => {
                    let slices =
                        x86::find_tables(image, region, slice_bytes, threads, &mut jump_tables, &mut room);
                    let first = units.len();
                    units.extend(slices.into_iter().map(|slice| Unit {
                        region: number,
                        from: slice.start,
                        to: region.end,
                        slice: Some(slice),
                    }));
                    for place in first + 1..units.len() {
                        units[place - 1].to = units[place].from;
                    }
                    continue;
                }
                (RegionKind::Code, Machine::Arm) => slices(region, slice_bytes, 4),
                (RegionKind::Code, Machine::Arm32) => slices(region, arm32::BLOCK_BYTES, 1),
                (RegionKind::Relocations { .. } | RegionKind::Symbols { .. }, machine) => {
                    let entry = if machine == Machine::Arm32 { 16 } else { 24 };
                    slices(region, slice_bytes, entry)
                }
                (RegionKind::Unwinding, _) => slices(region, slice_bytes, 8),
                (RegionKind::Packed | RegionKind::Archive | RegionKind::Memory, _) => {
                    slices(region, slice_bytes, 8)
                }
                _ => vec![region.start],
            };
            for (place, &from) in starts.iter().enumerate() {
                let to = starts.get(place + 1).copied().unwrap_or(region.end);
                units.push(Unit { region: number, from, to, slice: None });
            }
        }
        Self { image, version, regions, golang, targets, jump_tables: jump_tables.finish(), units }
    }

    /// The regions, by offset.
    pub(super) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The number of units.
    pub(super) fn units(&self) -> usize {
        self.units.len()
    }

    /// Where a unit starts: they ascend.
    pub(super) fn start(&self, unit: usize) -> usize {
        self.units.get(unit).map_or(usize::MAX, |unit| unit.from)
    }

    /// Bytes of a unit's part of its region.
    pub(super) fn unit_bytes(&self, unit: usize) -> u64 {
        self.units.get(unit).map_or(0, |unit| unit.to.saturating_sub(unit.from) as u64)
    }

    /// Calls `each` with all fields: their offsets ascend, and they do not overlap.
    pub(super) fn run(&self, each: &mut impl FnMut(&Field)) {
        for number in 0..self.units.len() {
            self.unit(number, each);
        }
    }

    /// Calls `each` with the fields of one unit, which come before those of the next one.
    pub(super) fn unit(&self, number: usize, each: &mut impl FnMut(&Field)) {
        let Some(&Unit { region, from, to, ref slice }) = self.units.get(number) else { return };
        let (image, region) = (self.image, &self.regions[region]);
        if let Some(slice) = slice {
            x86::scan(image, region, slice, to, &mut Sink { each, from, end: region.end });
            return;
        }
        let sink: &mut Sink<'_> = &mut Sink { each, from, end: region.end };
        // Tables of even entries are cut between two of them.
        let address = region.address.wrapping_add((from - region.start) as u64);
        let part = &Region { start: from, end: to, address, ..*region };
        if image.machine == Machine::Arm32 {
            match region.kind {
                RegionKind::Code => return arm32::scan(image, region, from..to, sink),
                RegionKind::Relocations { symbols } => {
                    return tables32::relocations(image, part, symbols, sink);
                }
                RegionKind::Symbols { strings } => return tables32::symbols(image, part, strings, sink),
                // Go's tables have words of eight bytes.
                RegionKind::GoLines | RegionKind::GoLinks => return,
                RegionKind::Exceptions => {
                    return tables32::exceptions(image, region, &self.regions, sink);
                }
                _ => {}
            }
        }
        match region.kind {
            RegionKind::Code => arm::scan(image, region, from, to, sink),
            RegionKind::Data => {
                data::scan(image, region, (&self.regions, &self.jump_tables, &self.golang), sink);
            }
            RegionKind::Relocations { symbols } => tables::relocations(image, part, symbols, sink),
            RegionKind::Packed => tables::packed(image, part, sink),
            RegionKind::GoLines => match self.version {
                Version::One => tables::go_lines(image, region, sink),
                _ => self.golang.lines(image, region, sink),
            },
            RegionKind::GoLinks => self.golang.links(image, region, sink),
            RegionKind::Symbols { strings } => {
                tables::symbols(image, part, strings, self.version, sink);
            }
            RegionKind::Dynamic => tables::dynamic(image, region, sink),
            RegionKind::Frames => tables::frames(image, region, self.version, sink),
            RegionKind::FrameIndex => tables::frame_index(image, region, sink),
            RegionKind::Unwinding => tables32::unwinding(image, part, sink),
            RegionKind::Exceptions => {}
            RegionKind::Archive => self.targets.scan(image, part, sink),
            RegionKind::Elements => wasm::tables(image, region, sink),
            RegionKind::Functions => wasm::functions(image, region, sink),
            RegionKind::Memory => wasm::memory(image, part, sink),
        }
    }
}

/// Where the slices of a region of entries of this length start.
fn slices(region: &Region, slice_bytes: usize, entry: usize) -> Vec<usize> {
    (region.start..region.end).step_by((slice_bytes / entry).max(1) * entry).collect()
}
