//! WebAssembly modules in their opened form ([`crate::engine::member`]): numbers of functions, and addresses of memory.
//!
//! Data are segments, at the addresses where memory has them. Functions have no addresses but numbers; behind all data each gets a *place*, four bytes a function, so
//! that functions that were put in shift those behind them as bytes would. Go's functions have addresses, which stand in constants and data: their
//! number and [`GO_TEXT`] times 64 KiB, and where in the function. What else Go's linker writes is as in programs ([`super::golang`]).

use super::image::{Image, Segment, u32_at, u64_at};
use super::scan::{Field, Form, Sink};
use super::tables::{Region, RegionKind};
use crate::engine::member::wasm::{Number, Places, Side, What, elements, in_form, pieces, places, walk};

/// The address of the first of Go's functions.
const GO_TEXT: u64 = 0x1000 << 16;
/// Bytes of memory behind the data that constants may name, at least, and the part of the data if that is more.
const BEHIND: (u64, u64) = (64 << 10, 8);
/// The number of the section of imports, and of functions among what is imported.
const IMPORTS: u8 = 2;
const FUNCTION: u8 = 0;
/// The first bytes of Go's table of functions, but for the very first, which says more of its version.
const GO_LINES: &[u8] = &[0xff, 0xff, 0xff, 0, 0, 1, 8];

/// What is known of a module beside its segments.
#[derive(Debug)]
pub(super) struct Module {
    places: Places,
    /// Functions that are imported, which have the first numbers.
    imports: u64,
    /// Of Go: the address of its table of functions.
    lines: Option<u64>,
    /// The place of the first function, if it has no address.
    functions: u64,
}

/// An opened form as an image; none of anything else.
pub(super) fn image(form: &[u8]) -> Option<Image<'_>> {
    let places = places(form)?;
    let pieces = pieces(form, places.data).unwrap_or_default();
    let mut segments: Vec<Segment> = pieces
        .iter()
        .filter(|piece| piece.bytes > 0)
        .map(|piece| Segment {
            address: piece.address.into(),
            end: u64::from(piece.address) + piece.bytes as u64,
            offset: piece.start,
            bytes: piece.bytes,
            code: false,
        })
        .collect();
    let lines = segments.iter().find_map(|segment| lines(form, segment));
    segments.sort_by_key(|segment| segment.address);
    let mut end = 0;
    segments.retain(|segment| {
        let apart = segment.address >= end;
        end = end.max(segment.end);
        apart
    });
    let low = segments.first().map_or(0, |segment| segment.address);
    // Without data nothing is taken for an address.
    let behind = if segments.is_empty() { 0 } else { BEHIND.0.max((end - low) / BEHIND.1) };
    let data_end = end + behind;
    let functions = data_end.next_multiple_of(1 << 16);
    let (first, unit) = if lines.is_some() { (GO_TEXT, 1 << 16) } else { (functions, 4) };
    // A function has a byte at least.
    let count = count(form, places.code.0)?.min((places.code.1 - places.code.0) as u64);
    let high = first + unit * count;
    if lines.is_some() {
        if data_end > GO_TEXT {
            return None;
        }
        segments.push(Segment { address: first, end: high, offset: 0, bytes: 0, code: true });
    }
    let module = Module { places, imports: imports(form).unwrap_or(0), lines, functions };
    Image::of_module(form, segments, low..high, data_end..first, module)
}

/// The number of functions, which stands before the first.
fn count(form: &[u8], first: usize) -> Option<u64> {
    let at = |back: usize| first.checked_sub(back);
    // In four bytes and one before, or in one.
    let long = at(5).and_then(|at| in_form(form, at, What::Other)).filter(|found| found.1 == 5);
    let found = long.or_else(|| in_form(form, at(1)?, What::Other).filter(|found| found.1 == 1));
    found.map(|(number, ..)| number.value & u64::from(u32::MAX))
}

/// Functions that are imported: what stands so in the section of imports.
fn imports(form: &[u8]) -> Option<u64> {
    let mut reader = Reader { form, at: 8, each: |_: What, _: Number| {} };
    loop {
        let section = reader.byte()?;
        let bytes = usize::try_from(reader.number(What::Other)?.value).ok()?;
        if section == IMPORTS {
            break;
        }
        // Those that open come behind.
        if section > IMPORTS {
            return None;
        }
        reader.bytes(bytes)?;
    }
    let (mut number, mut functions) = (leb(form, &mut reader.at)?, 0);
    while number > 0 {
        for _ in 0..2 {
            let bytes = leb(form, &mut reader.at)?;
            reader.bytes(usize::try_from(bytes).ok()?)?;
        }
        match reader.byte()? {
            FUNCTION => {
                leb(form, &mut reader.at)?;
                functions += 1;
            }
            // Tables, memories: a limit or two; globals: a type, and whether it changes.
            kind @ 1..=3 => {
                if kind != 2 {
                    reader.byte()?;
                }
                let flags = reader.byte()?;
                if kind != 3 {
                    leb(form, &mut reader.at)?;
                    if flags & 1 != 0 {
                        leb(form, &mut reader.at)?;
                    }
                }
            }
            4 => {
                reader.byte()?;
                leb(form, &mut reader.at)?;
            }
            _ => return Some(functions),
        }
        number -= 1;
    }
    Some(functions)
}

fn leb(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for place in 0..5 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The address of Go's table of functions, if a segment has it.
fn lines(form: &[u8], segment: &Segment) -> Option<u64> {
    let bytes = form.get(segment.offset..segment.offset + segment.bytes)?;
    let skew = usize::try_from(segment.address.wrapping_neg() % 8).ok()?;
    let is_first = |at: &usize| {
        matches!(bytes.get(*at), Some(0xf0 | 0xf1)) && bytes.get(at + 1..at + 8) == Some(GO_LINES)
    };
    let at = (skew..bytes.len()).step_by(8).find(is_first)?;
    Some(segment.address + at as u64)
}

/// Calls `claim` with the parts of a module, by kind, offset and length.
pub(super) fn regions(image: &Image<'_>, mut claim: impl FnMut(RegionKind, usize, usize)) {
    let Some(module) = &image.module else { return };
    let Places { elements, code, .. } = module.places;
    claim(RegionKind::Elements, elements.0, elements.1 - elements.0);
    claim(RegionKind::Functions, code.0, code.1 - code.0);
    for (kind, address, bytes) in module.lines.map_or(Vec::new(), |lines| go_tables(image, lines)) {
        if let (Some(at), Ok(bytes)) = (image.offset_of(address), usize::try_from(bytes)) {
            claim(kind, at, bytes);
        }
    }
    let kind = if module.lines.is_some() { RegionKind::Data } else { RegionKind::Memory };
    for segment in &image.segments {
        claim(kind, segment.offset, segment.bytes);
    }
}

/// Go's table of functions and its list of types: kinds, addresses, lengths.
fn go_tables(image: &Image<'_>, lines: u64) -> Vec<(RegionKind, u64, u64)> {
    let found = image.segments.iter().find_map(|segment| {
        let skew = usize::try_from(segment.address.wrapping_neg() % 8).ok()?;
        let end = segment.offset + segment.bytes;
        (segment.offset + skew..end).step_by(8).find(|&at| {
            let word = |number: usize| u64_at(image.bytes, at + 8 * number);
            // Where the first function begins, and the last part of the table.
            word(0) == Some(lines)
                && word(20).is_some_and(|first| image.in_code(first))
                && word(13).is_some_and(|last| last > lines)
        })
    });
    let Some(at) = found else { return Vec::new() };
    let word = |number: usize| u64_at(image.bytes, at + 8 * number).unwrap_or(0);
    let all = (RegionKind::GoLines, lines, word(13).wrapping_sub(lines).wrapping_add(word(14)));
    let mut tables = vec![all];
    for first in [37, 35] {
        let (low, high) = (word(first), word(first + 1));
        // A list has its length twice. Go 1.26 has a word more before.
        let list = [first + 7, first + 8].into_iter().find(|&list| word(list + 1) == word(list + 2));
        if let Some(list) = list
            && image.contains(low)
            && image.contains(high)
            && low < high
            && image.contains(word(list))
        {
            tables.push((RegionKind::GoLinks, word(list), word(list + 1).wrapping_mul(4)));
            break;
        }
    }
    tables
}

/// The addresses of Go's functions.
pub(super) fn text(image: &Image<'_>) -> Option<(u64, u64)> {
    let code = image.segments.iter().find(|segment| segment.code)?;
    Some((code.address, code.end))
}

/// A function as Go's types name it: the address in units of 64 KiB.
pub(super) fn entry(image: &Image<'_>, offset: usize, sink: &mut Sink<'_>) {
    if let Some(value) = u32_at(image.bytes, offset) {
        let target = u64::from(value) << 16;
        if image.in_code(target) {
            sink.put(&Field { offset, form: Form::Block32, target, base: None });
        }
    }
}

/// The fields of functions.
pub(super) fn functions(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let Some(module) = &image.module else { return };
    let each = |what, number| module.field(image, what, number, sink);
    let mut reader = Reader { form: image.bytes, at: region.start, each };
    walk(&mut reader, |reader| reader.at, region.end);
}

/// The fields of elements of tables.
pub(super) fn tables(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let Some(module) = &image.module else { return };
    let each = |what, number| module.field(image, what, number, sink);
    elements(&mut Reader { form: image.bytes, at: region.start, each });
}

/// The addresses of four bytes that stand in memory.
pub(super) fn memory(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let skew = usize::try_from(region.address.wrapping_neg() % 4).unwrap_or(0);
    for at in (region.start + skew..region.end).step_by(4) {
        let Some(value) = u32_at(image.bytes, at) else { break };
        let target = u64::from(value);
        if value != 0 && image.contains(target) && !image.in_functions(target) {
            sink.put(&Field { offset: at, form: Form::Add32, target, base: None });
        }
    }
}

impl Module {
    fn field(&self, image: &Image<'_>, what: What, number: Number, sink: &mut Sink<'_>) {
        let Some(offset) = number.place else { return };
        let value = number.value & u64::from(u32::MAX);
        let (form, target) = match what {
            What::Function if self.lines.is_some() => {
                let Some(own) = value.checked_sub(self.imports) else { return };
                (Form::Block32, GO_TEXT + (own << 16))
            }
            What::Function => (Form::Word32, self.functions + 4 * value),
            What::Offset | What::Constant32 | What::Constant64
                if image.contains(value) && (self.lines.is_some() || !image.in_functions(value)) =>
            {
                (Form::Add32, value)
            }
            _ => return,
        };
        sink.put(&Field { offset, form, target, base: None });
    }

    /// The address or place of the first function.
    pub(super) fn first(&self) -> u64 {
        if self.lines.is_some() { GO_TEXT } else { self.functions }
    }

    /// Whether this is the place of a function, not an address.
    pub(super) fn is_place(&self, address: u64) -> bool {
        self.lines.is_none() && address >= self.functions
    }
}

/// Goes over a form, and says what numbers there are.
struct Reader<'f, F> {
    form: &'f [u8],
    at: usize,
    each: F,
}

impl<F: FnMut(What, Number)> Side for Reader<'_, F> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.form.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn bytes(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.form.len())?;
        self.at = end;
        Some(())
    }

    #[inline]
    fn number(&mut self, what: What) -> Option<Number> {
        let (number, count, _) = in_form(self.form, self.at, what)?;
        self.at += count;
        if number.place.is_some() {
            (self.each)(what, number);
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::Scan;
    use super::super::{Version, derive, look, relocate};
    use super::*;
    use crate::engine::matcher::MatchOptions;
    use crate::engine::member::Plan;
    use crate::engine::member::wasm_sample::Sample;
    use proptest::prelude::*;

    fn opened(content: &[u8]) -> Vec<u8> {
        let mut form = Vec::new();
        Plan::open(content, u64::MAX, &mut form).unwrap().unwrap();
        form
    }

    fn fields(form: &[u8], version: Version) -> Vec<Field> {
        let mut found = Vec::new();
        if let Some(image) = Image::parse(form) {
            Scan::new(&image, version, 1).run(&mut |field| found.push(*field));
        }
        found
    }

    /// A module with these sections, one imported function, and memory.
    fn module(functions: &[&[u8]], data: &[(u32, &[u8])]) -> Vec<u8> {
        let mut content = b"\0asm\x01\0\0\0\x02\x07\x01\x01m\x01f\0\0".to_vec();
        let mut put = |number: u8, bytes: Vec<u8>| {
            content.extend([number, u8::try_from(bytes.len() & 0x7f).unwrap() | 0x80]);
            content.push(u8::try_from(bytes.len() >> 7).unwrap());
            content.extend(bytes);
        };
        let count = |length: usize| u8::try_from(length).unwrap();
        let bodies = functions.iter().map(|body| [&[count(body.len() + 2), 0], *body, &[0x0b]].concat());
        put(10, [vec![count(functions.len())], bodies.collect::<Vec<_>>().concat()].concat());
        let segments = data.iter().map(|(address, bytes)| {
            let mut head = vec![0, 0x41];
            let mut rest = *address;
            while rest >= 0x40 {
                head.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
                rest >>= 7;
            }
            head.extend([u8::try_from(rest).unwrap(), 0x0b, count(bytes.len())]);
            [&head, *bytes].concat()
        });
        put(11, [vec![count(data.len())], segments.collect::<Vec<_>>().concat()].concat());
        content
    }

    #[test]
    fn functions_constants_and_words_are_found() {
        // call 1, i32.const 0x10004 and 5, i32.load of 0x10008 and 0x8000, ref.func 0.
        let code: &[u8] = &[
            0x10, 1, 0x41, 0x84, 0x80, 0x04, 0x41, 5, 0x28, 2, 0x88, 0x80, 0x04, 0x28, 2, 0x80, 0x80, 0x02,
            0xd2, 0,
        ];
        let words: Vec<u8> = [7u32, 0x10004, 0x11_0010].iter().flat_map(|word| word.to_le_bytes()).collect();
        let form = opened(&module(&[code], &[(0x10000, &words)]));
        let Places { code, data, .. } = places(&form).unwrap();
        let (code, data) = (code.0, data.0 + 16);
        // The data end at 0x1000c; 64 KiB behind, at a multiple of that, are the places of functions.
        let all: Vec<_> = fields(&form, Version::Four)
            .iter()
            .map(|field| (field.offset, field.form, field.target))
            .collect();
        assert_eq!(
            all,
            [
                (code + 4, Form::Word32, 0x30004),
                (code + 10, Form::Add32, 0x10004),
                (code + 19, Form::Add32, 0x10008),
                (code + 32, Form::Word32, 0x30000),
                (data + 4, Form::Add32, 0x10004),
            ]
        );
        assert!(fields(&form, Version::Three).is_empty());
    }

    #[test]
    fn functions_of_go_have_addresses() {
        let (lines, text) = (0x1_0000u64, GO_TEXT);
        let mut memory = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
        memory.resize(80, 1);
        // The third function, and where in it.
        memory.extend((text + (2 << 16) + 9).to_le_bytes());
        // call 2, i64.const of the second function.
        let code: &[u8] = &[0x10, 2, 0x42, 0x83, 0x80, 0x84, 0x80, 0x01];
        let form = opened(&module(&[code, code, code], &[(0x10000, &memory)]));
        let image = Image::parse(&form).unwrap();
        let found = image.module.as_ref().unwrap();
        assert_eq!((found.lines, found.imports), (Some(lines), 1));
        let first = found.places.code.0;
        let all = fields(&form, Version::Four);
        assert_eq!((all[0].offset, all[0].form, all[0].target), (first + 4, Form::Block32, text + (1 << 16)));
        assert_eq!(
            (all[1].offset, all[1].form, all[1].target),
            (first + 10, Form::Add32, text + (1 << 16) + 3)
        );
        let last = all.last().unwrap();
        assert_eq!((last.form, last.target), (Form::Add64, text + (2 << 16) + 9));
    }

    #[test]
    fn what_was_put_in_shifts_what_is_named() {
        for padded in [false, true] {
            let [old, new] = [0, 3].map(|more| opened(&Sample { functions: 300, more, padded }.build()));
            let options = MatchOptions::default();
            let seen = look(&old, &new, &options).unwrap();
            let found = derive(&old, &new, &seen, 2, &options, &tempfile::tempfile).unwrap().unwrap();
            let plain = seen[0].program.raw_bytes();
            assert!(found.program.raw_bytes() * 3 < plain, "{} {plain}", found.program.raw_bytes());
        }
    }

    proptest! {
        #[test]
        fn damaged_forms_are_relocated_within(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            padded: bool,
        ) {
            let old = opened(&Sample { functions: 40, more: 0, padded }.build());
            let new = opened(&Sample { functions: 40, more: 2, padded }.build());
            let options = MatchOptions::default();
            let seen = look(&old, &new, &options).unwrap();
            let map = derive(&old, &new, &seen, 1, &options, &tempfile::tempfile).unwrap().unwrap().map;
            let mut damaged = old;
            for (place, value) in places {
                let place = place.index(damaged.len());
                damaged[place] = value;
            }
            let mut end = 0;
            for field in fields(&damaged, Version::LAST) {
                prop_assert!(field.offset >= end);
                end = field.offset + field.form.bytes();
            }
            prop_assert!(end <= damaged.len());
            let mut made = Vec::new();
            relocate(&damaged, &map, Version::LAST, &mut made).unwrap();
            prop_assert_eq!(made.len(), damaged.len());
        }
    }
}
