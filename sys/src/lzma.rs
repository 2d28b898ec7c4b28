//! LZMA2 behind bytes that the reader has: liblzma takes them as its preset dictionary, which its safe wrappers leave out.

use liblzma_sys::{
    LZMA_FILTER_LZMA2, LZMA_MEM_ERROR, LZMA_MF_BT4, LZMA_MF_HC4, LZMA_MODE_NORMAL, LZMA_OK, LZMA_VLI_UNKNOWN,
    lzma_filter, lzma_lzma_preset, lzma_options_lzma, lzma_raw_buffer_encode,
};
use std::io;
use std::ptr::{from_mut, null, null_mut};

/// How to compress: the encoder's default preset but for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lzma2 {
    /// The dictionary.
    pub dictionary_bytes: u32,
    /// lc, lp and pb.
    pub contexts: (u32, u32, u32),
    /// A match of so many bytes is taken as it is.
    pub nice_length: u32,
    /// Looks for a match; 0: as many as the encoder finds good.
    pub depth: u32,
    /// Whether places are kept in chains, not in trees: the base is gone through in a third of the time, a match found a little more slowly.
    pub chains: bool,
}

/// Compresses `content` to raw LZMA2, its end mark with it; the dictionary has the end of `base` from the start, so that no chunk resets
/// it. The first compressed chunk resets state and properties.
///
/// # Errors
/// With the number of liblzma's failure, options that it does not take, in the text. A lack of memory ends the process ([`crate::exhausted`]).
pub fn lzma2_after(base: &[u8], content: &[u8], how: &Lzma2) -> io::Result<Vec<u8>> {
    const PRESET: u32 = 6;
    let failed = |what: &str, code: i64| io::Error::other(format!("{what}: liblzma says {code}"));
    let dictionary = usize::try_from(how.dictionary_bytes).unwrap_or(usize::MAX);
    let base = &base[base.len().saturating_sub(dictionary)..];
    // SAFETY: a plain structure of numbers and pointers, of which zeros are valid.
    let mut options: lzma_options_lzma = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours.
    if unsafe { lzma_lzma_preset(&raw mut options, PRESET) } != 0 {
        return Err(failed("preset", i64::from(PRESET)));
    }
    options.dict_size = how.dictionary_bytes;
    options.preset_dict = base.as_ptr();
    options.preset_dict_size = u32::try_from(base.len()).map_err(io::Error::other)?;
    (options.lc, options.lp, options.pb) = how.contexts;
    options.mode = LZMA_MODE_NORMAL;
    options.mf = if how.chains { LZMA_MF_HC4 } else { LZMA_MF_BT4 };
    options.nice_len = how.nice_length;
    options.depth = how.depth;
    let filters = [
        lzma_filter { id: LZMA_FILTER_LZMA2, options: from_mut(&mut options).cast() },
        lzma_filter { id: LZMA_VLI_UNKNOWN, options: null_mut() },
    ];
    // Chunks that do not compress are stored, three bytes for each 64 KiB.
    let mut out = vec![0u8; content.len() + content.len() / 8 + 1024];
    let mut written = 0;
    // SAFETY: filters end as they must, options and base outlive the call, and the lengths are those of the slices.
    let code = unsafe {
        lzma_raw_buffer_encode(
            filters.as_ptr(),
            null(),
            content.as_ptr(),
            content.len(),
            out.as_mut_ptr(),
            &raw mut written,
            out.len(),
        )
    };
    if code == LZMA_MEM_ERROR {
        crate::exhausted("liblzma");
    }
    if code != LZMA_OK {
        return Err(failed("compress behind a base", i64::from(code)));
    }
    out.truncate(written);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Lzma2 =
        Lzma2 { dictionary_bytes: 1 << 16, contexts: (3, 0, 2), nice_length: 32, depth: 0, chains: false };

    #[test]
    fn says_little_of_what_the_base_has() {
        let base: Vec<u8> =
            (0..50_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for chains in [false, true] {
            let behind = lzma2_after(&base, &base[190_000..], &Lzma2 { chains, ..HOW }).unwrap();
            assert!(behind.len() < 100, "{}", behind.len());
            assert_eq!(behind[0] & 0xe0, 0xc0, "new properties, and the dictionary as it is");
        }
        // What left the dictionary is not known.
        assert!(lzma2_after(&base, &base[..10_000], &HOW).unwrap().len() > 9_900);
    }

    #[test]
    fn refuses_what_liblzma_does() {
        assert!(lzma2_after(b"base", b"content", &Lzma2 { contexts: (9, 9, 9), ..HOW }).is_err());
    }
}
