//! Jump tables that code points to.

/// Tables beyond so many are not kept.
const MAX_TABLES: usize = if cfg!(fuzzing) { 1 << 8 } else { 1 << 20 };

/// Addresses of jump tables, found in the order of the code.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<u64>);

impl Tables {
    /// Adds one, unless there are too many.
    pub(super) fn put(&mut self, address: u64) {
        if self.0.len() < MAX_TABLES {
            self.0.push(address);
        }
    }

    /// All of them, ascending, each once.
    pub(super) fn finish(mut self) -> Vec<u64> {
        self.0.sort_unstable();
        self.0.dedup();
        self.0
    }
}
