use super::*;
use crate::engine::program::apply;
use proptest::prelude::*;

fn check(old: &[u8], new: &[u8], options: &MatchOptions) -> Program {
    sound(diff(old, new, options), old, new)
}

fn sound(program: Program, old: &[u8], new: &[u8]) -> Program {
    assert_eq!(program.out_bytes, new.len() as u64);
    let mut out = Vec::new();
    let mut readers = program.readers();
    apply(&mut readers, program.ops, old, program.out_bytes, &mut out).unwrap();
    assert!(out == new, "the program makes something else");
    assert!(readers.iter().all(|reader| reader.is_empty()), "bytes left over");
    program
}

/// Deterministic bytes that do not repeat.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24).to_le_bytes()[0]
        })
        .collect()
}

fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let base = (0usize..5000, 1u64..5, 1usize..200).prop_map(|(length, seed, repeat)| {
        let unit = noise(repeat, seed);
        if seed < 3 { noise(length, seed) } else { unit.iter().copied().cycle().take(length).collect() }
    });
    let edit = (0u8..4, any::<prop::sample::Index>(), 0usize..300, any::<u8>());
    (base, prop::collection::vec(edit, 0..8)).prop_map(|(old, edits)| {
        let mut new = old.clone();
        for (kind, at, length, value) in edits {
            let at = at.index(new.len() + 1);
            let end = (at + length).min(new.len());
            match kind {
                0 => drop(new.drain(at..end)),
                1 => drop(new.splice(at..at, noise(length, u64::from(value)))),
                2 => new[at..end].iter_mut().step_by(7).for_each(|byte| *byte = byte.wrapping_add(value)),
                _ => new.rotate_left(at),
            }
        }
        (old, new)
    })
}

proptest! {
    #[test]
    fn round_trip((old, new) in edited(), level in prop::sample::select(vec![Level::Fast, Level::Default, Level::Best])) {
        check(&old, &new, &MatchOptions { level, ..MatchOptions::default() });
        check(&old, &new, &MatchOptions { level, index_bytes: 1, threads: 2 });
    }

    #[test]
    fn unrelated(old in prop::collection::vec(any::<u8>(), 0..200), new in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&old, &new, &MatchOptions::default());
    }
}

#[test]
fn identical_is_one_operation() {
    let old = noise(100_000, 3);
    let program = check(&old, &old, &MatchOptions::default());
    assert_eq!(program.ops, 1);
    assert!(program.raw_bytes() < 16);
}

#[test]
fn finds_what_moved() {
    let old = noise(300_000, 9);
    let new = [&old[200_000..], &old[..200_000]].concat();
    let program = check(&old, &new, &MatchOptions::default());
    assert!(program.ops <= 3 && program.raw_bytes() < 40, "{program:?}");
}

#[test]
fn threads_do_not_matter_and_segments_join() {
    let old = noise(SEGMENT_BYTES * 2 + 12345, 5);
    let mut new = old.clone();
    new.splice(1000..1000, noise(333, 6));
    for at in (0..new.len()).step_by(70_001) {
        new[at] ^= 0x55;
    }
    let one = check(&old, &new, &MatchOptions::default());
    for threads in [2, 3, 8] {
        assert_eq!(one, diff(&old, &new, &MatchOptions { threads, ..MatchOptions::default() }));
    }
    assert!(one.ops <= 3, "{} operations", one.ops);
}

#[test]
fn repetitive_contents_take_no_time() {
    let zeros = vec![0u8; 8 << 20];
    let mut tables: Vec<u8> = [1u8, 2, 3, 4, 5, 6, 7].into_iter().cycle().take(4 << 20).collect();
    tables.extend(noise(1000, 1));
    let start = std::time::Instant::now();
    for (old, new) in [(&zeros, &tables), (&tables, &zeros), (&tables, &tables), (&zeros, &zeros)] {
        check(old, new, &MatchOptions::default());
    }
    let mut shifted = tables[3..].to_vec();
    shifted.extend_from_slice(&zeros);
    check(&tables, &shifted, &MatchOptions::default());
    assert!(start.elapsed().as_secs() < 60);
}

proptest! {
    #[test]
    fn hints_change_nothing_that_is_made(
        (old, new) in edited(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..900), 0..6),
        good in any::<bool>(),
    ) {
        let mut hints: Vec<Copied> = Vec::new();
        if good && !old.is_empty() && !new.is_empty() {
            hints.push(Copied { old: 0, new: 0, bytes: old.len().min(new.len()) / 2 });
        }
        let mut at = hints.last().map_or(0, |hint| hint.bytes);
        for (from, to, bytes) in places {
            let (from, to) = (from.index(old.len() + 1), at + to.index(new.len() - at + 1));
            let bytes = bytes.min(old.len() - from).min(new.len() - to);
            if bytes > 0 {
                hints.push(Copied { old: from, new: to, bytes });
                at = to + bytes;
            }
        }
        hints.retain(|hint| hint.bytes > 0);
        let options = MatchOptions { level: Level::Fast, ..MatchOptions::default() };
        let program = diff_hinted(&old, &new, &hints, &options);
        let mut out = Vec::new();
        apply(&mut program.readers(), program.ops, &old, program.out_bytes, &mut out).unwrap();
        prop_assert!(out == new);
        let more = MatchOptions { threads: 3, ..options };
        prop_assert!(program == diff_hinted(&old, &new, &hints, &more));
    }
}

#[test]
fn hints_are_enough_where_nothing_else_is_the_same() {
    let old = noise(200_000, 3);
    let new = [&old[150_000..], &old[..100_000]].concat();
    let hints =
        [Copied { old: 150_000, new: 0, bytes: 50_000 }, Copied { old: 0, new: 50_000, bytes: 100_000 }];
    let program =
        diff_hinted(&old, &new, &hints, &MatchOptions { level: Level::Fast, ..MatchOptions::default() });
    assert_eq!(program.ops, 2);
    assert!(program.raw_bytes() < 40);
}

#[test]
fn finds_what_hints_tell_and_what_they_do_not() {
    let (first, second, third) = (noise(1_200_000, 1), noise(400_000, 2), noise(8_000, 3));
    let old = [&first[..], &second].concat();
    // The second part goes before the first, of which a piece comes again; one hint knows the first, the other is wrong.
    let new = [&third[..], &second, &first, &first[70_000..70_100]].concat();
    let at = third.len() + second.len();
    let wrong = Copied { old: 5_000, new: 0, bytes: 3_000 };
    let hints = [wrong, Copied { old: 0, new: at, bytes: first.len() }];
    for threads in [1, 3] {
        let options = MatchOptions { threads, ..MatchOptions::default() };
        let careful = sound(diff_careful(&old, &new, &hints, &options), &old, &new);
        assert!(careful.raw_bytes() < third.len() as u64 + 100, "{}", careful.raw_bytes());
        let few = sound(diff_hinted(&old, &new, &hints, &options), &old, &new);
        assert!(few.raw_bytes() < third.len() as u64 + 200, "{}", few.raw_bytes());
    }
}
