//! Object store and file trees of delta images.

#![forbid(unsafe_code)]
