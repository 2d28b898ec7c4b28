//! The scan: all fields of a file, in the order of their offsets.

use super::code::Tables;
use super::image::{Image, Machine};
use super::tables::{Region, RegionKind, regions};
use super::{arm, data, tables, x86};

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

/// Takes fields, and keeps those that are in order and within the file.
pub(super) struct Sink<'s> {
    each: &'s mut dyn FnMut(&Field),
    from: usize,
    end: usize,
}

impl Sink<'_> {
    #[inline]
    pub(super) fn put(&mut self, field: &Field) {
        let end = field.offset.saturating_add(field.form.bytes());
        if field.offset >= self.from && end <= self.end {
            (self.each)(field);
            self.from = end;
        }
    }
}

/// Calls `each` with the fields of `image`: their offsets ascend, and they do not overlap.
pub(super) fn scan(image: &Image<'_>, each: &mut dyn FnMut(&Field)) {
    let regions = regions(image);
    let mut jump_tables = Tables::default();
    if image.machine == Machine::X86 {
        for region in regions.iter().filter(|region| region.kind == RegionKind::Code) {
            x86::find_tables(image, region, &mut jump_tables);
        }
    }
    let jump_tables = jump_tables.finish();
    for region in &regions {
        let mut sink = Sink { each: &mut *each, from: region.start, end: region.end };
        fields_of(image, region, &regions, &jump_tables, &mut sink);
    }
}

fn fields_of(
    image: &Image<'_>,
    region: &Region,
    regions: &[Region],
    jump_tables: &[u64],
    sink: &mut Sink<'_>,
) {
    match region.kind {
        RegionKind::Code => match image.machine {
            Machine::X86 => x86::scan(image, region, sink),
            Machine::Arm => arm::scan(image, region, sink),
        },
        RegionKind::Data => data::scan(image, region, regions, jump_tables, sink),
        RegionKind::Relocations { symbols } => tables::relocations(image, region, symbols, sink),
        RegionKind::Packed => tables::packed(image, region, sink),
        RegionKind::GoLines => tables::go_lines(image, region, sink),
        RegionKind::Symbols { strings } => tables::symbols(image, region, strings, sink),
        RegionKind::Dynamic => tables::dynamic(image, region, sink),
        RegionKind::Frames => tables::frames(image, region, sink),
        RegionKind::FrameIndex => tables::frame_index(image, region, sink),
    }
}
