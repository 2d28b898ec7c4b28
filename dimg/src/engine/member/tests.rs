//! Contents as real programs write them, opened and packed again; damaged ones.

use super::*;
use crate::engine::EngineError;
use crate::engine::deflate::Encoder;
use proptest::prelude::*;
use std::process::Command;

fn text(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::new();
    while out.len() < count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(format!("{} of {}\n", state >> 58, (state >> 40) % 1000).as_bytes());
    }
    out.truncate(count);
    out
}

fn opened(content: &[u8]) -> Vec<u8> {
    let plan = Plan::of(content, u64::MAX).expect("it can be opened");
    let mut out = Vec::new();
    plan.unpack(content, &mut out).unwrap();
    assert_eq!(out.len() as u64, plan.opened_bytes());
    let mut at_once = Vec::new();
    assert!(Plan::open(content, u64::MAX, &mut at_once).unwrap().is_some());
    assert!(at_once == out);
    out
}

/// Opens the content, packs it again, and compares; the opened form and the methods.
fn there_and_back(content: &[u8]) -> (Vec<u8>, Vec<Method>) {
    let opened = opened(content);
    let plan = Plan::of(content, opened.len() as u64).expect("within the limit");
    assert!(Plan::of(content, opened.len() as u64 - 1).is_none());
    let parameters = find_parameters(&plan, content, &opened, 1).unwrap();
    let mut packed = Vec::new();
    pack(&opened, &parameters.encode(), content.len() as u64, &mut packed).unwrap();
    assert!(packed == content);
    assert!(comes_back(&plan, &opened, content));
    for threads in [2, 5] {
        assert_eq!(find_parameters(&plan, content, &opened, threads).unwrap(), parameters);
    }
    (opened, parameters.0)
}

fn gzip(input: &[u8], arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a name");
    std::fs::write(&path, input).unwrap();
    let out = Command::new("gzip").args(arguments).arg("-c").arg(&path).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn stored_member(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    let length = field_of(content.len() as u64).to_le_bytes();
    let mut out = [&LOCAL_SIGNATURE[..], &[10, 0, 0, 0, 0, 0, 0, 0, 0, 0], &crc.sum().to_le_bytes()].concat();
    out.extend_from_slice(
        &[&length[..], &length[..], &[u8::try_from(name.len()).unwrap(), 0, 0, 0]].concat(),
    );
    [&out, name, content].concat()
}

/// A zip file of deflated members, in the order given; `streamed` with descriptors.
pub(crate) fn zip(members: &[(&str, Vec<u8>)], encoder: Encoder, streamed: bool) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut deflated = Vec::new();
        encoder.encode(content, &mut deflated).unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let lengths = [field_of(deflated.len() as u64), field_of(content.len() as u64)].map(u32::to_le_bytes);
        let check = [&crc.sum().to_le_bytes()[..], &lengths[0], &lengths[1]].concat();
        let fields = if streamed { vec![0; 12] } else { check.clone() };
        let name_bytes = [u8::try_from(name.len()).unwrap(), 0, 0, 0];
        let flags = if streamed { 8 } else { 0 };
        let fixed = [20, 0, flags, 0, 8, 0, 1, 2, 3, 4];
        let offset = field_of(out.len() as u64).to_le_bytes();
        out.extend_from_slice(
            &[&LOCAL_SIGNATURE[..], &fixed, &fields, &name_bytes, name.as_bytes(), &deflated].concat(),
        );
        if streamed {
            out.extend_from_slice(&[&DESCRIPTOR_SIGNATURE[..], &check].concat());
        }
        central.extend_from_slice(
            &[
                &CENTRAL_SIGNATURE[..],
                &[20, 3],
                &fixed,
                &check,
                &name_bytes,
                &[0; 10],
                &offset,
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let counts = u16::try_from(members.len()).unwrap().to_le_bytes();
    let place = [field_of(central.len() as u64), field_of(out.len() as u64)].map(u32::to_le_bytes);
    let end = [&END_SIGNATURE[..], &[0; 4], &counts, &counts, &place[0], &place[1], &[0, 0]].concat();
    [out, central, end].concat()
}

#[test]
fn what_gzip_writes_comes_back_for_a_byte_or_two() {
    for (count, arguments) in [
        (0, &["-9n"][..]),
        (1, &["-6"]),
        (5000, &["-9n"]),
        (300_000, &["-9"]),
        (300_000, &["-1n"]),
        (100_000, &["-5"]),
    ] {
        let (input, level) = (text(3, count), arguments[0].as_bytes()[1] - b'0');
        let content = gzip(&input, arguments);
        let (opened, methods) = there_and_back(&content);
        assert!(opened.ends_with(&input));
        if count > 1 {
            assert_eq!(methods, [Method::Encoder(Encoder::gnu(level).unwrap())]);
            assert_eq!(Parameters(methods).encode().len(), 2);
        }
    }
}

#[test]
fn several_members_and_what_follows_them() {
    let (one, two) = (gzip(&text(1, 9000), &["-6"]), gzip(&text(2, 70_000), &["-9n"]));
    let (opened, methods) = there_and_back(&[&one[..], &two, &one, b"\0\0\0\0padding"].concat());
    assert_eq!((opened[0], methods.len()), (GZIP, 3));
    let (opened, methods) = there_and_back(&[&one[..], &two].concat());
    assert_eq!((opened[0], methods.len()), (GZIP, 2));
    // A member that is damaged stays as it is, one at the start makes it none.
    let mut damaged = two.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(there_and_back(&[&one[..], &damaged].concat()).1.len(), 1);
    assert!(Plan::of(&damaged, u64::MAX).is_none());
    assert!(Plan::of(b"plain text", u64::MAX).is_none() && Plan::of(b"", u64::MAX).is_none());
}

#[test]
fn streams_of_unknown_makers_are_given_as_they_are() {
    let mut content = gzip(&text(1, 5000), &["-6n"]);
    let trailer = content.split_off(content.len() - 8);
    content.truncate(10);
    // Stored blocks that no compressor makes.
    let input = text(1, 5000);
    content.extend_from_slice(
        &[&[0, 0x88, 0x13, 0x77, 0xec][..], &input, &[1, 0, 0, 0xff, 0xff], &trailer].concat(),
    );
    let (_, methods) = there_and_back(&content);
    assert!(matches!(&methods[..], [Method::Verbatim(stream)] if stream.len() == 5010));
}

#[test]
fn zip_files_open_with_their_derived_fields_predicted() {
    let members = |seed| {
        let names = ["META-INF/MANIFEST.MF", "a/B.class", "a/C.class", "empty"];
        names.map(|name| {
            (
                name,
                if name == "empty" {
                    vec![]
                } else {
                    text(seed + name.len() as u64, 3000 + 100 * usize::try_from(seed).unwrap())
                },
            )
        })
    };
    for streamed in [false, true] {
        let encoder = Encoder::zlib(6, 8).unwrap();
        let (old, new) = (zip(&members(1), encoder, streamed), zip(&members(2), encoder, streamed));
        let ((old, _), (new, methods)) = (there_and_back(&old), there_and_back(&new));
        assert_eq!(methods, vec![Method::Encoder(encoder); 4]);
        // But for the contents and their lengths, both are the same.
        let skeleton = |opened: &[u8], seed| {
            let mut bytes = opened.to_vec();
            for (_, content) in members(seed) {
                let at = bytes.windows(content.len().max(1)).position(|part| part == content);
                if let Some(at) = at.filter(|_| !content.is_empty()) {
                    bytes.drain(at - 4..at + content.len());
                }
            }
            bytes
        };
        assert_eq!(skeleton(&old, 1), skeleton(&new, 2));
    }
}

#[test]
fn archives_within_archives_and_stored_members() {
    let encoder = Encoder::zlib(9, 8).unwrap();
    let inner = zip(&[("META-INF/MANIFEST.MF", text(4, 500)), ("x", text(5, 5000))], encoder, true);
    let outer =
        [stored_member(b"META-INF/MANIFEST.MF", b"stored"), stored_member(b"lib/inner.jar", &inner)].concat();
    let outer = [outer, zip(&[("y", text(6, 2000))], encoder, false)].concat();
    assert_eq!(there_and_back(&outer).1.len(), 3);
}

#[test]
fn archives_deflated_in_archives_open_again() {
    let encoder = Encoder::zlib(6, 8).unwrap();
    let jar = |seed| {
        zip(&[("META-INF/MANIFEST.MF", text(seed, 500)), ("x", text(seed + 1, 5000))], encoder, seed > 4)
    };
    let war = zip(&[("a.class", text(3, 900)), ("lib/a.jar", jar(4)), ("lib/b.jar", jar(6))], encoder, false);
    let ear = zip(&[("web.war", war.clone()), ("README", text(8, 700))], encoder, true);
    let (form, methods) = there_and_back(&war);
    assert_eq!((methods.len(), version(&war), version(&form), form_version(&form)), (3, 1, 5, 1));
    let (again, methods) = there_and_back(&form);
    assert_eq!(methods.len(), 4);
    // Nothing is deflated in what is there now.
    assert_eq!((version(&again), form_version(&again)), (5, 5));
    assert!(Plan::of(&again, u64::MAX).is_none());
    // As in a `.tar.gz`; and three archives within each other, then it is enough.
    let (tar, _) = there_and_back(&gzip(&[&[0; 512][..], &war, &[0; 99]].concat(), &["-6n"]));
    assert_eq!((there_and_back(&tar).1.len(), version(&tar)), (3, 5));
    let (first, _) = there_and_back(&ear);
    let (second, _) = there_and_back(&first);
    let (third, methods) = there_and_back(&second);
    assert_eq!(methods.len(), 4);
    assert_eq!((may_open(&third), version(&third), form_version(&third)), (false, 1, 5));
}

/// Opens of the members of a zip file those that `wanted` says by their numbers, packs the form again, and compares; the opened form.
fn some_there_and_back(content: &[u8], wanted: &[usize]) -> Vec<u8> {
    streams_there_and_back(content, &deflated(content, Some(0..content.len())), wanted)
}

fn streams_there_and_back(content: &[u8], members: &[Deflated], wanted: &[usize]) -> Vec<u8> {
    let places = places(content, wanted.iter().map(|&number| &members[number]));
    let mut form = Vec::new();
    let plan = Plan::open_some(content, &places, u64::MAX, &mut form).unwrap().expect("it opens");
    assert_eq!(plan.opened_bytes(), form.len() as u64);
    let mut short = Vec::new();
    assert!(Plan::open_some(content, &places, form.len() as u64 - 1, &mut short).unwrap().is_none());
    let parameters = find_parameters(&plan, content, &form, 2).unwrap();
    assert_eq!(parameters.0.len(), wanted.len());
    assert!(packs_to(&form, &parameters.encode(), content));
    assert!(comes_back(&plan, &form, content));
    form
}

#[test]
fn members_that_are_named_are_opened_and_no_others() {
    let encoder = Encoder::zlib(6, 8).unwrap();
    let texts: Vec<_> = (0..6).map(|seed| text(2 * seed + 1, 3000)).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let members: Vec<_> = names.into_iter().zip(texts.clone()).collect();
    for streamed in [false, true] {
        let content = zip(&members, encoder, streamed);
        let found = deflated(&content, Some(0..content.len()));
        assert_eq!(found.len(), 6);
        let has = |form: &[u8], bytes: &[u8]| form.windows(bytes.len()).any(|part| part == bytes);
        let form = some_there_and_back(&content, &[1, 4]);
        for (number, text) in texts.iter().enumerate() {
            let (opened, stream) = ([1, 4].contains(&number), &content[found[number].stream.clone()]);
            assert_eq!((has(&form, text), has(&form, stream)), (opened, !opened), "{number}");
        }
        // All of them: as if nothing had been named.
        assert_eq!(some_there_and_back(&content, &[0, 1, 2, 3, 4, 5]), opened(&content));
        // Behind a script, and stored in another.
        let script = [b"#!/usr/bin/env python3\n", &content[..]].concat();
        assert!(has(&some_there_and_back(&script, &[0, 5]), &texts[5]));
        let outer = [stored_member(b"inner.jar", &content), zip(&members[..2], encoder, false)].concat();
        let archives = vec![39..39 + content.len(), 39 + content.len()..outer.len()];
        assert_eq!(deflated(&outer, archives).len(), 8);
    }
    let content = zip(&members, encoder, false);
    for places in [&[][..], &[0], &[31, 200, 200], &[31, 0x80], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        assert!(
            Plan::open_some(&content, places, u64::MAX, &mut Vec::new()).unwrap().is_none(),
            "{places:?}"
        );
    }
}

#[test]
fn resources_of_a_run_time_image_are_found_by_their_headers() {
    let resource = |seed: u64| {
        let mut stream = vec![0x78, 0x9c];
        Encoder::zlib(6, 8).unwrap().encode(&text(seed, 2000), &mut stream).unwrap();
        stream.extend_from_slice(&[1, 2, 3, u8::try_from(seed).unwrap()]);
        let lengths = [stream.len() as u64, 2000].map(u64::to_le_bytes);
        [&[0xfa, 0xfa, 0xfe, 0xca][..], &lengths[0], &lengths[1], &[7, 0, 0, 0], &[255; 4], &[1], &stream]
            .concat()
    };
    let image =
        [&[0xda, 0xda, 0xfe, 0xca][..], &text(9, 300), &resource(1), &resource(3), &resource(5), b"tail"]
            .concat();
    assert_eq!(deflated(&image, Some(0..image.len())).len(), 3);
    let form = some_there_and_back(&image, &[0, 2]);
    assert!(form.len() > image.len() + 2000 && form.ends_with(b"tail"));
    // One whose stream would go over the end, and one that is no zlib stream.
    let cut = &image[..image.len() - 10];
    assert_eq!(deflated(cut, Some(0..cut.len())).len(), 2);
    let mut other = image.clone();
    other[4 + 300 + 29] ^= 1;
    assert_eq!(deflated(&other, Some(0..other.len())).len(), 2);
}

#[test]
fn streams_are_found_by_what_stands_around_them() {
    let zlib = |seed: u64, count: usize| {
        let text = text(seed, count);
        let (mut stream, mut check) = (vec![0x78, 0xda], elf::Adler::new());
        Encoder::zlib(9, 8).unwrap().encode(&text, &mut stream).unwrap();
        check.update(&text);
        [&stream[..], &check.bytes()].concat()
    };
    let (one, short, two) = (zlib(1, 9000), zlib(3, 20), gzip(&text(5, 9000), &["-6"]));
    let mut damaged = zlib(7, 900);
    *damaged.last_mut().unwrap() ^= 1;
    // Headers within, and at the end of the content.
    let noise = [&[0x78, 0x9c, 0x78, 0xda, 0x1f, 0x8b, 8, 0][..], &text(9, 100)].concat();
    let content =
        [&noise[..], &one, &short, &noise, &two, &damaged, &zlib(11, 400), &[0x78, 0xda], &[0x1f, 0x8b, 8]]
            .concat();
    let found = find_streams(&content);
    assert_eq!(found.iter().map(|member| member.sums.2).collect::<Vec<_>>(), [9000, 9000, 400]);
    let form = streams_there_and_back(&content, &found, &[0, 1, 2]);
    assert!(form.len() > 18_400);
    for count in 0..content.len() {
        assert!(find_streams(&content[..count]).len() <= 3);
    }
}

#[test]
fn what_python_writes_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for (name, count) in [("one.txt", 40_000), ("two.bin", 200_000), ("three", 10)] {
        std::fs::write(dir.path().join(name), text(count as u64, count)).unwrap();
    }
    let python = "import zipfile as z; f = z.ZipFile('out.zip', 'w', z.ZIP_DEFLATED)\nfor n in ('one.txt', 'two.bin', 'three'): f.write(n)\nf.close()";
    let out =
        Command::new("python3").args(["-c", python]).current_dir(&dir).output().expect("apt install python3");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let content = std::fs::read(dir.path().join("out.zip")).unwrap();
    let (_, methods) = there_and_back(&content);
    assert!(methods.iter().all(|method| matches!(method, Method::Encoder(_))));
}

#[test]
fn forms_and_parameters_that_do_not_fit_are_refused() {
    let content = gzip(&text(9, 4000), &["-9n"]);
    let (opened, methods) = there_and_back(&content);
    let parameters = Parameters(methods).encode();
    let count = content.len() as u64;
    let refused = |opened: &[u8], parameters: &[u8], count| {
        let error = pack(opened, parameters, count, &mut std::io::sink()).unwrap_err();
        assert!(matches!(error, EngineError::Member { .. }), "{error}");
    };
    refused(&opened, &parameters, count - 1);
    refused(&opened, &parameters, count + 1);
    refused(&opened, &[], count);
    refused(&opened, &[1, 0xff], count);
    refused(&opened, &[0, parameters[1]], count);
    refused(&opened, &[2, parameters[1]], count);
    refused(&opened, &[2, 0, 1, 1], count);
    refused(&opened, &[1, 0, 9, 1], count);
    refused(&[9], &parameters, count);
    refused(&opened[..5], &parameters, count);
    refused(&[RAW, 9, 0, 0, 0, 1], &parameters, count);
    refused(&[], &parameters, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..7, parameters in proptest::collection::vec(any::<u8>(), 0..20)) {
        let starts: [&[u8]; 7] = [b"PK\x03\x04\0\0\0\0\x08\0", &[0x1f, 0x8b, 8, 0], &[RAW, 30, 0, 0, 0], &[GZIP, 1], &[GZIP_TO_END, 0x1f, 0x8b, 8, 0], b"PK\x03\x04\0\0\x08\0\x08\0", &[]];
        bytes.splice(0..0, starts[start].iter().copied());
        if let Some(plan) = Plan::of(&bytes, 1 << 20) {
            let mut opened = Vec::new();
            plan.unpack(&bytes, &mut opened).unwrap();
            let parameters = find_parameters(&plan, &bytes, &opened, 1).unwrap().encode();
            let mut packed = Vec::new();
            pack(&opened, &parameters, bytes.len() as u64, &mut packed).unwrap();
            prop_assert_eq!(packed, bytes);
        } else {
            let _ = pack(&bytes, &parameters, 300, &mut std::io::sink());
        }
    }

    #[test]
    fn no_places_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), places in proptest::collection::vec(any::<u8>(), 0..20), flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let _ = Plan::open_some(&bytes, &places, u64::MAX, &mut Vec::new()).unwrap();
        let mut content = zip(&[("a", text(1, 900)), ("b", text(2, 900))], Encoder::zlib(6, 8).unwrap(), true);
        for (at, byte) in flips {
            let at = at.index(content.len());
            content[at] = byte;
        }
        let members = deflated(&content, Some(0..content.len()));
        let places = super::places(&content, members.iter());
        let mut form = Vec::new();
        if let Some(plan) = Plan::open_some(&content, &places, u64::MAX, &mut form).unwrap() {
            prop_assert!(comes_back(&plan, &form, &content));
        }
    }

    #[test]
    fn damaged_zip_files_come_back_too(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let encoder = Encoder::zlib(6, 8).unwrap();
        let mut content = zip(&[("one", text(1, 900)), ("two", text(2, 900)), ("three", text(3, 100))], encoder, false);
        for (at, value) in flips {
            let at = at.index(content.len());
            content[at] ^= value;
        }
        if Plan::of(&content, u64::MAX).is_some() {
            there_and_back(&content);
        }
    }
}

/// Found by the fuzz target `pack`: whether a record is whole depends on bytes that are converted, because another one begins in it. The
/// opened form does not tell; whoever makes a patch sees that it does not pack to the content and leaves it as it is.
#[test]
fn a_record_that_begins_in_another_is_seen() {
    let zip = zip(&[("one", text(1, 900))], Encoder::zlib(6, 8).unwrap(), false);
    let central = zip.windows(4).position(|bytes| bytes == CENTRAL_SIGNATURE).unwrap();
    let content = [&zip[..central], CENTRAL_SIGNATURE, &[0; 8], &zip[central..]].concat();
    let form = opened(&content);
    let plan = Plan::of(&content, form.len() as u64).unwrap();
    let parameters = find_parameters(&plan, &content, &form, 1).unwrap().encode();
    assert!(!packs_to(&form, &parameters, &content));
    assert!(!comes_back(&plan, &form, &content));
}

#[test]
fn streams_of_which_nothing_comes_cost_what_they_take() {
    // Stored blocks without a byte, and no last one.
    let empty = [0, 0, 0, 0xff, 0xff].repeat(2000);
    let mut spent = 7;
    let result = inflate::Inflater::new().inflate(&empty, u64::MAX, &mut spent, &mut std::io::sink());
    assert!(result.is_err() && spent == 7 + empty.len() as u64, "{spent}");
    // A stream that ends is a member if its check says so, and then nothing goes over it again.
    let whole = [&empty[..], &[1, 1, 0, 0xfe, 0xff, 5]].concat();
    let mut spent = 0;
    let stream =
        inflate::Inflater::new().inflate(&whole, u64::MAX, &mut spent, &mut std::io::sink()).unwrap();
    assert_eq!((spent, stream.deflated, stream.inflated), (1, whole.len() as u64, 1));
}

/// A program with deflated sections.
fn program(sections: &[(Encoder, &[u8])]) -> Vec<u8> {
    with_sections([&[0; 64][..], &text(9, 3000)].concat(), sections)
}

#[test]
fn sections_of_programs_are_opened_where_they_are() {
    let (lines, info) = (text(1, 200_000), text(2, 5000));
    let zlib = Encoder::zlib(6, 8).unwrap();
    let content = program(&[(Encoder::go(), &lines), (zlib, &info)]);
    let (opened, methods) = there_and_back(&content);
    assert_eq!(methods, [Encoder::go(), zlib].map(Method::Encoder));
    let (file, inflated) = opened.split_at(content.len());
    assert!(inflated == [&lines[..], &info].concat());
    let changed: Vec<_> = (0..file.len()).filter(|at| file[*at] != content[*at]).collect();
    assert!(changed.iter().all(|at| file[*at] == 0) && changed[0] == 3064 + 24 + 2);
    // Who deflated the second is not known.
    let content = program(&[(Encoder::go(), &lines), (Encoder::zlib(3, 8).unwrap(), &info)]);
    let (_, methods) = there_and_back(&content);
    assert!(matches!(methods[..], [Method::Encoder(_), Method::Verbatim(_)]));
}

#[test]
fn programs_whose_sections_are_not_what_they_say_stay() {
    let lines = text(1, 20_000);
    let good = program(&[(Encoder::go(), &lines), (Encoder::go(), &lines)]);
    assert!(Plan::of(&good, u64::MAX).is_some());
    let (first, table) = (3064, good.len() - 3 * 64);
    let damaged = |at: usize, value: u8| {
        let mut bytes = good.clone();
        assert_ne!(bytes[at], value);
        bytes[at] = value;
        Plan::of(&bytes, u64::MAX).is_none()
    };
    // Its length inflated, the zlib header, the stream, its check.
    assert!(
        damaged(first + 8, 7) && damaged(first + 24, 0x79) && damaged(first + 100, good[first + 100] ^ 1)
    );
    assert!(damaged(first + (good.len() - 192 - 3064) / 2 - 1, 0x5a));
    // Where the table is, and how long a section is.
    assert!(damaged(0x29, 0) && damaged(table + 64 + 32, 0));
    // One section in another.
    let mut twice = good.clone();
    twice.copy_within(table + 64..table + 128, table + 128);
    assert!(Plan::of(&twice, u64::MAX).is_none());
    for length in [10, 64, 3064, table, good.len() - 1] {
        assert!(Plan::of(&good[..length], u64::MAX).is_none(), "{length}");
    }
}

#[test]
fn opened_programs_that_do_not_fit_are_refused() {
    let lines = text(1, 20_000);
    let content = program(&[(Encoder::go(), &lines)]);
    let (opened, methods) = there_and_back(&content);
    let parameters = Parameters(methods).encode();
    let refused = |opened: &[u8], parameters: &[u8], bytes: usize| {
        let mut out = Vec::new();
        matches!(pack(opened, parameters, bytes as u64, &mut out), Err(EngineError::Member { .. }))
    };
    for length in [7, 63, content.len() - 1, content.len(), opened.len() - 1] {
        assert!(refused(&opened[..length], &parameters, content.len()), "{length}");
    }
    assert!(refused(&[&opened[..], b"x"].concat(), &parameters, content.len()));
    assert!(refused(&opened, &[1, 0x26], content.len()), "another encoder makes another length");
    for bytes in [0, content.len() - 1, content.len() + 1, usize::MAX] {
        assert!(refused(&opened, &parameters, bytes), "{bytes}");
    }
}

fn xz(content: &[u8], options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    std::fs::write(&path, content).unwrap();
    let out = Command::new("xz").args(options).arg("-c").arg(&path).output().expect("apt install xz-utils");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn what_xz_writes_comes_back() {
    let content = text(5, 300_000);
    for (options, code) in [
        (&["-6"][..], 0xc6),
        (&["-0"], 0xc0),
        (&["-1"], 0xc1),
        (&["-2", "--check=none"], 0xc2),
        (&["-3"], 0xc3),
        (&["-4"], 0xc4),
        (&["-5"], 0xc5),
        (&["-6e", "--check=sha256"], 0xd6),
        (&["--check=crc32", "--lzma2=dict=1MiB"], 0xc6),
        (&["--check=crc32", "--lzma2=dict=2MiB"], 0xc6),
        // With lengths in the block's header.
        (&["-6", "-T2"], 0xc6),
    ] {
        let file = xz(&content, options);
        let (opened, methods) = there_and_back(&file);
        assert_eq!(opened[9..], content, "{options:?}");
        assert_eq!(Parameters(methods).encode(), [1, code], "{options:?}");
        assert_eq!((version(&file), version(&opened)), (3, 3));
    }
    for options in [&["-9"][..], &["--x86", "--lzma2"], &["-T2", "--block-size=100000"]] {
        assert!(Plan::of(&xz(&content, options), u64::MAX).is_none(), "{options:?}");
    }
    let (_, methods) = there_and_back(&xz(&content, &["--lzma2=preset=6,nice=20"]));
    assert!(matches!(methods[..], [Method::Verbatim(_)]), "options that nobody knows");
    assert!(Plan::of(&xz(&vec![0; (16 << 20) + 1], &[]), u64::MAX).is_none(), "too long");
    assert!(Plan::of(&xz(&[], &[]), u64::MAX).is_none(), "no block");
}

/// Number of a preset, dictionary, what `xz` 5.4.1 makes (`--format=raw`).
const PRESETS: &[(u8, u8, &str)] = &[
    (0xc0, 12, "df812ba65f2f48ee"),
    (0xc1, 16, "e49702857fc9ec8a"),
    (0xc2, 18, "2560694176647d5e"),
    (0xc3, 20, "5d50a206bfb395bf"),
    (0xc4, 20, "b88c31eec7a21423"),
    (0xc5, 22, "ab8ca3827e17b7b3"),
    (0xc6, 22, "be631aeb39ffdcc7"),
    (0xc6, 16, "837ba5a768a4d12f"),
    (0xd0, 12, "f370a5cce1185e57"),
    (0xd4, 20, "23a91c48182aa946"),
    (0xd6, 22, "23a91c48182aa946"),
];

/// What liblzma makes by a preset is part of the format.
#[test]
fn presets_make_what_they_always_made() {
    let content: Vec<u8> =
        (0..400_000u32).flat_map(|n| ((n.wrapping_mul(n) / 7 % 1009) ^ (n / 5000)).to_le_bytes()).collect();
    for &(code, dictionary, check) in PRESETS {
        let mut out = Vec::new();
        Preset::from_code(code).unwrap().encode(&content, dictionary, &mut out).unwrap();
        assert_eq!(crate::Digest::of(&out).to_string()[7..23], *check, "{code:x} {dictionary}");
    }
}

#[test]
fn damaged_xz_files_stay_as_they_are() {
    let file = xz(&text(6, 3000), &["--check=crc32"]);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x10;
        assert!(Plan::of(&damaged, u64::MAX).is_none(), "{at}");
    }
    for length in 0..file.len() {
        assert!(Plan::of(&file[..length], u64::MAX).is_none(), "{length}");
    }
    assert!(Plan::of(&[&file[..], &[0; 4]].concat(), u64::MAX).is_none(), "padding");
    let (opened, methods) = there_and_back(&file);
    let (parameters, count) = (Parameters(methods).encode(), file.len() as u64);
    for (form, parameters, count) in [
        (&opened[..8], &parameters[..], count),
        (&opened, &[], count),
        (&opened, &[1, 0x16], count),
        (&opened, &[2, 0xc6], count),
        (&opened, &parameters, count + 1),
        (&opened, &parameters, count - 1),
    ] {
        let error = pack(form, parameters, count, &mut std::io::sink()).unwrap_err();
        assert!(matches!(error, EngineError::Member { .. }), "{error}");
    }
    for (at, value) in [(6, 2), (7, 40), (8, 3), (8, 4)] {
        let mut form = opened.clone();
        form[at] = value;
        assert!(pack(&form, &parameters, count, &mut std::io::sink()).is_err(), "{at} {value}");
    }
}
