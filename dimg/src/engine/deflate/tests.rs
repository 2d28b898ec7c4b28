//! Streams compared with those of the real programs.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Inputs of many kinds: texts, noise, runs, mixes, sizes around those of the window.
fn inputs() -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let words: Vec<Vec<u8>> = (0..400)
        .map(|_| (0..2 + random() % 9).map(|_| b'a' + (random() % 26).to_le_bytes()[0]).collect())
        .collect();
    let mut text = |count: usize| {
        let mut out = Vec::new();
        while out.len() < count {
            let skewed = (random() % 400) * (random() % 400) / 400;
            out.extend_from_slice(&words[usize::try_from(skewed).unwrap()]);
            out.push(if random() % 12 == 0 { b'\n' } else { b' ' });
        }
        out.truncate(count);
        out
    };
    let mut all = vec![vec![], b"a".to_vec(), b"ab".to_vec(), b"aaa".to_vec(), vec![0; 1 << 18]];
    for count in [
        10, 100, 257, 258, 259, 262, 1000, 4000, 32_506, 32_768, 33_000, 65_138, 65_273, 65_274, 65_275,
        65_400, 65_535, 65_536, 65_537, 65_700, 98_040, 98_041, 98_300, 98_304, 98_305, 131_072, 300_000,
    ] {
        all.push(text(count));
    }
    all.push(text(800_000));
    let mut random = {
        let mut state = 7u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        }
    };
    for count in [1000, 40_000, 70_000, 200_000] {
        all.push((0..count).map(|_| random()).collect());
    }
    for count in [5_000usize, 100_000, 400_000] {
        // Few symbols, long and short runs, binary numbers.
        all.push((0..count).map(|_| random() & 3).collect());
        all.push(
            (0..count).map(|at| if at % 997 < 600 { (at % 10).to_le_bytes()[0] } else { random() }).collect(),
        );
        all.push(
            (0..count).flat_map(|at| u32::try_from(at * at % (1 << 32)).unwrap().to_le_bytes()).collect(),
        );
        all.push((0..count).map(|at| if (at / 20_000) % 2 == 0 { random() } else { b'x' }).collect());
    }
    all
}

fn encoded(encoder: Encoder, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.encode(input, &mut out).unwrap();
    out
}

/// What the program makes of the file, without header and trailer.
fn gzip(level: u8, path: &std::path::Path) -> Vec<u8> {
    let mut command = Command::new("gzip");
    command.args([&format!("-n{level}"), "-c"]).arg(path).stdin(Stdio::null());
    let out = command.output().expect("gzip runs");
    assert!(out.status.success());
    out.stdout[10..out.stdout.len() - 8].to_vec()
}

#[test]
fn codes_and_encoders_name_each_other() {
    let known: Vec<u8> = (0..=255).filter(|code| Encoder::from_code(*code).is_some()).collect();
    assert_eq!(known.len(), 9 + 81 + 1);
    assert!(known.iter().all(|code| Encoder::from_code(*code).unwrap().code() == *code));
    assert!(Encoder::gnu(0).is_none() && Encoder::zlib(9, 10).is_none());
}

/// Large inputs are tried at some levels only.
fn levels(input: &[u8]) -> impl Iterator<Item = u8> {
    let large = input.len() > 150_000;
    (1..=9).filter(move |level| !large || [3, 9].contains(level))
}

#[test]
fn streams_are_those_of_the_program_gzip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("input");
    for (number, input) in inputs().iter().enumerate() {
        std::fs::write(&path, input).unwrap();
        for level in levels(input) {
            let made = encoded(Encoder::gnu(level).unwrap(), input);
            assert!(made == gzip(level, &path), "input {number} of {} bytes at level {level}", input.len());
        }
    }
}

#[test]
fn streams_are_those_of_zlib() {
    const SCRIPT: &str = "
import sys, zlib
for line in sys.stdin:
    path, level, memory = line.split()
    data = open(path, 'rb').read()
    stream = zlib.compressobj(int(level), zlib.DEFLATED, -15, int(memory))
    made = stream.compress(data) + stream.flush()
    print(zlib.crc32(made), len(made), flush=True)
";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    // Not every machine has it; what was compared once is pinned below.
    let Ok(mut python) = command.spawn() else { return };
    let (mut asked, told) = (python.stdin.take().unwrap(), python.stdout.take().unwrap());
    let mut told = BufReader::new(told).lines();
    let dir = tempfile::tempdir().unwrap();
    for (number, input) in inputs().iter().enumerate() {
        let path = dir.path().join(number.to_string());
        std::fs::write(&path, input).unwrap();
        for (level, memory) in
            levels(input).flat_map(|level| [(level, 8), (level, 9), (level, 1 + level % 7)])
        {
            let made = encoded(Encoder::zlib(level, memory).unwrap(), input);
            writeln!(asked, "{} {level} {memory}", path.display()).unwrap();
            let mut crc = flate2::Crc::new();
            crc.update(&made);
            let expected = told.next().unwrap().unwrap();
            let found = format!("{} {}", crc.sum(), made.len());
            assert_eq!(found, expected, "input {number} of {} bytes: {level} {memory}", input.len());
        }
    }
    drop(asked);
    python.wait().unwrap();
}

#[test]
fn streams_never_change() {
    let mut all = Vec::new();
    for input in inputs().iter().filter(|input| input.len() < 70_000) {
        for encoder in (0..=255).filter_map(Encoder::from_code).filter(|encoder| encoder.level % 3 == 0) {
            all.extend_from_slice(&encoded(encoder, input));
        }
    }
    assert_eq!(xxhash_rust::xxh3::xxh3_64(&all), 1_435_056_374_048_865_691);
}

/// Length and CRC-32 of what `flate.NewWriter(w, flate.BestSpeed)` makes of [`inputs`]; Go 1.21, 1.24 and 1.26 alike.
const GO: [(usize, u32); 49] = [
    (5, 0x4564cc52),
    (11, 0xbc7c712a),
    (12, 0x89f08fca),
    (13, 0x4abbf4ea),
    (330, 0x57462ae8),
    (20, 0x4ff0831a),
    (82, 0x2ef8cc1c),
    (177, 0x7caeb0f7),
    (178, 0xc2722177),
    (179, 0xdf443184),
    (179, 0x9a7c93bb),
    (526, 0x84f5df98),
    (1745, 0x73d99e06),
    (10800, 0xb55709ad),
    (11177, 0xb99db85b),
    (10961, 0x2daaf5c3),
    (21785, 0xde3a6d63),
    (21260, 0x89e581a5),
    (21051, 0x4b0a758e),
    (21181, 0x358fd03f),
    (21176, 0x987feea4),
    (21305, 0xbbc944db),
    (21134, 0xa194a082),
    (21315, 0x526b4c58),
    (21621, 0xc9144fde),
    (31542, 0xcde3b0bd),
    (31353, 0x95f9f044),
    (31664, 0x26d7ff44),
    (31477, 0x2ce71d9e),
    (31590, 0x810194f3),
    (41734, 0x9ab364fc),
    (94299, 0xdfcfae55),
    (250119, 0x1b9550c5),
    (1010, 0x713513df),
    (40010, 0x3c5de655),
    (70015, 0x497d1c79),
    (200025, 0xf95b7948),
    (1788, 0x46a5d5bb),
    (2139, 0xc5f85cf1),
    (16223, 0xe9a7e742),
    (5010, 0xf0c7b271),
    (34941, 0x74198be8),
    (41035, 0xc4f105c8),
    (393120, 0xa4442ce8),
    (60951, 0x3611c10c),
    (139604, 0x1f5aeac0),
    (164023, 0xc1e16843),
    (1593664, 0x1ac65245),
    (202756, 0x59435a94),
];

#[test]
fn streams_of_go() {
    let made = inputs().into_iter().map(|input| {
        let stream = encoded(Encoder::go(), &input);
        let mut crc = flate2::Crc::new();
        crc.update(&stream);
        (stream.len(), crc.sum())
    });
    assert!(made.eq(GO));
}
