//! Which small results share a frame.
//!
//! Contents of one kind are alike, and so are patches on them; a compressor gains from seeing them together. Kinds are
//! told by their first bytes and their name's ending. Within a kind the order is that of the contents in the file.

use crate::engine::elf::{AddressMap, MAX_SEGMENTS};
use crate::engine::frame::{
    MAX_SLOTS, PARAMETER_GROUP_BYTES, PROGRAM_GROUP_BYTES, RelocationFrame, STORED_GROUP_BYTES,
};
use crate::engine::program::{Program, StreamKind};
use crate::format::FrameKind;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A kind of contents; only equality and an order matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class(&'static str, Vec<u8>);

impl Class {
    /// The kind of a content, from its name and first bytes.
    pub(super) fn of(path: &[u8], content: &[u8]) -> Self {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let ending = name.iter().rposition(|byte| *byte == b'.').map(|dot| &name[dot + 1..]);
        let ending = ending.filter(|ending| ending.len() <= 8 && !ending.iter().all(u8::is_ascii_digit));
        let magic = match content {
            [0x7f, b'E', b'L', b'F', ..] => return Self("elf", Vec::new()),
            [0x1f, 0x8b, ..] => return Self("gzip", Vec::new()),
            [b'P', b'K', 3, 4, ..] => return Self("zip", Vec::new()),
            [b'T', b'Z', b'i', b'f', ..] => return Self("zoneinfo", Vec::new()),
            [0xde, 0x12, 0x04, 0x95, ..] => return Self("mo", Vec::new()),
            [b'#', b'!', ..] => "script",
            _ if content[..content.len().min(512)].contains(&0) => "binary",
            _ => "text",
        };
        Self(magic, ending.unwrap_or_default().to_ascii_lowercase())
    }
}

/// A frame's worth of results, by content number.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub contents: Vec<u32>,
    /// For programs; empty for stored contents.
    pub programs: Vec<Program>,
    /// For programs: frames that could hold their contents instead, by content.
    pub rivals: BTreeMap<u32, Vec<u8>>,
    /// For relocations; else empty.
    pub maps: Vec<AddressMap>,
    /// For parameters of packing; else empty.
    pub parameters: Vec<Vec<u8>>,
    pub raw_bytes: u64,
}

/// Groups being filled.
#[derive(Debug, Default)]
pub(super) struct Groups {
    stored: BTreeMap<Class, Group>,
    programs: BTreeMap<Class, Group>,
    maps: Group,
    parameters: Group,
}

impl Groups {
    /// Adds a content to be stored; the group that was full before it.
    pub(super) fn store(&mut self, class: Class, content: u32, bytes: u64) -> Option<Group> {
        let group = self.stored.entry(class).or_default();
        let full = take_if_full(group, bytes, STORED_GROUP_BYTES);
        group.contents.push(content);
        group.raw_bytes += bytes;
        full
    }

    /// Adds a program; the group that was full before it.
    pub(super) fn patch(&mut self, class: Class, content: u32, program: Program) -> Option<Group> {
        // A varint of at most ten bytes counts its operations.
        let bytes = program.raw_bytes() + 10;
        let group = self.programs.entry(class).or_default();
        let full = take_if_full(group, bytes, PROGRAM_GROUP_BYTES);
        group.contents.push(content);
        group.programs.push(program);
        group.raw_bytes += bytes;
        full
    }

    /// As [`Groups::patch`], with a frame that could hold the content instead.
    pub(super) fn either(
        &mut self,
        class: Class,
        content: u32,
        program: Program,
        frame: Vec<u8>,
    ) -> Option<Group> {
        let full = self.patch(class.clone(), content, program);
        if let Some(group) = self.programs.get_mut(&class) {
            group.rivals.insert(content, frame);
        }
        full
    }

    /// Adds an address map; the group that was full before it.
    pub(super) fn relocate(&mut self, content: u32, map: AddressMap) -> Option<Group> {
        let mut bytes = Vec::new();
        map.encode(&mut bytes);
        let bytes = bytes.len() as u64;
        let segments = self.maps.maps.iter().map(AddressMap::segments).sum::<usize>() + map.segments();
        let mut full = take_if_full(&mut self.maps, bytes, RelocationFrame::GROUP_BYTES);
        if segments > MAX_SEGMENTS && full.is_none() && !self.maps.maps.is_empty() {
            full = Some(std::mem::take(&mut self.maps));
        }
        self.maps.contents.push(content);
        self.maps.maps.push(map);
        self.maps.raw_bytes += bytes;
        full
    }

    /// Adds parameters of packing; the group that was full before them.
    pub(super) fn pack(&mut self, content: u32, parameters: Vec<u8>) -> Option<Group> {
        let bytes = parameters.len() as u64;
        let full = take_if_full(&mut self.parameters, bytes, PARAMETER_GROUP_BYTES);
        self.parameters.contents.push(content);
        self.parameters.parameters.push(parameters);
        self.parameters.raw_bytes += bytes;
        full
    }

    /// What is left, in a fixed order. Groups too small to gain from standing alone are joined.
    pub(super) fn finish(self) -> Vec<(FrameKind, Group)> {
        let mut left = Vec::new();
        left.extend(join(self.stored, STORED_GROUP_BYTES).map(|group| (FrameKind::StoredGroup, group)));
        left.extend(join(self.programs, PROGRAM_GROUP_BYTES).map(|group| {
            let kind = if group.contents.len() == 1 { FrameKind::Program } else { FrameKind::ProgramGroup };
            (kind, group)
        }));
        if !self.maps.contents.is_empty() {
            left.push((FrameKind::Relocations, self.maps));
        }
        if !self.parameters.contents.is_empty() {
            left.push((FrameKind::Parameters, self.parameters));
        }
        left
    }
}

impl Group {
    /// Takes out the contents that frames of their own hold in less room than the group: those of whose inserted bytes no more than
    /// a small part stands in other programs, too.
    pub(super) fn take_apart(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut rivals = std::mem::take(&mut self.rivals);
        if rivals.is_empty() {
            return Vec::new();
        }
        let words = self.programs.iter().map(words).collect::<Vec<_>>();
        let mut having: HashMap<u64, u32> = HashMap::new();
        for word in words.iter().flatten() {
            *having.entry(*word).or_default() += 1;
        }
        let common = |words: &HashSet<u64>| words.iter().filter(|word| having.get(word) > Some(&1)).count();
        let keep: Vec<bool> = self
            .contents
            .iter()
            .zip(&words)
            .map(|(content, words)| {
                !rivals.contains_key(content) || common(words) * COMMON_PART > words.len()
            })
            .collect();
        let mut kept = keep.iter().copied().chain(std::iter::repeat(true));
        self.programs.retain(|_| kept.next().unwrap_or(true));
        let mut apart = Vec::new();
        let mut kept = keep.iter().copied();
        self.contents.retain(|content| {
            let keep = kept.next().unwrap_or(true);
            if !keep && let Some(frame) = rivals.remove(content) {
                apart.push((*content, frame));
            }
            keep
        });
        apart
    }
}

/// A content stands apart when less than one in so many words of its program stand in others.
const COMMON_PART: usize = 4;

/// One in so many words is looked at.
const SAMPLED: u64 = 8;

/// Eight-byte words that a program inserts, mixed.
fn words(program: &Program) -> HashSet<u64> {
    let words = program.stream(StreamKind::Inserted).windows(8);
    let mixed = words.map(|word| {
        u64::from_le_bytes(word.try_into().unwrap_or_default()).wrapping_mul(0x9fb2_1c65_1e98_df25)
    });
    mixed.filter(|word| (word >> 32).is_multiple_of(SAMPLED)).collect()
}

fn take_if_full(group: &mut Group, bytes: u64, limit: u64) -> Option<Group> {
    let full = group.raw_bytes + bytes > limit || group.contents.len() as u64 == MAX_SLOTS;
    (full && !group.contents.is_empty()).then(|| std::mem::take(group))
}

/// Groups below this are joined with others of any kind.
const JOIN_BYTES: u64 = 64 << 10;

fn join(groups: BTreeMap<Class, Group>, limit: u64) -> impl Iterator<Item = Group> {
    let (mut whole, mut joined) = (Vec::new(), Group::default());
    for (_, group) in groups {
        let slots = (joined.contents.len() + group.contents.len()) as u64;
        if group.raw_bytes > JOIN_BYTES || joined.raw_bytes + group.raw_bytes > limit || slots > MAX_SLOTS {
            whole.push(group);
            continue;
        }
        joined.raw_bytes += group.raw_bytes;
        joined.contents.extend(group.contents);
        joined.programs.extend(group.programs);
        joined.rivals.extend(group.rivals);
    }
    sort(&mut joined);
    whole.push(joined);
    whole.into_iter().filter(|group| !group.contents.is_empty())
}

/// Slots stand in the order of the contents' numbers.
fn sort(group: &mut Group) {
    if group.programs.is_empty() {
        group.contents.sort_unstable();
        return;
    }
    let mut pairs: Vec<_> = group.contents.drain(..).zip(group.programs.drain(..)).collect();
    pairs.sort_unstable_by_key(|(content, _)| *content);
    (group.contents, group.programs) = pairs.into_iter().unzip();
}
