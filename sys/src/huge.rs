//! Memory that is looked up all over the place.

/// Asks the kernel to hold the slice in huge pages, as far as it covers any: before it is written to first. Lookups all over a
/// large table spend much of their time on finding where its pages are. A hint: failure is not reported.
pub fn prefer_huge_pages<T>(slice: &mut [T]) {
    const PAGE_BYTES: usize = 4 << 10;
    let range = slice.as_mut_ptr_range();
    let start = range.start.addr().next_multiple_of(PAGE_BYTES);
    let bytes = range.end.addr().saturating_sub(start) / PAGE_BYTES * PAGE_BYTES;
    if bytes == 0 {
        return;
    }
    let start = range.start.cast::<libc::c_void>().with_addr(start);
    // SAFETY: the range is whole pages within the slice, which is borrowed for writing. The advice changes how its pages are held,
    // not what is in them; where pages are of another size the call fails, or the kernel rounds the length up to a page of ours.
    unsafe {
        libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn changes_nothing() {
        for count in [0usize, 1, 1000, 3 << 20] {
            let mut numbers = vec![7u32; count];
            super::prefer_huge_pages(&mut numbers);
            assert!(numbers.iter().all(|&number| number == 7));
        }
    }
}
