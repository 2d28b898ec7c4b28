//! The headers of an ELF file: what its tables of segments and sections say.

use super::image::{u16_at, u32_at, word_at};

/// Program headers and section headers beyond so many are not looked at.
const MAX_PROGRAM_HEADERS: usize = 128;
const MAX_SECTIONS: usize = 8192;

/// How wide addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Elf32,
    Elf64,
}

/// Where the headers have what.
struct Layout {
    word_bytes: usize,
    /// In the file's header: where the tables are told, then sizes and counts of their entries, and which section has names.
    programs: usize,
    sections: usize,
    sizes: usize,
    program_bytes: usize,
    section_bytes: usize,
    /// In a program header: flags, offset, address, bytes in the file, bytes in memory.
    program: [usize; 5],
    /// In a section header: flags, offset, bytes, link.
    section: [usize; 4],
}

const ELF32: Layout = Layout {
    word_bytes: 4,
    programs: 0x1c,
    sections: 0x20,
    sizes: 0x2a,
    program_bytes: 32,
    section_bytes: 40,
    program: [24, 4, 8, 16, 20],
    section: [8, 16, 20, 24],
};

const ELF64: Layout = Layout {
    word_bytes: 8,
    programs: 0x20,
    sections: 0x28,
    sizes: 0x36,
    program_bytes: 56,
    section_bytes: 64,
    program: [4, 8, 16, 32, 40],
    section: [8, 24, 32, 40],
};

impl Class {
    /// That of a little-endian file; none of any other.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..7)? {
            b"\x7fELF\x01\x01\x01" => Some(Self::Elf32),
            b"\x7fELF\x02\x01\x01" => Some(Self::Elf64),
            _ => None,
        }
    }

    fn layout(self) -> &'static Layout {
        match self {
            Self::Elf32 => &ELF32,
            Self::Elf64 => &ELF64,
        }
    }
}

impl Layout {
    fn usize_at(&self, bytes: &[u8], at: usize) -> Option<usize> {
        word_at(bytes, at, self.word_bytes).and_then(|value| usize::try_from(value).ok())
    }
}

/// Of a program header: type, flags, offset, address, bytes in the file, bytes in memory.
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: usize,
    pub(super) address: u64,
    pub(super) bytes: usize,
    pub(super) memory: u64,
}

pub(super) fn program_headers(bytes: &[u8]) -> impl Iterator<Item = ProgramHeader> {
    let layout = Class::of(bytes).map(Class::layout);
    let count =
        layout.map_or(0, |layout| match (u16_at(bytes, layout.sizes), u16_at(bytes, layout.sizes + 2)) {
            (Some(size), Some(count)) if usize::from(size) == layout.program_bytes => count.into(),
            _ => 0,
        });
    let table = layout.and_then(|layout| layout.usize_at(bytes, layout.programs));
    (0..count.min(MAX_PROGRAM_HEADERS)).filter_map(move |number| {
        let layout = layout?;
        let at = table?.checked_add(number * layout.program_bytes)?;
        let header = bytes.get(at..)?;
        let [flags, offset, address, file, memory] = layout.program;
        Some(ProgramHeader {
            kind: u32_at(header, 0)?,
            flags: u32_at(header, flags)?,
            offset: layout.usize_at(header, offset)?,
            address: word_at(header, address, layout.word_bytes)?,
            bytes: layout.usize_at(header, file)?,
            memory: word_at(header, memory, layout.word_bytes)?,
        })
    })
}

/// A section header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) link: usize,
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// The section headers; none when they are not all there.
pub(super) fn sections(bytes: &[u8]) -> Option<Vec<Section<'_>>> {
    let layout = Class::of(bytes)?.layout();
    let table = layout.usize_at(bytes, layout.sections)?;
    let [size, count, names] = [4, 6, 8].map(|at| u16_at(bytes, layout.sizes + at).map(usize::from));
    if table == 0 || size? != layout.section_bytes {
        return None;
    }
    let [flags, offset, length, link] = layout.section;
    let header = |number: usize| {
        let at = table.checked_add(number * layout.section_bytes)?;
        bytes.get(at..at.checked_add(layout.section_bytes)?)
    };
    let names = layout.usize_at(header(names?)?, offset)?;
    let mut sections = Vec::new();
    for number in 0..count?.min(MAX_SECTIONS) {
        let header = header(number)?;
        let name = names.checked_add(u32_at(header, 0)? as usize)?;
        let name = bytes.get(name..).unwrap_or_default();
        let name = &name[..name.iter().take(32).position(|&byte| byte == 0).unwrap_or(0)];
        let (kind, offset) = (u32_at(header, 4)?, layout.usize_at(header, offset)?);
        let size = layout.usize_at(header, length)?;
        let whole = kind != 8 && offset.checked_add(size).is_some_and(|end| end <= bytes.len());
        sections.push(Section {
            name,
            kind: if whole { kind } else { 0 },
            flags: word_at(header, flags, layout.word_bytes)?,
            link: u32_at(header, link)? as usize,
            offset: if whole { offset } else { 0 },
            bytes: if whole { size } else { 0 },
        });
    }
    Some(sections)
}
