//! Parses a tar, writes it again and compares.

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;

use d4c_image::tar::{ParseOptions, ParsedLayer, TarError, WriteError, parse, tar_bytes, write};
use dimg::Digest;

/// Few threads and small holes: for tars made up by the thousand.
pub const SMALL: ParseOptions =
    ParseOptions { threads: NonZeroUsize::MIN, diff_id: true, max_hole_bytes: 1 << 20 };

/// The parsed tar, after checking that it comes back.
pub fn round_trip(tar: &[u8], options: &ParseOptions) -> Result<ParsedLayer, TarError> {
    let layer = parse(tar, options)?;
    assert_eq!(layer.diff_id, options.diff_id.then(|| Digest::of(tar)));
    let mut again = Vec::with_capacity(tar.len());
    let written = write_again(tar, &layer, &mut again).expect("what was parsed is written");
    assert_eq!(written, tar.len() as u64);
    assert_eq!(tar_bytes(&layer.index).expect("what was parsed has a length"), written);
    if again != tar {
        let at = again.iter().zip(tar).position(|(a, b)| a != b);
        panic!("the tar came back with another byte at {at:?}");
    }
    Ok(layer)
}

/// Writes a parsed tar.
pub fn write_again(tar: &[u8], layer: &ParsedLayer, out: &mut Vec<u8>) -> Result<u64, WriteError> {
    write(
        &layer.index,
        &mut |content| {
            let mut bytes = Vec::new();
            let place = layer.content(tar, &content.digest).expect("the content is one of the layer");
            place.reader().read_to_end(&mut bytes)?;
            assert_eq!(Digest::of(&bytes), content.digest);
            Ok(Box::new(Cursor::new(bytes)))
        },
        out,
    )
}
