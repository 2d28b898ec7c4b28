//! Two files merged: each a dimg or cdimg as it is, or the sections of a dimg (`parts::dimg_of_sections`).
//!
//! Layout: 3 bytes of length of the first file, the first, the second; with an empty one the delta that the seeds have takes its place, so
//! that the other one is merged with something sound. What comes out is read back as every file is.

#![no_main]

use d4c_fuzz::images::Image;
use d4c_fuzz::parts::{Parts, dimg_of_sections};
use dimg::build::Codec;
use dimg::engine::compress::Level;
use dimg::format::{DeltaFile, Dimg};
use dimg::merge::{MergeOptions, merge};
use libfuzzer_sys::fuzz_target;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

/// From the first image to the second, and back.
static SOUND: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (old, new) = (Image::old(), Image::new_one());
    [new.delta(Some(&old), Codec::Auto).0, old.delta(Some(&new), Codec::Auto).0]
});
/// Files whose contents say to be longer are not merged: they are bounded by the disk alone.
const MAX_BYTES: u64 = 4 << 20;

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts(input);
    let length = usize::from(parts.short()) | usize::from(parts.byte()) << 16;
    let first = parts.take(length);
    let file = |bytes: &[u8], other: &[u8]| {
        let bytes = match bytes.first() {
            None => other.to_vec(),
            Some(0x89) => bytes.to_vec(),
            Some(_) => dimg_of_sections(bytes),
        };
        DeltaFile::open(bytes.into()).ok()
    };
    let (Some(first), Some(second)) = (file(first, &SOUND[0]), file(parts.0, &SOUND[1])) else { return };
    let files = [first.dimg(), second.dimg()];
    if files.iter().any(|file| !is_small(file)) {
        return;
    }
    let options = MergeOptions {
        level: Level::Fast,
        threads: NonZeroUsize::MIN,
        memory_bytes: 16 << 20,
        dir: std::env::temp_dir(),
    };
    let Ok(mut made) = merge(&files, &options, &mut ()) else { return };
    let mut bytes = Vec::new();
    made.write_to(&mut bytes).expect("memory takes it");
    let made = Dimg::open(bytes.into()).expect("what is written is read");
    made.recipes().expect("the recipes are sound");
    let frames = made.frames().expect("the frames are sound").len();
    for number in 0..frames {
        made.frame(u32::try_from(number).expect("there are few")).expect("every frame has its checksum");
    }
});

fn is_small(file: &Dimg) -> bool {
    file.recipes().is_ok_and(|recipes| {
        recipes.iter().flat_map(|recipe| &recipe.stages).all(|stage| stage.out_bytes <= MAX_BYTES)
    })
}
