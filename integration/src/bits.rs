//! Damaging files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes the first `length` bytes of `from` to `to`.
///
/// # Errors
/// Fails when a file cannot be read or written.
pub fn truncated(from: &Path, to: &Path, length: usize) -> Result<()> {
    let bytes = fs::read(from)?;
    fs::write(to, bytes.get(..length).context("shorter already")?)?;
    Ok(())
}

/// Writes `from` to `to` with one bit flipped in the byte at `offset`.
///
/// # Errors
/// Fails when a file cannot be read or written, or is shorter.
pub fn flipped(from: &Path, to: &Path, offset: usize) -> Result<()> {
    let mut bytes = fs::read(from)?;
    *bytes.get_mut(offset).context("shorter than that")? ^= 0x10;
    fs::write(to, bytes)?;
    Ok(())
}
