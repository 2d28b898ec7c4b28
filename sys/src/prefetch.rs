//! A hint to the processor.

/// Has the processor fetch the cache line of the element at `at`, if there is one; nothing else can be seen of it. On other
/// processors than x86-64 and aarch64 nothing happens.
#[inline]
pub fn prefetch<T>(slice: &[T], at: usize) {
    let Some(element) = slice.get(at) else { return };
    let place = std::ptr::from_ref(element).cast::<i8>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64. A prefetch never faults and changes nothing that a program can see; the place is one of
    // a reference besides.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the instruction writes no memory, register or flag.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{place}]", place = in(reg) place,
            options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_place_will_do() {
        for at in [0, 2, 3, usize::MAX] {
            super::prefetch(&[1u64, 2, 3], at);
        }
        super::prefetch::<u8>(&[], 0);
    }
}
