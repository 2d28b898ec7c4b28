use super::*;
use proptest::prelude::*;

fn unpack(packed: &Packed) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decoder::new(packed.codec, &packed.stored, packed.raw_bytes, MAX_WINDOW_LOG)?.read_to_end(&mut out)?;
    Ok(out)
}

fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * i / 7 + i / 300) % 251).unwrap()).collect()
}

fn all(data: &[u8]) -> Vec<Packed> {
    let raw_bytes = data.len() as u64;
    let options = lzma_options(Kind::Content, Level::Default, 16, (3, 0, 2)).unwrap();
    [
        Packed { codec: Codec::Raw, raw_bytes, stored: data.to_vec() },
        Packed { codec: Codec::Zstd, raw_bytes, stored: zstd_pack(&[data], raw_bytes, 3, 16).unwrap() },
        Packed { codec: Codec::Lzma2, raw_bytes, stored: lzma_pack(&[data], &options, 16).unwrap() },
    ]
    .into_iter()
    .chain(bare(&lzma_pack(&[data], &options, 16).unwrap(), 0xe0).map(|stored| Packed {
        codec: Codec::Lzma,
        raw_bytes,
        stored,
    }))
    .collect()
}

#[test]
fn round_trip_every_codec() {
    for length in [0, 1, 5, 1000, 70_000, 300_000] {
        let data = sample(length);
        for packed in all(&data) {
            assert_eq!(unpack(&packed).unwrap(), data, "{} {length}", packed.codec);
        }
    }
}

#[test]
fn length_is_a_promise() {
    let data = sample(5000);
    for packed in all(&data) {
        for raw_bytes in [0, 1, 4999, 5001, u64::MAX] {
            assert!(unpack(&Packed { raw_bytes, ..packed.clone() }).is_err(), "{} {raw_bytes}", packed.codec);
        }
        let mut longer = packed.clone();
        longer.stored.push(0);
        assert!(unpack(&longer).is_err(), "{}: trailing byte", packed.codec);
        for cut in 0..packed.stored.len() {
            let shorter = Packed { stored: packed.stored[..cut].to_vec(), ..packed.clone() };
            assert!(unpack(&shorter).is_err(), "{}: cut at {cut}", packed.codec);
        }
    }
}

#[test]
fn windows_are_capped() {
    let data = sample(3 << 20);
    let stored = zstd_pack(&[&data], data.len() as u64, 3, 21).unwrap();
    let read = |log| {
        let mut out = Vec::new();
        Decoder::new(Codec::Zstd, &stored, data.len() as u64, log)?.read_to_end(&mut out)
    };
    assert!(read(21).is_ok());
    assert!(read(20).is_err());
    assert!(Decoder::new(Codec::Lzma2, &[25, 0], 0, MAX_WINDOW_LOG).is_err());
    assert!(Decoder::new(Codec::Lzma2, &[24, 0], 0, MAX_WINDOW_LOG).is_ok());
    assert!(Decoder::new(Codec::Lzma2, &[24, 0], 0, 23).is_err());
}

#[test]
fn frames_before_version_1_are_refused() {
    // A frame of zstd 0.7: magic, one segment of five bytes, a raw block, the end.
    let frame = b"\x27\xb5\x2f\xfd\x20\x05\x40\x00\x05hello\xc0\x00\x00";
    let packed = Packed { codec: Codec::Zstd, raw_bytes: 5, stored: frame.to_vec() };
    assert!(unpack(&packed).is_err());
}

#[test]
fn what_the_base_holds_takes_no_room() {
    let (base, other) = (sample(200_000), sample(5_000));
    let mut content = base[70_000..140_000].to_vec();
    content.splice(1000..1010, other[..900].iter().copied());
    let noise: Vec<u8> = (0u32..70_000).map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect();
    for (base, content) in [(&base[..], &content), (&base[..1], &content), (&noise, &content)] {
        for level in [Level::Default, Level::Best] {
            let packed = pack_after(base, content, level).unwrap().unwrap();
            let read = |base: &[u8], stored: &[u8], raw_bytes: usize| {
                let mut out = Vec::new();
                Decoder::after(base, stored, raw_bytes as u64)?.read_to_end(&mut out).map(|_| out)
            };
            assert_eq!(&read(base, &packed.stored, content.len()).unwrap(), content);
            assert!(read(base, &packed.stored, content.len() + 1).is_err());
            assert!(read(base, &packed.stored, content.len() - 1).is_err());
            for cut in (0..packed.stored.len()).step_by(7) {
                assert!(read(base, &packed.stored[..cut], content.len()).is_err());
            }
            let read = |base: &[u8], stored: &[u8], raw_bytes: usize| {
                let mut out = Vec::new();
                Decoder::bare_after(base, stored, raw_bytes as u64)?.read_to_end(&mut out).map(|_| out)
            };
            let Some(bare) = pack_bare_after(base, content, level).unwrap() else {
                assert!(packed.stored.len() > 1 << 16);
                continue;
            };
            assert_eq!(&read(base, &bare.stored, content.len()).unwrap(), content);
            for cut in (0..bare.stored.len()).step_by(7) {
                assert!(read(base, &bare.stored[..cut], content.len()).is_err());
            }
            assert!(read(base, &[&bare.stored[..], &[0]].concat(), content.len()).is_err());
            assert!(read(base, &bare.stored, 0).is_err());
        }
    }
    let alone = pack(&[&content], Kind::Content, Level::Default, 24).unwrap().stored.len();
    let packed = pack_after(&base, &content, Level::Default).unwrap().unwrap();
    assert!(packed.stored.len() < alone / 2, "{} {alone}", packed.stored.len());
    assert!(pack_after(b"", &content, Level::Default).unwrap().is_none());
    assert!(pack_after(&base, b"", Level::Default).unwrap().is_none());
    assert!(window_after(16 << 20, 1).is_none());
}

#[test]
fn text_is_told_by_its_first_bytes() {
    let long = [&[b'a'; TEXT_LOOK_BYTES][..], &[0]].concat();
    for (parts, contexts) in [
        (&[&b"some"[..], b"", b"text"][..], TEXT_CONTEXTS),
        (&[&b"some"[..], b"\0"], (3, 0, 2)),
        (&[&long[..]], TEXT_CONTEXTS),
        (&[&long[1..]], (3, 0, 2)),
    ] {
        assert_eq!(Kind::Content.usual_contexts(parts), contexts);
    }
    assert_eq!(Kind::Numbers.usual_contexts(&[b"text"]), Kind::Numbers.contexts()[0]);
}

#[test]
fn levels_choose_the_smaller() {
    let data = sample(100_000);
    for level in [Level::Fast, Level::Default, Level::Best] {
        for kind in [Kind::Numbers, Kind::Bytes, Kind::Content] {
            let packed = pack(&[&data[..777], &data[777..]], kind, level, MAX_WINDOW_LOG).unwrap();
            assert!(packed.stored.len() < data.len());
            assert_eq!(unpack(&packed).unwrap(), data);
            assert_eq!(packed, pack(&[&data], kind, level, MAX_WINDOW_LOG).unwrap());
        }
    }
    assert_eq!(pack(&[b"abc"], Kind::Bytes, Level::Default, 20).unwrap().codec, Codec::Raw);
    assert_eq!(pack(&[], Kind::Bytes, Level::Best, 20).unwrap().stored, b"");
}

proptest! {
    #[test]
    fn damage_is_found_or_harmless(length in 1usize..3000, at: prop::sample::Index, bit in 0u8..8) {
        let data = sample(length);
        for mut packed in all(&data) {
            let at = at.index(packed.stored.len());
            packed.stored[at] ^= 1 << bit;
            if let Ok(out) = unpack(&packed) {
                prop_assert_eq!(out.len(), length);
            }
        }
    }
}

#[test]
fn what_is_compressed_already_is_seen() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    let dense: Vec<u8> = (0..300_000).map(|_| next()).collect();
    let look = |base: &[u8], content: &[u8]| is_dense(base, &[content], content.len() as u64).unwrap();
    assert!(look(&[], &dense) && look(&sample(100_000), &dense));
    assert!(!look(&[], &sample(300_000)) && !look(&dense[..200_000], &dense));
    // A fiftieth of it is not.
    assert!(!look(&[], &[&dense[..], &[7; 6000]].concat()));
    assert!(!look(&[], &dense[..1000]), "too short to look at");
    let packed = pack(&[&dense], Kind::Content, Level::Default, 22).unwrap();
    assert_eq!(packed.codec, Codec::Raw);
}
