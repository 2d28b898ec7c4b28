//! Random numbers that are the same in every run (SplitMix64).

/// A number that looks random, the same for the same `number`.
pub fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A row of such numbers.
#[derive(Debug, Default)]
pub struct Random(u64);

impl Random {
    /// The row of this seed.
    pub fn new(seed: u64) -> Self {
        Self(mixed(seed))
    }

    /// The next.
    pub fn number(&mut self) -> u64 {
        let next = mixed(self.0);
        self.0 = self.0.wrapping_add(1);
        next
    }

    /// The next, below `limit`.
    ///
    /// # Panics
    /// `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).expect("it is below a usize")
    }
}
