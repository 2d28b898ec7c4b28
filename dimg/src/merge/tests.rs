//! Series of small images made here: deltas merged in every way, and what they make.

use super::*;
use crate::build::BuildOptions;
use crate::build::Codec;
use crate::build::tests::{Made, apply, bytes, noise};
use crate::content::Bytes;
use crate::engine::elf::sample::Sample;
use crate::format::{Class, RecipeRow, StageCodec};
use proptest::prelude::*;

pub(crate) fn merged(files: &[&[u8]], threads: usize, memory_bytes: u64) -> Result<Vec<u8>, MergeError> {
    let open = |bytes: &&[u8]| Dimg::open(Bytes::from(bytes.to_vec())).unwrap();
    let files: Vec<Dimg> = files.iter().map(open).collect();
    let files: Vec<&Dimg> = files.iter().collect();
    let options = MergeOptions {
        level: Level::Fast,
        threads: NonZeroUsize::new(threads).unwrap(),
        memory_bytes,
        dir: std::env::temp_dir(),
    };
    let mut built = merge(&files, &options, &mut ())?;
    let mut out = Vec::new();
    built.write_to(&mut out).unwrap();
    Ok(out)
}

/// Quick ones: compressors are not what is tested.
fn options(threads: usize, codec: Codec) -> BuildOptions {
    BuildOptions { level: Level::Fast, ..crate::build::tests::options(threads, codec) }
}

const MEMORY: u64 = 256 << 20;

/// `content` with a byte in so many changed.
fn touched(content: &[u8], seed: usize, step: usize) -> Vec<u8> {
    let mut new = content.to_vec();
    new.iter_mut().skip(seed * 7).step_by(step).for_each(|byte| *byte ^= 0x55);
    new
}

/// Version 1 to 4 of an image where everything happens that can.
fn version(number: u8, chunks: bool) -> Made {
    let n = usize::from(number);
    let large =
        |upto: usize| (1..upto).fold(noise(1, 1 << 20), |content, step| touched(&content, step, 4096));
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("bin/large".into(), large(n)),
        ("bin/same".into(), noise(3, 20_000)),
        (format!("lib/libx.so.1.{n}"), [&noise(4, 20_000)[..], &vec![number; n * 10]].concat()),
        ("etc/back".into(), noise(5 + u64::from(number % 2), 3000)),
    ];
    if number >= 2 {
        // Stored by the second file, then patched a little, a lot, or not at all.
        files.push(("new/little".into(), touched(&noise(20, 600_000), n, 100_000)));
        files.push(("new/lot".into(), touched(&noise(21, 600_000), n, 10 + n)));
        if chunks {
            files.push(("new/large".into(), touched(&noise(22, 9 << 20), n, 1 << 20)));
        }
        files.push(("new/same".into(), noise(23, 5000)));
        files.push(("new/empty".into(), vec![]));
    }
    if number == 2 {
        files.push(("gone".into(), noise(24, 30_000)));
        files.extend((0..50).map(|file| (format!("gone/{file}"), noise(200 + file, 4000))));
    }
    // Small files that change each time, at different times, or once.
    for file in 0..60usize {
        let content = noise(1000 + file as u64, 3000);
        let changes = if file % 3 == 0 { n } else { usize::from(n > file % 4) };
        files.push((
            format!("share/{file}"),
            (0..changes).fold(content, |content, step| touched(&content, step, 900)),
        ));
    }
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    Made::new(number, &files)
}

fn deltas(codec: Codec) -> (Vec<Made>, Vec<Vec<u8>>) {
    let images: Vec<Made> = (1..6).map(|number| version(number, codec == Codec::Auto)).collect();
    let deltas = images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(2, codec))).collect();
    (images, deltas)
}

fn slices(files: &[Vec<u8>]) -> Vec<&[u8]> {
    files.iter().map(Vec::as_slice).collect()
}

#[test]
fn merged_then_applied_is_applied_one_after_the_other() {
    for codec in [Codec::Auto, Codec::Bsdiff, Codec::Store] {
        let (images, files) = deltas(codec);
        for (from, to) in [(0, 2), (1, 3), (0, 3)] {
            let merged = merged(&slices(&files[from..to]), 2, MEMORY).unwrap();
            apply(&merged, Some(&images[from]), &images[to]);
        }
    }
}

#[test]
fn a_merged_delta_is_hardly_larger_than_a_direct_one() {
    let (images, files) = deltas(Codec::Auto);
    let merged = merged(&slices(&files[..3]), 2, MEMORY).unwrap();
    let direct = bytes(Some(&images[0]), &images[3], &options(2, Codec::Auto));
    assert!(merged.len() * 100 <= direct.len() * 105, "{} merged, {} direct", merged.len(), direct.len());
    let codecs = apply(&merged, Some(&images[0]), &images[3]);
    assert_eq!(codecs, apply(&direct, Some(&images[0]), &images[3]));
}

/// The results of merging `files` in every way that merges can be nested, of two and of all at a time.
fn nested(files: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let [_, _, ..] = files else { return files.to_vec() };
    let mut all = vec![merged(&slices(files), 2, MEMORY).unwrap()];
    for at in 1..files.len() {
        let (first, second) = files.split_at(at);
        for one in nested(first) {
            for other in nested(second) {
                all.push(merged(&[&one, &other], 2, MEMORY).unwrap());
            }
        }
    }
    all
}

/// Checks that nesting changes no byte; the merged file.
fn assert_nesting_changes_nothing(files: &[Vec<u8>], what: &str) -> Vec<u8> {
    let mut all = nested(files).into_iter();
    let flat = all.next().unwrap();
    for (number, other) in (1..).zip(all) {
        assert!(other == flat, "{what}, nesting {number}: {} bytes, flat {}", other.len(), flat.len());
    }
    flat
}

#[test]
fn nesting_changes_no_byte() {
    for codec in [Codec::Auto, Codec::Bsdiff] {
        let (images, files) = deltas(codec);
        let flat = assert_nesting_changes_nothing(&files, &format!("{codec:?}"));
        apply(&flat, Some(&images[0]), images.last().unwrap());
    }
}

#[test]
fn nesting_changes_no_byte_of_a_base() {
    let (images, mut files) = deltas(Codec::Auto);
    files.insert(0, bytes(None, &images[0], &options(2, Codec::Auto)));
    files.pop();
    let flat = assert_nesting_changes_nothing(&files, "a base");
    apply(&flat, None, &images[3]);
}

#[test]
fn nesting_changes_no_byte_of_what_stays_and_is_patched() {
    let image = |number: u8| {
        let n = usize::from(number);
        let content =
            |upto: usize| (1..upto).fold(noise(9, 5000), |content, step| touched(&content, step, 900));
        Made::new(
            number,
            &[("etc/a", content(n)), ("etc/kept", content(n.min(2))), ("etc/same", noise(3, 3000))],
        )
    };
    let images: Vec<_> = (1..5).map(image).collect();
    let mut files = vec![bytes(None, &images[0], &options(2, Codec::Auto))];
    files.extend(images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(2, Codec::Auto))));
    let flat = assert_nesting_changes_nothing(&files, "kept and patched");
    apply(&flat, None, &images[3]);
}

/// Programs too large for groups.
#[test]
fn nesting_changes_no_byte_of_large_contents() {
    for codec in [Codec::Plain, Codec::Bsdiff] {
        // What is new in one is replaced in the next; one becomes large and small again.
        let large = |file: usize, upto: usize| {
            let same = (1..upto).fold(noise(1, 1 << 19), |content, step| touched(&content, step, 2000));
            [noise((100 * file + upto) as u64, 200_000), same].concat()
        };
        let image = |number: u8| {
            let n = usize::from(number);
            let grown = [large(3, n), vec![number; if n % 4 > 1 { 2 << 20 } else { 0 }]].concat();
            Made::new(number, &[("bin/a", large(1, n)), ("lib/b", large(2, n.div_ceil(2))), ("lib/c", grown)])
        };
        let images: Vec<_> = (1..6).map(image).collect();
        let files: Vec<_> =
            images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(2, codec))).collect();
        let flat = assert_nesting_changes_nothing(&files, &format!("{codec:?}"));
        apply(&flat, Some(&images[0]), &images[4]);
    }
}

/// Address maps keep the programs of each step apart; some are small, some large, some become one with those of a member that is opened.
#[test]
fn nesting_changes_no_byte_of_relocated_programs() {
    let sample = |functions, longer| Sample { functions, longer, ..Sample::default() }.build();
    let image = |number: u8, longer: usize| {
        let n = usize::from(number);
        let inserted = [sample(3000, longer), noise(50 + n as u64, 150_000)].concat();
        Made::new(
            number,
            &[
                ("bin/a", sample(2000, longer)),
                ("bin/b", inserted),
                ("bin/c", if n == 3 { noise(3, 10_000) } else { sample(1000, longer) }),
                ("share/d", (1..n).fold(noise(9, 5000), |content, step| touched(&content, step, 500))),
            ],
        )
    };
    let images: Vec<_> =
        [(1, usize::MAX), (2, 23), (3, 17), (4, 13), (5, 11)].map(|(n, longer)| image(n, longer)).into();
    let files: Vec<_> =
        images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(2, Codec::Auto))).collect();
    let flat = assert_nesting_changes_nothing(&files, "relocated");
    apply(&flat, Some(&images[0]), &images[4]);
    let dimg = Dimg::open(Bytes::from(flat)).unwrap();
    let elf = |recipe: &&RecipeRow| {
        recipe.stages.iter().filter(|stage| stage.codec == StageCodec::Elf).count() == 4
    };
    assert_eq!(dimg.recipes().unwrap().iter().filter(elf).count(), 2);
}

/// Executables with data behind them: some that stay, and so much that is other in each version.
fn with_data(number: u8, longer: usize) -> Made {
    let content = |functions, data, changing| {
        let sample = Sample { functions, longer, ..Sample::default() }.build();
        [sample, noise(70, data), noise(u64::from(number) << 8 | 71, changing)].concat()
    };
    // The programs of the second are too long to be compressed anew; of the third, behind a program, none is relocated in the first file.
    let third = content(2000, 30_000, if number < 3 { 0 } else { 40_000 });
    Made::new(
        number,
        &[
            ("bin/a", content(2000, 30_000, 40_000)),
            ("bin/b", content(3000, 20_000, 150_000)),
            ("bin/c", third),
        ],
    )
}

#[test]
fn fills_take_out_what_the_next_delta_does_not_copy() {
    const FILL: (StageCodec, u32) = (StageCodec::Program, StageCodec::FILL);
    const ELF: (StageCodec, u32) = (StageCodec::Elf, 3);
    const PROGRAM: (StageCodec, u32) = (StageCodec::Program, 1);
    let images: Vec<_> =
        [(1, usize::MAX), (2, 23), (3, 17), (4, 13), (5, 11)].map(|(n, longer)| with_data(n, longer)).into();
    let build = crate::build::tests::options(2, Codec::Auto);
    let files: Vec<_> = images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &build)).collect();
    let stages = |file: &[u8]| {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let recipes = dimg.recipes().unwrap();
        let stages = recipes
            .iter()
            .map(|recipe| recipe.stages.iter().map(|stage| (stage.codec, stage.version)).collect::<Vec<_>>());
        stages.collect::<Vec<_>>()
    };
    for (number, file) in files.iter().enumerate() {
        apply(file, Some(&images[number]), &images[number + 1]);
        let stages = stages(file);
        assert_eq!(stages[0], [FILL, ELF, PROGRAM], "file {number}");
        assert_eq!(stages[1], [FILL, ELF, PROGRAM], "file {number}");
    }
    let two = merged(&slices(&files[..2]), 2, MEMORY).unwrap();
    apply(&two, Some(&images[0]), &images[2]);
    // The first file's fill waits for what may come before it; the second one's is part of a program, or left out.
    assert_eq!(stages(&two)[0], [FILL, ELF, PROGRAM, ELF, PROGRAM]);
    assert_eq!(stages(&two)[1], [FILL, ELF, PROGRAM, ELF, PROGRAM]);
    let apart = files[0].len() + files[1].len();
    assert!(two.len() < apart - 39_000, "{} merged, {apart} apart", two.len());
    let flat = assert_nesting_changes_nothing(&files, "filled");
    apply(&flat, Some(&images[0]), &images[4]);
    assert!(merged(&slices(&files), 1, MEMORY).unwrap() == flat);
    // Stored at first.
    let base = bytes(None, &images[0], &build);
    let base =
        assert_nesting_changes_nothing(&[vec![base], files[..2].to_vec()].concat(), "filled, with a base");
    apply(&base, None, &images[2]);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (_, files) = deltas(Codec::Auto);
    let one = merged(&slices(&files), 1, MEMORY).unwrap();
    for threads in [2, 5] {
        assert!(merged(&slices(&files), threads, MEMORY).unwrap() == one, "{threads} threads");
    }
}

#[test]
fn a_base_image_takes_deltas() {
    let (images, files) = deltas(Codec::Auto);
    let base = bytes(None, &images[0], &options(2, Codec::Auto));
    let merged = merged(&[&base, &files[0], &files[1], &files[2]], 2, MEMORY).unwrap();
    assert!(Dimg::open(Bytes::from(merged.clone())).unwrap().parent().is_none());
    apply(&merged, None, &images[3]);
    let direct = bytes(None, &images[3], &options(2, Codec::Auto));
    assert!(merged.len() * 100 <= direct.len() * 110, "{} merged, {} direct", merged.len(), direct.len());
}

#[test]
fn what_comes_back_costs_nothing() {
    let (there, back) = (version(1, false), version(2, false));
    let files = [
        bytes(Some(&there), &back, &options(2, Codec::Auto)),
        bytes(Some(&back), &there, &options(2, Codec::Auto)),
    ];
    let merged = merged(&slices(&files), 2, MEMORY).unwrap();
    assert!(merged.len() < 1000, "{}", merged.len());
    apply(&merged, Some(&there), &there);
}

/// In other layers, so that no diff ID tells.
#[test]
fn contents_that_come_back_are_made_the_same_way_in_every_nesting() {
    let image = |number: u8, versions: [usize; 2]| {
        let content = |file: u64, version| touched(&noise(file, 30_000), version, 500);
        let [one, other] = versions;
        let files = [("a", content(1, one)), ("b", content(2, other)), ("c", vec![number; 10])];
        Made::new(number, &files)
    };
    let images = [image(1, [1, 1]), image(2, [2, 2]), image(3, [3, 1]), image(4, [2, 3]), image(5, [1, 2])];
    for codec in [Codec::Bsdiff, Codec::Auto] {
        let file = |pair: &[Made]| bytes(Some(&pair[0]), &pair[1], &options(2, codec));
        let files: Vec<_> = images.windows(2).map(file).collect();
        let flat = assert_nesting_changes_nothing(&files, &format!("{codec:?}"));
        apply(&flat, Some(&images[0]), &images[4]);
    }
}

#[test]
fn little_memory_is_enough() {
    let (images, files) = deltas(Codec::Auto);
    let tight = merged(&slices(&files), 3, 1 << 20).unwrap();
    apply(&tight, Some(&images[0]), &images[4]);
}

#[test]
fn files_that_do_not_follow_are_refused() {
    let (images, files) = deltas(Codec::Auto);
    let base = bytes(None, &images[1], &options(2, Codec::Auto));
    let error = merged(&[&files[0], &files[2]], 1, MEMORY).unwrap_err();
    assert!(matches!(error, MergeError::File { number: 1, .. }), "{error}");
    assert_eq!(error.class(), Class::Corrupt);
    let error = merged(&[&files[0], &base], 1, MEMORY).unwrap_err();
    assert!(matches!(error, MergeError::Base { number: 1 }), "{error}");
    assert!(matches!(merged(&[], 1, MEMORY).unwrap_err(), MergeError::Nothing));
}

#[test]
fn stages_have_a_limit() {
    let file = |step: usize| vec![("file", touched(&noise(7, 5000), step, 100))];
    let images: Vec<_> = (0u8..18).map(|step| Made::new(step, &file(usize::from(step)))).collect();
    let files: Vec<_> =
        images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(1, Codec::Bsdiff))).collect();
    let most = merged(&slices(&files[..16]), 1, MEMORY).unwrap();
    apply(&most, Some(&images[0]), &images[16]);
    let error = merged(&slices(&files), 1, MEMORY).unwrap_err();
    assert!(matches!(error, MergeError::Stages { stages: 17, .. }), "{error}");
    assert_eq!(error.class(), Class::NoSpace);
}

#[test]
fn relocated_executables_get_further_stages() {
    let sample = |longer| Sample { functions: 4000, longer, ..Sample::default() }.build();
    let images: Vec<_> = [(1, usize::MAX), (2, 23), (3, 17)]
        .map(|(number, longer)| Made::new(number, &[("bin/a", sample(longer))]))
        .into();
    let files: Vec<_> =
        images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(2, Codec::Auto))).collect();
    let merged = merged(&slices(&files), 2, MEMORY).unwrap();
    let dimg = Dimg::open(Bytes::from(merged.clone())).unwrap();
    let stages: Vec<_> = dimg.recipes().unwrap()[0].stages.iter().map(|stage| stage.codec).collect();
    let relocated = stages.iter().filter(|codec| **codec == StageCodec::Elf).count();
    assert_eq!(relocated, 2, "{stages:?}");
    apply(&merged, Some(&images[0]), &images[2]);
    // Both programs are compressed as one.
    let programs =
        dimg.recipes().unwrap()[0].stages.iter().filter(|stage| stage.codec == StageCodec::Program);
    assert_eq!(programs.map(|stage| (stage.frame, stage.slot)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    let last = Made::new(4, &[("bin/a", sample(13))]);
    let next = bytes(Some(&images[2]), &last, &options(2, Codec::Auto));
    let later = self::merged(&[&files[1], &next], 2, MEMORY).unwrap();
    for files in [&[&files[0][..], &files[1], &next][..], &[&merged, &next], &[&files[0], &later]] {
        apply(&self::merged(files, 2, MEMORY).unwrap(), Some(&images[0]), &last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_is_an_error_or_harmless(at: prop::sample::Index, bit in 0u8..8, second: bool) {
        let file = |step: usize| vec![("file", touched(&noise(7, 5000), step, 100)), ("new", noise(step as u64, 50))];
        let images: Vec<_> = (0u8..3).map(|step| Made::new(step, &file(usize::from(step)))).collect();
        let mut files: Vec<_> =
            images.windows(2).map(|pair| bytes(Some(&pair[0]), &pair[1], &options(1, Codec::Auto))).collect();
        let file = &mut files[usize::from(second)];
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        let opened: Result<Vec<Dimg>, _> = files.iter().map(|file| Dimg::open(Bytes::from(file.clone()))).collect();
        if opened.is_ok() && let Ok(merged) = merged(&slices(&files), 1, MEMORY) {
            // What is damaged and not looked at is gone.
            apply(&merged, Some(&images[0]), &images[2]);
        }
    }
}
