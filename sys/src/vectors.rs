//! Work on many bytes at once.

/// Work that gains from wide vectors.
pub trait Wide {
    /// What comes of it.
    type Output;

    /// Does it. To be marked `#[inline(always)]`, as are the loops that it calls: only what is inlined gains.
    fn run(self) -> Self::Output;
}

/// Runs `work` as compiled for the vectors of 32 bytes that newer processors have, where this one has them; else as for any other. What
/// comes of it is the same.
#[inline]
pub fn with_vectors<W: Wide>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has just said that it has all that the function is compiled for.
        return unsafe { newer(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn newer<W: Wide>(work: W) -> W::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    struct Sum<'b>(&'b [u8]);

    impl super::Wide for Sum<'_> {
        type Output = u32;

        #[inline(always)]
        #[expect(clippy::inline_always, reason = "that is how it is meant")]
        fn run(self) -> u32 {
            self.0.iter().map(|byte| byte.count_ones()).sum()
        }
    }

    #[test]
    fn gives_the_same() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(super::with_vectors(Sum(&bytes)), 1024);
    }
}
