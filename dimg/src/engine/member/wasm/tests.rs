//! Modules opened and closed: by hand, made, damaged.

use super::sample::Sample;
use super::*;
use proptest::prelude::*;
use std::io;

fn opened(content: &[u8]) -> Option<Vec<u8>> {
    let mut form = Vec::new();
    let count = open(content, u64::MAX, &mut form).unwrap()?;
    assert_eq!(count, form.len() as u64);
    assert_eq!(open(content, count, &mut io::sink()).unwrap(), Some(count));
    assert_eq!(open(content, count - 1, &mut io::sink()).unwrap(), None);
    Some(form)
}

/// The opened form of a content that comes back.
fn there_and_back(content: &[u8]) -> Vec<u8> {
    let form = opened(content).expect("it opens");
    assert!(close(&form, content.len() as u64).unwrap() == content);
    assert!(close(&form, content.len() as u64 - 1).is_err());
    form
}

const HEAD: &[u8] = b"\0asm\x01\0\0\0";
const FORM: &[u8] = b"\0asm\x01\0\0\xf5";

fn module(sections: &[&[u8]]) -> Vec<u8> {
    [&[HEAD], sections].concat().concat()
}

/// The form of what has only these sections, with the places behind.
fn form(sections: &[&[u8]], places: [u32; 6]) -> Vec<u8> {
    let places: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
    [&[FORM], sections, &[&[END], &places]].concat().concat()
}

#[test]
fn numbers_stand_in_four_bytes() {
    // call 5, i32.const 300, i32.const -1, i64.const 2^40, i32.load align 2 offset 128, end; the length in three bytes.
    let body = b"\0\x10\x05\x41\xac\x02\x41\x7f\x42\x80\x80\x80\x80\x80\x20\x28\x02\x80\x01\x0b";
    let length = [0x94, 0x80, 0];
    assert_eq!(usize::from(length[0] & 0x7f), body.len());
    let expected: &[&[u8]] = &[
        &[0x8a, 0, 1],
        &[3, 0, 0x10, 0x80, 5, 0, 0, 0, 0x41, 0x80, 44, 1, 0, 0, 0x41, 0x7f],
        &[0x42, 0xc0, 0, 0, 0, 0, 0, 1, 0, 0, 0x28, 2, 0x80, 128, 0, 0, 0, 0x0b],
    ];
    let content = module(&[&[CODE, 24, 1], &length, body]);
    assert_eq!(there_and_back(&content), form(expected, [11, 45, 0, 0, 0, 0]));
}

#[test]
fn a_number_that_is_longer_says_so() {
    // call 5 in five bytes, i32.const -1 in two.
    let body = [0, 0x10, 0x85, 0x80, 0x80, 0x80, 0, 0x41, 0xff, 0x7f, 0x0b];
    let content = module(&[&[CODE, 13, 1, 11], &body]);
    let expected: &[&[u8]] =
        &[&[0x8a, 0, 1, 0, 0, 0x10, 0x85, 5, 0, 0, 0, 0x41, 0x82, 0xff, 0xff, 0xff, 0xff, 0x0b]];
    assert_eq!(there_and_back(&content), form(expected, [11, 26, 0, 0, 0, 0]));
}

#[test]
fn functions_that_are_not_understood_stay() {
    let bodies: [&[u8]; 5] = [
        // Of garbage collection; no end; more behind the end; bits that say nothing; a number that is too long.
        &[0, 0xfb, 0, 1, 0x0b],
        &[0, 0x41, 1],
        &[0, 0x0b, 0x0b],
        &[0, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0b],
        &[0, 0x41, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0x0b],
    ];
    for body in bodies {
        let length = u8::try_from(body.len()).unwrap();
        let content = module(&[&[CODE, length + 2, 1, length], body]);
        let end = 16 + u32::from(length);
        let expected: &[&[u8]] = &[&[0x8a, 0, 1, 0x80, length, 0, 0, 0], body];
        assert_eq!(there_and_back(&content), form(expected, [11, end, 0, 0, 0, 0]), "{body:x?}");
    }
}

#[test]
fn all_kinds_of_operands_are_passed_over() {
    let instructions: &[&[u8]] = &[
        &[0x02, 0x40, 0x03, 0x7f, 0x04, 0x05, 0x05, 0x0b, 0x0b, 0x0b],
        &[0x06, 0x40, 0x07, 0, 0x19, 0x0b, 0x06, 0x40, 0x18, 0],
        &[0x1f, 0x40, 4, 0, 1, 2, 1, 1, 2, 2, 3, 3, 1, 0x0b, 0x08, 1, 0x09, 0, 0x0a],
        &[0x0e, 2, 0, 1, 2, 0x11, 1, 0, 0x13, 1, 0, 0x14, 1, 0x15, 1, 0x12, 1],
        &[
            0x1c, 1, 0x7f, 0x1c, 1, 0x64, 1, 0x43, 1, 2, 3, 4, 0x44, 1, 2, 3, 4, 5, 6, 7, 8, 0xd0, 0x70,
            0xd2, 1,
        ],
        &[0x28, 0x42, 1, 7, 0xfc, 0, 0xfc, 8, 1, 0, 0xfc, 11, 0, 0xfc, 14, 0, 1, 0xfc, 17, 0],
        &[0xfd, 0, 4, 0, 0xfd, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xfd, 21, 1],
        &[0xfd, 84, 0, 0, 1, 0xfd, 0xae, 0x01, 0xfe, 0, 2, 0, 0xfe, 3, 0, 0xfe, 0x10, 2, 0x80, 1],
    ];
    for instruction in instructions {
        let body = [&[0], *instruction, &[0x0b]].concat();
        let length = u8::try_from(body.len()).unwrap();
        let form = there_and_back(&module(&[&[CODE, length + 2, 1, length], &body]));
        assert_eq!(form[11], 0, "{instruction:x?}");
    }
}

#[test]
fn segments_are_what_memory_is() {
    let data = |address: u8, bytes: &[u8]| {
        [&[0, 0x41, address, 0x0b, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let section = [&[3][..], &data(16, b"ab\0\0cd"), &data(26, b"ef"), &data(4, b"gh")].concat();
    let content = module(&[&[DATA, u8::try_from(section.len()).unwrap()], &section]);
    let expected: &[&[u8]] = &[
        &[0x8b, 0, 4, 0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0],
        b"ab\0\0cd\0\0\0\0efgh",
    ];
    assert_eq!(there_and_back(&content), form(expected, [0, 0, 0, 0, 10, 48]));
    // Zeros at the end of a segment: each stands for itself.
    let section = [&[2][..], &data(16, b"ab\0"), &data(26, b"ef")].concat();
    let content = module(&[&[DATA, u8::try_from(section.len()).unwrap()], &section]);
    let form = there_and_back(&content);
    assert_eq!(form[10..18], [0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0]);
    // A passive segment; more bytes for a number than it takes: the section stays as it is.
    for section in [&[1, 1, 1, 7][..], &[1, 0, 0x41, 0x84, 0, 0x0b, 1, 7], &[0x81, 0, 0, 0x41, 4, 0x0b, 1, 7]]
    {
        let length = u8::try_from(section.len()).unwrap();
        let form = there_and_back(&module(&[&[DATA, length], section]));
        assert_eq!(form[8..10 + section.len()], [&[DATA, length], section].concat());
    }
}

#[test]
fn what_is_made_comes_back() {
    for padded in [false, true] {
        for functions in [1, 40, 300] {
            let content = Sample { functions, more: 2, padded }.build();
            let form = there_and_back(&content);
            let places = places(&form).unwrap();
            assert!(places.code.1 > places.code.0 && places.elements.1 > places.elements.0);
            let pieces = pieces(&form, places.data).unwrap();
            assert_eq!(pieces.len(), 1, "{functions}");
            assert_eq!(pieces[0].bytes, (functions as usize + 2) * 36 - 12);
        }
    }
    assert!(places(&Sample { functions: 3, more: 0, padded: false }.build()).is_none());
}

#[test]
fn what_is_no_module_does_not_open() {
    let content = Sample { functions: 5, more: 0, padded: false }.build();
    assert!(opened(&content[..7]).is_none());
    assert!(opened(&content[..content.len() - 1]).is_none());
    assert!(opened(&[&content[..], &[0x41, 0]].concat()).is_none(), "no section has this number");
    let component = [b"\0asm\x0d\0\x01\0", &content[8..]].concat();
    assert!(opened(&component).is_none());
    let form = there_and_back(&content);
    assert!(opened(&form).is_none());
    for length in 0..form.len() {
        assert!(close(&form[..length], u64::MAX).is_err(), "{length}");
    }
    assert!(close(&[&form[..], &[0]].concat(), u64::MAX).is_err());
}

proptest! {
    #[test]
    fn damaged_modules_come_back_or_stay(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        padded: bool,
    ) {
        let mut content = Sample { functions: 9, more: 1, padded }.build();
        for (place, value) in places {
            let place = place.index(content.len());
            content[place] = value;
        }
        if opened(&content).is_some() {
            there_and_back(&content);
        }
    }

    #[test]
    fn damaged_forms_make_what_fits_or_are_refused(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut form = opened(&Sample { functions: 9, more: 1, padded: false }.build()).unwrap();
        for (place, value) in places {
            let place = place.index(form.len());
            form[place] = value;
        }
        if let Ok(content) = close(&form, 1 << 20) {
            prop_assert!(content.len() <= 1 << 20);
            if opened(&content).is_some() {
                there_and_back(&content);
            }
        }
    }

    #[test]
    fn numbers_come_back(value: u64, what in prop::sample::select(vec![
        What::Function, What::Offset, What::Constant32, What::Constant64, What::Type, What::Other,
    ]), surplus in 0usize..4, shift in 0u32..64) {
        let value = match what {
            What::Constant64 => (value.cast_signed() >> shift).cast_unsigned(),
            What::Offset => value >> shift,
            What::Constant32 | What::Type => (value.cast_signed() << 32 >> 32 >> (shift % 32)).cast_unsigned(),
            _ => (value >> shift) & 0xffff_ffff,
        };
        let mut bytes = Vec::new();
        prop_assume!(side::put_number(&mut bytes, value, what, surplus).is_some());
        let mut opener = Opener::new(&bytes);
        prop_assert_eq!(opener.number(what).map(|number| number.value), Some(value));
        let form = opener.take();
        let mut closer = Closer::new(&form, 100);
        prop_assert_eq!(closer.number(what).map(|number| number.value), Some(value));
        prop_assert_eq!(closer.take(), bytes);
    }
}
