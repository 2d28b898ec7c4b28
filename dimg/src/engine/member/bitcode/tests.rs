//! Bitcode opened and closed: as compilers write it, made, damaged.

use super::sample::{Form, index, module};
use super::*;
use proptest::prelude::*;

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

/// The block of LLVM 14 that names it, and bytes behind.
const IDENTIFICATION: &[u8] = b"BC\xc0\xde\x35\x14\0\0\x05\0\0\0\x62\x0c\x30\x24\x4a\x59\xbe\x66\x8d\xfb\xb4\xaf\x0b\x51\x80\x4c\x01\0\0\0";

#[test]
fn what_a_compiler_writes_is_understood() {
    let expected = b"BC\xc0\xde\x01\x0d\x05\x02\x03\x00\x01\x03\x04\x04\0\x0aLLVM14.0.6\x02\x02\x00\x02\x02\x06\x05\0\0\0\0";
    assert_eq!(there_and_back(IDENTIFICATION), expected);
    let with_rest = [IDENTIFICATION, b"rest"].concat();
    assert_eq!(there_and_back(&with_rest), [&expected[..], b"rest"].concat());
    // No block at all.
    assert_eq!(there_and_back(b"BC\xc0\xde"), b"BC\xc0\xde\0");
    // Within a wrapper: the head is kept as it is.
    let wrapper =
        [&[0xde, 0xc0, 0x17, 0x0b, 0, 0, 0, 0, 20, 0, 0, 0, 32, 0, 0, 0, 7, 0, 0, 1], IDENTIFICATION];
    let form = there_and_back(&wrapper.concat());
    assert_eq!(form, [wrapper[0], expected].concat());
    assert!(opened(&wrapper[0][..16]).is_none());
}

#[test]
fn modules_open_to_what_they_were_made_of() {
    for (functions, more) in [(1, 0), (4, 1), (40, 3)] {
        let form = module(functions, more);
        let content = form.content();
        assert!(there_and_back(&content) == form.0, "{functions} {more}");
    }
}

#[test]
fn one_instruction_more_changes_little_of_the_form() {
    let (old, new) = (module(30, 0), module(30, 1));
    let (old, new) = (old.content(), new.content());
    let bytes = |old: &[u8], new: &[u8]| {
        let matching = crate::engine::matcher::MatchOptions::default();
        let program = crate::engine::matcher::diff(old, new, &matching);
        program.raw_bytes()
    };
    let (as_is, form) = (bytes(&old, &new), bytes(&there_and_back(&old), &there_and_back(&new)));
    assert!(form * 4 < as_is, "{form} bytes of {as_is}");
}

#[test]
fn the_order_of_an_index_follows_from_its_hashes() {
    let (one, two) = (index(7, 20, 1), index(7, 20, 2));
    let contents = [one.content(), two.content()];
    assert!(there_and_back(&contents[0]) == one.0 && there_and_back(&contents[1]) == two.0);
    // The content says nothing of the order in the form: values are numbered by their hashes.
    let start = one.0.iter().zip(&two.0).position(|(one, two)| one != two).unwrap();
    assert!(one.0.len() - start < 8 * 7 * 20 + 16, "{start} of {}", one.0.len());
    let same = contents[0].iter().zip(&contents[1]).take_while(|(one, two)| one == two).count();
    assert!(same < 100, "{same}");
}

#[test]
fn an_index_of_another_kind_stays_in_its_order() {
    for spoil in 0..6 {
        let mut form = Form::default();
        form.enter(20, 3);
        let hash = 1 << 40;
        let numbers = [[1, hash], [2, if spoil == 0 { hash } else { hash + 1 }]];
        form.record(16, &numbers[0]);
        form.record(if spoil == 1 { 17 } else { 16 }, &numbers[1]);
        if spoil == 2 {
            form.enter(9, 3);
            form.leave();
        }
        form.record(6, &[if spoil == 3 { 2 } else { 1 }, 5, 0, 0, 2]);
        form.record(6, &[2, 5, 0, 0, if spoil == 4 { 3 } else { 1 }]);
        if spoil == 5 {
            form.record(6, &[1, 5, 0, 0]);
        }
        form.leave();
        form.0.push(0);
        assert!(there_and_back(&form.content()) == form.0, "{spoil}");
    }
}

#[test]
fn what_could_be_said_in_fewer_bits_does_not_open() {
    // A number with a group of nothing at its end: the identifier 13 of a block in 16 bits.
    let mut content = IDENTIFICATION.to_vec();
    // 01, then 8D, 01, then the width.
    content[4..8].copy_from_slice(&(1u32 | 0x8d << 2 | 5 << 18).to_le_bytes());
    assert!(opened(&content).is_none());
    // Bits between words, another length, a number of bits of no use.
    for (at, value) in [(7, 0x80), (8, 6), (8, 4), (6, 0x40)] {
        let mut content = IDENTIFICATION.to_vec();
        content[at] = value;
        assert!(opened(&content).is_none(), "{at}");
    }
}

#[test]
fn forms_that_nobody_writes_are_refused() {
    let refused = |build: &dyn Fn(&mut Form)| {
        let mut form = Form::default();
        form.enter(12, 3);
        build(&mut form);
        form.leave();
        form.0.push(0);
        close(&form.0, 1 << 20).unwrap_err()
    };
    // A value that is not there, an abbreviation that is none, an array of nothing, an end of an index.
    refused(&|form| form.record(20, &[4 << 13 | 1, 0, 0, 0]));
    refused(&|form| form.0.push(4));
    refused(&|form| form.0.extend_from_slice(&[2, 2, 3, 0, 1]));
    refused(&|form| form.0.extend_from_slice(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 0, 0]));
    refused(&|form| (0..40).for_each(|_| form.enter(12, 3)));
    refused(&|form| form.enter(12, 1));
    refused(&|form| (0..257).for_each(|_| form.0.extend_from_slice(&[2, 1, 4])));
    // Records of many numbers that take no bits.
    let literals = |count: u8| [&[2, count][..], &[0, 16].repeat(count.into())].concat();
    refused(&|form| form.0.extend_from_slice(&literals(9)));
    let mut form = Form::default();
    form.enter(12, 3);
    form.0.extend_from_slice(&[&literals(8)[..], &[4; 5]].concat());
    form.leave();
    form.0.push(0);
    assert!(there_and_back(&form.content()) == form.0);
    assert!(close(b"BC\xc0\xde", 100).is_err());
    assert!(close(b"BC\xc0", 100).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_contents_come_back_or_do_not_open(
        which in 0u8..3,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut content = match which {
            0 => module(3, 1).content(),
            1 => index(2, 3, 1).content(),
            _ => IDENTIFICATION.to_vec(),
        };
        for (at, byte) in flips {
            let at = at.index(content.len() - 4) + 4;
            content[at] ^= byte;
        }
        if cut.index(3) == 0 {
            content.truncate(4 + cut.index(content.len() - 4));
        }
        if let Some(form) = opened(&content) {
            prop_assert!(close(&form, content.len() as u64).unwrap() == content);
        }
    }

    #[test]
    fn damaged_forms_are_refused_or_close(
        which in 0u8..2,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut form = if which == 0 { module(3, 1).0 } else { index(2, 3, 1).0 };
        for (at, byte) in flips {
            let at = at.index(form.len() - 4) + 4;
            form[at] ^= byte;
        }
        if let Ok(content) = close(&form, 1 << 20) {
            prop_assert!(close(&form, content.len() as u64).unwrap() == content);
            prop_assert!(content.is_empty() || close(&form, content.len() as u64 - 1).is_err());
            if let Some(form) = opened(&content) {
                prop_assert!(close(&form, content.len() as u64).unwrap() == content);
            }
        }
    }

    #[test]
    fn any_bytes_open_or_close_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&MAGIC[..], &bytes].concat();
        if let Some(form) = opened(&bytes) {
            prop_assert!(close(&form, bytes.len() as u64).unwrap() == bytes);
        }
        let _ = close(&bytes, 1 << 16);
    }
}
