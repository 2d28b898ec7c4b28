//! Deltas of small images made here, built, read back and applied.

use super::*;
use crate::content::Bytes;
use crate::engine::deflate::Encoder;
use crate::engine::elf::sample::Sample;
use crate::engine::elf::sample32::Sample32;
use crate::engine::member::wasm_sample::Sample as Module;
use crate::engine::member::{bitcode_sample, with_sections, zip};
use crate::format::{Dimg, FrameKind, StageCodec};
use crate::index::{Content, Entry, Kind, Shape, Tail};
use std::collections::{BTreeMap, HashMap};
use std::io;

struct Contents(HashMap<Digest, Vec<u8>>);

impl ContentSource for Contents {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        Ok(self.0.get(&content.digest).map(|bytes| Bytes::from(bytes.clone())))
    }
}

pub(crate) struct Made {
    layers: Vec<SideLayer>,
    contents: Contents,
    name: u8,
}

impl Made {
    /// An image of one layer with these files.
    pub(crate) fn new(name: u8, files: &[(&str, Vec<u8>)]) -> Self {
        let shape =
            Shape { kind: Kind::Regular, raw: false, sparse: false, pax_keys: vec![], style: [1].into() };
        let mut contents = HashMap::new();
        let entries = files.iter().map(|(path, bytes)| {
            let digest = Digest::of(bytes);
            contents.insert(digest, bytes.clone());
            Entry {
                shape: 0,
                path: path.as_bytes().into(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                uname: [].into(),
                gname: [].into(),
                mtime: i64::from(name),
                mtime_nsec: 0,
                dev_major: 0,
                dev_minor: 0,
                link: [].into(),
                pax: [].into(),
                content: Some(Content { digest, size: bytes.len() as u64 }),
                bare_size: 0,
                sparse: [].into(),
                raw: [].into(),
            }
        });
        let entries: Vec<_> = entries.collect();
        let tail = Tail { zero_bytes: 1024, rest: [].into() };
        let index = LayerIndex { shapes: vec![shape], entries, tail };
        let layer = SideLayer { diff_id: Digest([name; 32]), tar_bytes: 1024, index: Arc::new(index) };
        Self { layers: vec![layer], contents: Contents(contents), name }
    }

    fn side(&self) -> Side<'_> {
        let digest = Digest([self.name; 32]);
        Side { manifest: digest, config: digest, layers: &self.layers, contents: &self.contents }
    }

    pub(crate) fn indexes(&self) -> Vec<Arc<LayerIndex>> {
        self.layers.iter().map(|layer| Arc::clone(&layer.index)).collect()
    }
}

pub(crate) fn options(threads: usize, codec: Codec) -> BuildOptions {
    BuildOptions {
        name: String::new(),
        level: Level::Default,
        codec,
        threads: NonZeroUsize::new(threads).unwrap(),
        memory_bytes: 256 << 20,
        dir: std::env::temp_dir(),
    }
}

pub(crate) fn bytes(parent: Option<&Made>, target: &Made, options: &BuildOptions) -> Vec<u8> {
    let parent = parent.map(Made::side);
    let mut built = build(parent.as_ref(), &target.side(), options, &mut ()).unwrap();
    let mut out = Vec::new();
    built.write_to(&mut out).unwrap();
    assert_eq!(out.len() as u64, built.bytes());
    out
}

/// Reads the delta and makes every content of it; how many by which codec.
pub(crate) fn apply(file: &[u8], parent: Option<&Made>, target: &Made) -> BTreeMap<StageCodec, usize> {
    let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
    let below = parent.map(Made::indexes);
    let image = dimg.resolve(below.as_deref()).unwrap();
    assert_eq!(image.layers, target.indexes());
    let mut codecs = BTreeMap::new();
    for content in target.layers[0].index.contents() {
        let Some(recipe) = image.recipes.get(&content.digest) else {
            assert!(parent.unwrap().contents.0.contains_key(&content.digest));
            continue;
        };
        *codecs.entry(recipe.stages[0].codec).or_default() += 1;
        let base = recipe.base.map(|base| parent.unwrap().contents.0[&base.digest].clone());
        let mut out = Vec::new();
        dimg.make(recipe, base.as_deref(), &mut out, &tempfile::tempfile).unwrap();
        assert_eq!(out, target.contents.0[&content.digest]);
    }
    codecs
}

/// Bytes that no compressor likes.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..count).map(|_| next()).collect()
}

fn pair() -> (Made, Made) {
    let large = noise(1, 3 << 20);
    let mut changed = large.clone();
    for at in (0..changed.len()).step_by(4096) {
        changed[at] ^= 0x55;
    }
    changed.splice(1000..1000, noise(2, 5000));
    let small = |seed: u64| noise(seed, 3000);
    let mut old = vec![
        ("bin/large", large),
        ("bin/same", noise(3, 100)),
        ("lib/libx.so.1.2", noise(4, 20_000)),
        ("gone", noise(5, 100)),
        ("empty", vec![]),
    ];
    let mut new = vec![
        ("bin/large", changed),
        ("bin/moved", noise(3, 100)),
        ("lib/libx.so.1.3", [&noise(4, 20_000)[..], b"more"].concat()),
        ("new/huge", noise(6, 9 << 20)),
        ("new/text", b"hello ".repeat(10_000)),
        ("empty", vec![]),
    ];
    let names: Vec<String> = (0..300).map(|number| format!("share/{number}.dat")).collect();
    let mut altered: Vec<Vec<u8>> = (0..300).map(small).collect();
    old.extend(names.iter().map(String::as_str).zip(altered.clone()));
    altered.iter_mut().for_each(|bytes| bytes[1500] ^= 1);
    new.extend(names.iter().map(String::as_str).zip(altered));
    (Made::new(1, &old), Made::new(2, &new))
}

#[test]
fn a_delta_makes_every_new_content_and_names_no_other() {
    let (old, new) = pair();
    let file = bytes(Some(&old), &new, &options(2, Codec::Auto));
    let codecs = apply(&file, Some(&old), &new);
    assert_eq!(codecs[&StageCodec::Program], 302);
    assert_eq!(codecs[&StageCodec::Stored], 2);
    let expected = (9 << 20) + 5000 + 300 * 32;
    assert!((expected..expected + 20_000).contains(&file.len()), "{}", file.len());
}

#[test]
fn a_base_image_stores_everything() {
    let (old, _) = pair();
    let file = bytes(None, &old, &options(2, Codec::Auto));
    assert_eq!(apply(&file, None, &old).into_keys().collect::<Vec<_>>(), [StageCodec::Stored]);
}

#[test]
fn the_codec_asked_for_is_taken() {
    let (old, new) = pair();
    let stored = bytes(Some(&old), &new, &options(1, Codec::Store));
    assert_eq!(apply(&stored, Some(&old), &new).into_keys().collect::<Vec<_>>(), [StageCodec::Stored]);
    let foreign = bytes(Some(&old), &new, &options(2, Codec::Bsdiff));
    assert!(apply(&foreign, Some(&old), &new)[&StageCodec::Bsdiff] >= 301);
}

/// Words of a vocabulary in an order of the seed's.
fn prose(seed: u64, words: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let word = |number: u64| format!("{:08x} ", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    (0..words).flat_map(|_| word(next() % 700).into_bytes()).collect()
}

#[test]
fn a_new_content_is_compressed_behind_one_that_has_its_words() {
    let (vocabulary, other) = (prose(1, 2000), vec![b'x'; 9000]);
    let files = |more: &[(&'static str, Vec<u8>)]| {
        let both = [("doc/words.txt", vocabulary.clone()), ("doc/other.txt", other.clone())];
        [&both[..], more].concat()
    };
    let (old, new) = (Made::new(1, &files(&[])), Made::new(2, &files(&[("new/thing.txt", prose(2, 900))])));
    let file = bytes(Some(&old), &new, &options(1, Codec::Auto));
    assert_eq!(apply(&file, Some(&old), &new), BTreeMap::from([(StageCodec::Reference, 1)]));
    assert_eq!(file, bytes(Some(&old), &new, &options(4, Codec::Auto)));
    let stored = bytes(Some(&old), &new, &options(1, Codec::Plain));
    assert!(file.len() < stored.len() * 3 / 4, "{} {}", file.len(), stored.len());
    // A later delta that changes it goes on with it when they are merged.
    let mut changed = prose(2, 900);
    changed.splice(100..120, *b"changed");
    let last = Made::new(3, &files(&[("new/thing.txt", changed)]));
    let next = bytes(Some(&new), &last, &options(1, Codec::Auto));
    let merged = crate::merge::tests::merged(&[&file, &next], 2, 64 << 20).unwrap();
    apply(&merged, Some(&old), &last);
}

/// The text with words of others put in at some places.
fn edited(text: &[u8], others: &[u8]) -> Vec<u8> {
    let (parts, words) = (text.chunks(450), others.chunks(54));
    parts.zip(words).flat_map(|(part, words)| [part, words].concat()).collect()
}

#[test]
fn an_edited_text_is_compressed_behind_what_it_was() {
    let (one, two) = (prose(1, 9000), prose(3, 9000));
    // Pairs of words from all over the text, too short to be copied.
    let words: Vec<u8> = one.chunks(18).step_by(7).flatten().copied().collect();
    let old = Made::new(1, &[("one.txt", one.clone()), ("two.txt", two.clone())]);
    let new = Made::new(2, &[("one.txt", edited(&one, &words)), ("two.txt", two.clone())]);
    let file = bytes(Some(&old), &new, &options(1, Codec::Auto));
    assert_eq!(apply(&file, Some(&old), &new), BTreeMap::from([(StageCodec::Reference, 1)]));
    assert_eq!(file, bytes(Some(&old), &new, &options(4, Codec::Auto)));
    let program = bytes(Some(&old), &new, &options(1, Codec::Plain));
    assert!(file.len() < program.len(), "{} {}", file.len(), program.len());
    // Its next delta goes on with it when they are merged.
    let last = Made::new(3, &[("one.txt", edited(&edited(&one, &words), &two)), ("two.txt", two.clone())]);
    let next = bytes(Some(&new), &last, &options(1, Codec::Auto));
    let merged = crate::merge::tests::merged(&[&file, &next], 2, 64 << 20).unwrap();
    apply(&merged, Some(&old), &last);
    // What two files have in common stands once in a group of programs.
    let both = [("one.txt", edited(&one, &words)), ("two.txt", edited(&two, &words))];
    let new = Made::new(2, &both);
    let file = bytes(Some(&old), &new, &options(1, Codec::Auto));
    assert_eq!(apply(&file, Some(&old), &new), BTreeMap::from([(StageCodec::Program, 2)]));
}

#[test]
fn what_its_path_had_before_is_a_poor_base_where_another_file_is_alike() {
    let files = (0..9).map(|seed| noise(seed, 200_000 + 9000 * usize::try_from(seed).unwrap()));
    let [past, alike, others @ ..] = &files.collect::<Vec<_>>()[..] else { unreachable!() };
    let names: Vec<String> = (0..others.len()).map(|number| format!("other{number}/file")).collect();
    let others = || names.iter().map(String::as_str).zip(others.iter().cloned());
    let old = [("lib/main.js", past.clone()), ("lib/server.js", alike.clone())];
    let old = Made::new(1, &old.into_iter().chain(others()).collect::<Vec<_>>());
    let mut edited = [&alike[..90_000], b"between", &alike[90_000..]].concat();
    edited[150_000] ^= 1;
    let new = [("lib/main.js", edited)];
    let new = Made::new(2, &new.into_iter().chain(others()).collect::<Vec<_>>());
    let file = bytes(Some(&old), &new, &options(1, Codec::Auto));
    assert_eq!(apply(&file, Some(&old), &new), BTreeMap::from([(StageCodec::Program, 1)]));
    assert!(file.len() < 2000, "{}", file.len());
    assert_eq!(file, bytes(Some(&old), &new, &options(4, Codec::Auto)));
}

/// Executables, large and small, as they were and as they are after a change.
fn executables() -> (Made, Made) {
    let sample = |arm, functions| Sample { arm, functions, ..Sample::default() };
    let files =
        [("bin/x86", false, 4000), ("bin/arm", true, 300), ("bin/small", false, 200), ("lib/y", false, 260)];
    let old = files.map(|(path, arm, functions)| (path, sample(arm, functions).build()));
    let new =
        files.map(|(path, arm, functions)| (path, Sample { longer: 23, ..sample(arm, functions) }.build()));
    (Made::new(1, &old), Made::new(2, &new))
}

#[test]
fn executables_are_relocated() {
    let (old, new) = executables();
    let file = bytes(Some(&old), &new, &options(2, Codec::Auto));
    assert_eq!(apply(&file, Some(&old), &new), BTreeMap::from([(StageCodec::Elf, 4)]));
    let plain = bytes(Some(&old), &new, &options(2, Codec::Plain));
    assert_eq!(apply(&plain, Some(&old), &new), BTreeMap::from([(StageCodec::Program, 4)]));
    assert!(file.len() * 2 < plain.len(), "{} bytes, {} plain", file.len(), plain.len());
    for threads in [1, 5] {
        assert!(bytes(Some(&old), &new, &options(threads, Codec::Auto)) == file, "{threads} threads");
    }
}

/// Debug sections are opened, and what is relocated is the opened program.
#[test]
fn programs_with_deflated_sections_are_opened_and_relocated() {
    let sample = Sample { functions: 1000, ..Sample::default() };
    let lines = |seed: usize| -> Vec<u8> {
        (0..20_000)
            .flat_map(|at| format!("{} in {}\n", at % 77, at * 31 % 8191 + at / seed).into_bytes())
            .collect()
    };
    let made = |name, sample: &Sample, lines: &[u8]| {
        let program = with_sections(sample.build(), &[(Encoder::go(), lines)]);
        Made::new(name, &[("bin/program", program)])
    };
    let old = made(1, &sample, &lines(19_000));
    let new = made(2, &Sample { longer: 23, ..sample }, &lines(19_001));
    let file = bytes(Some(&old), &new, &options(2, Codec::Auto));
    apply(&file, Some(&old), &new);
    let found = Dimg::open(Bytes::from(file.clone())).unwrap();
    let codecs: Vec<_> = found.recipes().unwrap()[0].stages.iter().map(|stage| stage.codec).collect();
    assert_eq!(codecs, [StageCodec::Unpack, StageCodec::Elf, StageCodec::Program, StageCodec::Pack]);
    let plain = bytes(Some(&old), &new, &options(2, Codec::Plain));
    assert!(file.len() * 3 < plain.len() * 2, "{} bytes, {} plain", file.len(), plain.len());
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (old, new) = pair();
    let one = bytes(Some(&old), &new, &options(1, Codec::Auto));
    for threads in [2, 5] {
        assert!(bytes(Some(&old), &new, &options(threads, Codec::Auto)) == one, "{threads} threads");
    }
}

#[test]
fn little_memory_is_enough() {
    let (old, new) = pair();
    let tight = BuildOptions { memory_bytes: 4 << 20, ..options(3, Codec::Auto) };
    apply(&bytes(Some(&old), &new, &tight), Some(&old), &new);
}

#[test]
fn a_content_that_is_missing_is_told() {
    let (old, mut new) = pair();
    new.contents.0.remove(&Digest::of(&b"hello ".repeat(10_000)));
    let error =
        build(Some(&old.side()), &new.side(), &options(2, Codec::Auto), &mut ()).expect_err("it is missing");
    assert!(error.to_string().contains("is not there"), "{error}");
}

/// A `.gz` of `input`.
fn gz(input: &[u8], encoder: Encoder) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    encoder.encode(input, &mut out).unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(input);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&u32::try_from(input.len()).unwrap().to_le_bytes());
    out
}

/// Lines that differ by `seed`.
fn lines(seed: usize, count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|line| format!("* {} of {line} fixed\n", (line * line + seed * 77) % 9973).into_bytes())
        .collect()
}

/// Two images of compressed files: changed, new, of other makers, and one that no encoder makes.
fn compressed() -> (Made, Made) {
    let (gnu, zlib) = (Encoder::gnu(9).unwrap(), Encoder::zlib(6, 8).unwrap());
    let changed = |seed: usize| [&lines(seed, 300)[..], b"and one more\n", &lines(seed + 1, 300)].concat();
    let before = |seed: usize| [lines(seed, 300), lines(seed + 1, 300)].concat();
    let names: Vec<String> = (0..60).map(|number| format!("doc/p{number:02}x/changelog.gz")).collect();
    let maker = |number: usize| if number.is_multiple_of(5) { zlib } else { gnu };
    let mut unknown = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0, 5, 0, 0xfa, 0xff];
    unknown.extend_from_slice(b"hello\x01\0\0\xff\xff\x86\xa6\x10\x36\x05\0\0\0");
    let mut old: Vec<_> =
        names.iter().enumerate().map(|(at, name)| (&**name, gz(&before(at), maker(at)))).collect();
    old.push(("doc/plain", before(90)));
    old.push(("doc/unknown.gz", unknown.clone()));
    let mut new: Vec<_> =
        names.iter().enumerate().map(|(at, name)| (&**name, gz(&changed(at), maker(at)))).collect();
    new.push(("doc/plain", gz(&changed(90), gnu)));
    new.push(("doc/new.gz", gz(&lines(500, 900), gnu)));
    unknown.extend_from_slice(b"and a rest");
    new.push(("doc/unknown.gz", unknown));
    (Made::new(1, &old), Made::new(2, &new))
}

#[test]
fn compressed_contents_are_patched_opened() {
    use StageCodec::{Pack, Program, Stored, Unpack};
    let (old, new) = compressed();
    let file = bytes(Some(&old), &new, &options(2, Codec::Auto));
    apply(&file, Some(&old), &new);
    let dimg = Dimg::open(Bytes::from(file.clone())).unwrap();
    let mut stages = BTreeMap::<Vec<_>, usize>::new();
    for recipe in dimg.recipes().unwrap() {
        *stages.entry(recipe.stages.iter().map(|stage| stage.codec).collect()).or_default() += 1;
    }
    assert_eq!(stages[&vec![Unpack, Program, Pack]], 60, "{stages:?}");
    assert_eq!((stages[&vec![Program, Pack]], stages[&vec![Stored, Pack]]), (1, 1), "{stages:?}");
    // The digests alone are 32 bytes each.
    let plain = bytes(Some(&old), &new, &options(2, Codec::Plain));
    let expected = 63 * 32 + 12_000;
    assert!(file.len() < expected && plain.len() > 4 * expected, "{} {}", file.len(), plain.len());
    let parameters = dimg.frames().unwrap().iter().find(|frame| frame.kind == FrameKind::Parameters).unwrap();
    assert!(parameters.bytes < 80, "{}", parameters.bytes);
    for threads in [1, 3] {
        assert!(bytes(Some(&old), &new, &options(threads, Codec::Auto)) == file, "{threads} threads");
    }
    let base = bytes(None, &old, &options(2, Codec::Auto));
    apply(&base, None, &old);
}

#[test]
fn recompressed_deltas_merge_into_one_patch() {
    use StageCodec::{Pack, Program, Unpack};
    let (old, new) = compressed();
    let newest: Vec<_> = (0..60)
        .map(|at| {
            (
                format!("doc/p{at:02}x/changelog.gz"),
                gz(&[lines(at, 290), lines(at + 1, 299)].concat(), Encoder::gnu(6).unwrap()),
            )
        })
        .collect();
    let newest: Vec<_> = newest.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    let newest = Made::new(3, &newest);
    let files = [
        bytes(Some(&old), &new, &options(2, Codec::Auto)),
        bytes(Some(&new), &newest, &options(2, Codec::Auto)),
    ];
    let file = merged(files);
    apply(&file, Some(&old), &newest);
    let dimg = Dimg::open(Bytes::from(file)).unwrap();
    for recipe in dimg.recipes().unwrap() {
        let stages: Vec<_> = recipe.stages.iter().map(|stage| stage.codec).collect();
        assert_eq!(stages, [Unpack, Program, Pack]);
    }
}

/// Archives of deflated archives: of one maker; of another on the outside; and one whose members nobody is known to have deflated.
fn archives(version: usize) -> Made {
    let (zlib, gnu) = (Encoder::zlib(6, 8).unwrap(), Encoder::gnu(6).unwrap());
    let jar = |number: usize, version: usize, encoder| {
        let texts = [lines(number, 200), [lines(number, 300), lines(version, 5)].concat()];
        zip(&[("META-INF/MANIFEST.MF", texts[0].clone()), ("a.class", texts[1].clone())], encoder, false)
    };
    let war = |encoder| {
        let jars =
            [("a.jar", jar(1, version, zlib)), ("b.jar", jar(2, 0, zlib)), ("c.jar", jar(3, version, gnu))];
        zip(&jars, encoder, true)
    };
    let plain = zip(&[("one", lines(version, 900)), ("two", lines(4, 90))], zlib, false);
    let tar = [&[0; 512][..], &war(zlib), &lines(version, 100)].concat();
    Made::new(
        u8::try_from(version).unwrap(),
        &[
            ("app.war", war(zlib)),
            ("other.war", war(gnu)),
            ("plain.zip", plain),
            ("all.tar.gz", gz(&tar, gnu)),
        ],
    )
}

#[test]
fn archives_in_archives_are_patched_opened_and_merge() {
    use StageCodec::{Pack, Program, Unpack};
    let made = [archives(1), archives(2), archives(3)];
    let delta = |old: &Made, new: &Made| bytes(Some(old), new, &options(2, Codec::Auto));
    let files = [delta(&made[0], &made[1]), delta(&made[1], &made[2])];
    let stages = |file: &[u8]| {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let stages = |recipe: &crate::format::RecipeRow| {
            recipe.stages.iter().map(|stage| (stage.codec, stage.version)).collect::<Vec<_>>()
        };
        dimg.recipes().unwrap().iter().map(stages).collect::<Vec<_>>()
    };
    let (once, again) = (
        [(Unpack, 1), (Program, 1), (Pack, 1)],
        [(Unpack, 1), (Unpack, 5), (Program, 1), (Pack, 5), (Pack, 1)],
    );
    let thrice = [&[(Unpack, 1), (Unpack, 5)][..], &again[1..4], &[(Pack, 5), (Pack, 1)]].concat();
    let expected = vec![again.to_vec(), again.to_vec(), once.to_vec(), thrice];
    for (at, file) in files.iter().enumerate() {
        apply(file, Some(&made[at]), &made[at + 1]);
        assert_eq!(stages(file), expected);
    }
    let plain = bytes(Some(&made[0]), &made[1], &options(2, Codec::Plain));
    assert!(files[0].len() * 4 < plain.len(), "{} {}", files[0].len(), plain.len());
    assert!(bytes(Some(&made[0]), &made[1], &options(1, Codec::Auto)) == files[0]);
    let base = bytes(None, &made[0], &options(2, Codec::Auto));
    apply(&base, None, &made[0]);
    let file = merged(files);
    apply(&file, Some(&made[0]), &made[2]);
    assert_eq!(stages(&file), expected);
}

/// Archives of very many members of which few change, or none, one of them deflated in another, one behind a script; large enough not to be
/// opened as a whole at the fast level.
fn large_archives(version: usize) -> Made {
    let zlib = Encoder::zlib(6, 8).unwrap();
    let jar = |seed: usize, version: usize| {
        let changes = |number: usize| if number % 25 == 3 { version } else { 0 };
        let text = |number: usize| {
            [lines(seed + number, 200), lines(changes(number), 20), lines(number, 200)].concat()
        };
        let names: Vec<_> = (0..100).map(|number| format!("org/example/{number}.class")).collect();
        let members: Vec<_> = (0..100).map(|number| (&*names[number], text(number))).collect();
        zip(&members, zlib, seed.is_multiple_of(2))
    };
    let names: Vec<_> = (0..6).map(|seed| format!("WEB-INF/lib/{seed}.jar")).collect();
    let war: Vec<_> =
        (0..6).map(|at| (&*names[at], jar(10 + at, if at == 2 { version } else { 0 }))).collect();
    let war = zip(&war, zlib, true);
    let script = [b"#!/bin/sh\n", &jar(2, version)[..]].concat();
    // Only built again.
    let mut again = jar(5, 0);
    let times: Vec<_> = (0..again.len()).filter(|&at| again[at..].starts_with(&[8, 0, 1, 2, 3, 4])).collect();
    times.into_iter().for_each(|at| again[at + 2] = u8::try_from(version).unwrap());
    // As blocks of a file system: nobody tells where they are.
    let block = |number: usize| {
        let text =
            [lines(number, 200), lines(if number % 5 == 1 { version } else { 0 }, 20), lines(number, 200)];
        let stream = gz(&text.concat(), zlib);
        [&stream[..], &lines(number, 2)].concat()
    };
    let blocks = (0..20).flat_map(block).collect::<Vec<_>>();
    let blocks = [b"hsqs", &lines(version, 40)[..], &blocks].concat();
    Made::new(
        u8::try_from(version).unwrap(),
        &[
            ("one.jar", jar(1, version)),
            ("app.war", war),
            ("run.pyz", script),
            ("other.jar", jar(3, version)),
            ("again.jar", again),
            ("app.squashfs", blocks),
        ],
    )
}

#[test]
fn of_an_archive_only_what_changed_is_opened() {
    use StageCodec::{Pack, Program, UnpackSome};
    let made = [large_archives(1), large_archives(2), large_archives(3)];
    let (once, twice) = (
        vec![(UnpackSome, 1), (Program, 1), (Pack, 6)],
        vec![(UnpackSome, 1), (UnpackSome, 1), (Program, 1), (Pack, 6), (Pack, 6)],
    );
    let stages = |file: &[u8]| {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let stages = |recipe: &crate::format::RecipeRow| {
            recipe.stages.iter().map(|stage| (stage.codec, stage.version)).collect::<Vec<_>>()
        };
        dimg.recipes().unwrap().iter().map(stages).collect::<Vec<_>>()
    };
    for level in [Level::Fast, Level::Default] {
        let delta = |old: &Made, new: &Made, threads| {
            bytes(Some(old), new, &BuildOptions { level, ..options(threads, Codec::Auto) })
        };
        let files = [delta(&made[0], &made[1], 2), delta(&made[1], &made[2], 2)];
        for (at, file) in files.iter().enumerate() {
            apply(file, Some(&made[at]), &made[at + 1]);
            let as_is = vec![(Program, 1)];
            let blocks = if level == Level::Fast { &as_is } else { &once };
            assert_eq!(stages(file), [&once, &twice, &once, &once, &as_is, blocks].map(Vec::clone));
            assert!(file.len() < 8_000, "{} bytes", file.len());
            assert!(delta(&made[at], &made[at + 1], 1) == *file);
        }
        // Both patches stay: what is opened of the one in the middle depends on its neighbours.
        let file = merged(files);
        apply(&file, Some(&made[0]), &made[2]);
        assert_eq!(stages(&file)[0], [&once[..], &once[..]].concat());
    }
}

/// Two deltas as one.
fn merged(files: [Vec<u8>; 2]) -> Vec<u8> {
    let dimgs = files.map(|file| Dimg::open(Bytes::from(file)).unwrap());
    let merging = crate::merge::MergeOptions {
        level: Level::Default,
        threads: NonZeroUsize::new(2).unwrap(),
        memory_bytes: 256 << 20,
        dir: std::env::temp_dir(),
    };
    let mut merged = crate::merge::merge(&[&dimgs[0], &dimgs[1]], &merging, &mut ()).unwrap();
    let mut file = Vec::new();
    merged.write_to(&mut file).unwrap();
    file
}

/// Modules and indexes of bitcode, of the version of a program, beside a text that GNU gzip deflated.
fn bitcode(version: u64) -> Made {
    let module =
        |number: u64| (format!("bitcode/{number}.bc"), bitcode_sample::module(20 + number, version % 3));
    let index =
        |number: u64| (format!("bitcode/{number}.index.bc"), bitcode_sample::index(5 + number, 20, version));
    let forms = (0..30).map(module).chain((0..3).map(index));
    let mut files: Vec<_> = forms.map(|(name, form)| (name, form.content())).collect();
    let text = lines(usize::try_from(version).unwrap(), 300);
    files.push(("changelog.gz".to_owned(), gz(&text, Encoder::gnu(9).unwrap())));
    // Cut short it does not open.
    files.push(("cut.bc".to_owned(), bitcode_sample::module(40, version).content()[..5_000].to_vec()));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    Made::new(u8::try_from(version).unwrap(), &files)
}

#[test]
fn bitcode_is_patched_opened_and_merges() {
    use StageCodec::{Pack, Unpack};
    let made = [bitcode(1), bitcode(2), bitcode(3)];
    let delta = |old: &Made, new: &Made| bytes(Some(old), new, &options(2, Codec::Auto));
    let versions = |file: &[u8]| {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let rows =
            dimg.recipes().unwrap().iter().flat_map(|recipe| recipe.stages.clone()).collect::<Vec<_>>();
        let of = |version: u32| {
            move |row: &&crate::format::StageRow| matches!(row.codec, Unpack | Pack) && row.version == version
        };
        (rows.iter().filter(of(1)).count(), rows.iter().filter(of(2)).count(), rows.len())
    };
    let files = [delta(&made[0], &made[1]), delta(&made[1], &made[2])];
    for (at, file) in files.iter().enumerate() {
        apply(file, Some(&made[at]), &made[at + 1]);
        // The gzip file, and the others but for the one that does not open, each with a program.
        assert_eq!(versions(file), (2, 66, 35 + 68));
    }
    let plain = bytes(Some(&made[0]), &made[1], &options(2, Codec::Plain));
    assert!(files[0].len() * 2 < plain.len(), "{} {}", files[0].len(), plain.len());
    assert!(bytes(Some(&made[0]), &made[1], &options(1, Codec::Auto)) == files[0]);
    let base = bytes(None, &made[0], &options(2, Codec::Auto));
    apply(&base, None, &made[0]);
    let file = merged(files);
    apply(&file, Some(&made[0]), &made[2]);
    // No content is closed and opened again on the way.
    assert_eq!(versions(&file), (2, 66, 35 + 68));
}

/// Modules of WebAssembly, of the version of a program, as a linker leaves them with and without room in their numbers.
fn modules(version: u32) -> Made {
    let module = |number: u32| {
        let sample = Module { functions: 400 + 50 * number, more: 3 * version, padded: number == 2 };
        (format!("lib/{number}.wasm"), sample.build())
    };
    let mut files: Vec<_> = (0..3).map(module).collect();
    // One section's length does not fit.
    files.push(("cut.wasm".to_owned(), module(9).1[..9_000].to_vec()));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    Made::new(u8::try_from(version).unwrap(), &files)
}

#[test]
fn modules_are_patched_opened_with_what_shifts_and_merge() {
    const PLAIN: (StageCodec, u32) = (StageCodec::Program, 1);
    let whole = [(StageCodec::Unpack, 4), (StageCodec::Elf, 4), PLAIN, (StageCodec::Pack, 4)];
    let made = [modules(1), modules(2), modules(3)];
    let delta = |old: &Made, new: &Made| bytes(Some(old), new, &options(2, Codec::Auto));
    let stages = |file: &[u8]| -> Vec<Vec<(StageCodec, u32)>> {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let recipes = dimg.recipes().unwrap();
        let of = |recipe: &crate::format::RecipeRow| {
            recipe.stages.iter().map(|stage| (stage.codec, stage.version)).collect()
        };
        recipes.iter().map(of).collect()
    };
    let files = [delta(&made[0], &made[1]), delta(&made[1], &made[2])];
    for (at, file) in files.iter().enumerate() {
        apply(file, Some(&made[at]), &made[at + 1]);
        let stages = stages(file);
        assert_eq!(stages.iter().filter(|stages| stages[..] == whole).count(), 3, "{stages:?}");
        assert!(stages.contains(&vec![PLAIN]), "{stages:?}");
    }
    let plain = bytes(Some(&made[0]), &made[1], &options(2, Codec::Plain));
    assert!(files[0].len() * 2 < plain.len(), "{} {}", files[0].len(), plain.len());
    assert!(bytes(Some(&made[0]), &made[1], &options(1, Codec::Auto)) == files[0]);
    let file = merged(files);
    apply(&file, Some(&made[0]), &made[2]);
    // No module is closed and opened again on the way.
    let closed =
        |stages: &&Vec<(StageCodec, u32)>| stages[..stages.len() - 1].contains(&(StageCodec::Pack, 4));
    let stages = stages(&file);
    assert_eq!(stages.iter().filter(|stages| stages[0] == whole[0]).count(), 3, "{stages:?}");
    assert_eq!(stages.iter().filter(closed).count(), 0, "{stages:?}");
}

/// Executables for 32-bit ARM, and one for aarch64.
fn executables_of_32_bits(version: u8) -> Made {
    let longer = [usize::MAX, 37, 23][usize::from(version) - 1];
    let sample = Sample32 { longer, ..Sample32::default() };
    let mut files =
        vec![("aarch64", Sample { arm: true, longer, functions: 900, ..Sample::default() }.build())];
    for (name, fixed, functions) in [("fixed", true, 700), ("library", false, 900)] {
        files.push((name, Sample32 { fixed, functions, ..sample }.build()));
    }
    Made::new(version, &files)
}

#[test]
fn executables_of_32_bits_are_relocated_and_merge() {
    let made = [1, 2, 3].map(executables_of_32_bits);
    let delta = |old: &Made, new: &Made| bytes(Some(old), new, &options(2, Codec::Auto));
    let versions = |file: &[u8]| {
        let dimg = Dimg::open(Bytes::from(file.to_vec())).unwrap();
        let stages = |recipe: &crate::format::RecipeRow| recipe.stages.clone();
        let stages = dimg.recipes().unwrap().iter().flat_map(stages).collect::<Vec<_>>();
        let relocations = stages.iter().filter(|stage| stage.codec == StageCodec::Elf);
        let mut versions: Vec<_> = relocations.map(|stage| stage.version).collect();
        versions.sort_unstable();
        versions
    };
    let files = [delta(&made[0], &made[1]), delta(&made[1], &made[2])];
    for (at, file) in files.iter().enumerate() {
        apply(file, Some(&made[at]), &made[at + 1]);
        assert_eq!(versions(file), [3, 5, 5]);
    }
    let plain = bytes(Some(&made[0]), &made[1], &options(2, Codec::Plain));
    assert!(files[0].len() * 2 < plain.len(), "{} {}", files[0].len(), plain.len());
    assert!(bytes(Some(&made[0]), &made[1], &options(1, Codec::Auto)) == files[0]);
    let file = merged(files);
    apply(&file, Some(&made[0]), &made[2]);
    assert_eq!(versions(&file), [3, 3, 5, 5, 5, 5]);
}
