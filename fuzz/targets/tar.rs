//! Tars: whatever is parsed comes back bit for bit.
//!
//! The checksum of a header is made right first, or a fuzzer would spend its time on that: whatever block has one that is spelled as in a tar.

#![no_main]

use d4c_fuzz::images::{SMALL, content_of};
use d4c_image::tar::{parse, tar_bytes, write};
use dimg::Digest;
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

fuzz_target!(|input: &[u8]| {
    round_trip(input);
    let mut tar = input.to_vec();
    right_checksums(&mut tar);
    if tar != input {
        round_trip(&tar);
    }
});

fn round_trip(tar: &[u8]) {
    let Ok(layer) = parse(tar, &SMALL) else { return };
    assert_eq!(layer.diff_id, Some(Digest::of(tar)));
    let mut again = Vec::with_capacity(tar.len());
    let open = &mut |content: &dimg::index::Content| {
        let bytes = content_of(tar, &layer, &content.digest)?;
        Ok(Box::new(Cursor::new(bytes)) as Box<dyn std::io::Read>)
    };
    let written = write(&layer.index, open, &mut again).expect("what was parsed is written");
    assert_eq!(written, tar.len() as u64);
    assert_eq!(tar_bytes(&layer.index).expect("what was parsed has a length"), written);
    assert!(again == tar, "another byte at {:?}", again.iter().zip(tar).position(|(a, b)| a != b));
}

/// Blocks with six octal digits where a checksum stands get the right one.
fn right_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        let spelled = &block[CHECKSUM];
        if !spelled[..6].iter().all(|byte| (b'0'..=b'7').contains(byte)) {
            continue;
        }
        let end = spelled[6..].to_vec();
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[CHECKSUM][..6].copy_from_slice(format!("{sum:06o}").as_bytes());
        block[CHECKSUM][6..].copy_from_slice(&end);
    }
}
