//! The files: dimg and cdimg, written and read (`FORMAT.md`).

pub(crate) mod blob;
