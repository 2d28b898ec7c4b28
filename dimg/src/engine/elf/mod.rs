//! Relocation: what a rebuild shifts in an executable, shifted back in advance.
//!
//! When code or data grows, every address behind it changes, and with it every call, table and symbol that names one: most of the
//! differences between two builds of an ELF file. They follow from few numbers. This codec finds the *fields* of the old file that
//! hold addresses, from its own bytes alone ([`scan`]), moves each address by a small piecewise [`AddressMap`], and writes the file
//! with the fields so changed: [`relocate`]. It has the length of the old file and is what a plain program is then matched against.
//! The patch is the map and the program: two stages of a recipe.
//!
//! A class data archive of the JVM is one more such file ([`archive`]), and so is an opened WebAssembly module ([`wasm`]).
//!
//! Which bytes are fields, and how a field changes, is part of the format (`FORMAT.md`, section 7.7): any change to the scan needs
//! another version of the codec. A scan of a hostile file finds odd fields, but reads and writes only within the file, in memory
//! that does not grow with it, and never panics. That a map is good is known by the digest of what is made in the end.
//!
//! [`derive`] makes the map of two files ([`vote`]).

mod archive;
mod arm;
mod arm32;
mod code;
mod coding;
mod data;
mod derive;
mod fill;
mod golang;
mod headers;
mod image;
mod map;
mod relocate;
mod rough;
#[cfg(any(test, fuzzing))]
pub mod sample;
#[cfg(any(test, fuzzing))]
pub mod sample32;
mod scan;
mod tables;
mod tables32;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests32;
mod usual;
mod vote;
mod wasm;
mod x86;

pub use derive::{Relocated, Seen, derive, derive_quick, fits, look, memory};
pub use map::{AddressMap, MAX_MAP_BYTES, MAX_SEGMENTS, MapError};
pub use relocate::relocate;
pub(crate) use relocate::relocate_on;

use image::Image;

/// Which fields a scan finds. Any is read; the last is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// What linkers write for any language, and Go's table of functions.
    One,
    /// The same, lengths of functions and symbols, and more of what Go's linker writes: types, what belongs to functions, inlined calls.
    Two,
    /// The same, and what stands in class data archives, which those before leave as they are.
    Three,
    /// The same, and what stands in opened WebAssembly modules.
    Four,
    /// The same, and what stands in files for 32-bit ARM.
    Five,
}

impl Version {
    /// The last one.
    pub const LAST: Self = Self::Five;
    /// The one that is written where the last one makes the same.
    pub const USUAL: Self = Self::Three;

    /// The number in the format.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// The version of a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            4 => Some(Self::Four),
            5 => Some(Self::Five),
            _ => None,
        }
    }
}
