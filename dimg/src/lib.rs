//! Delta images.

#![forbid(unsafe_code)]
