//! Jump tables that code points to.

/// Tables beyond so many are not kept.
const MAX_TABLES: usize = if cfg!(fuzzing) { 1 << 8 } else { 1 << 20 };

/// Addresses of jump tables, found in the order of the code.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<u64>);

impl Tables {
    /// Adds these, unless there are too many.
    pub(super) fn extend(&mut self, addresses: impl IntoIterator<Item = u64>) {
        let room = MAX_TABLES - self.0.len();
        self.0.extend(addresses.into_iter().take(room));
    }

    /// All of them, ascending, each once.
    pub(super) fn finish(mut self) -> Vec<u64> {
        self.0.sort_unstable();
        self.0.dedup();
        self.0
    }
}
