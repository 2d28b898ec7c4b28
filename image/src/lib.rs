//! Image sources (`oci:`, `docker://`, …) and tar layers: parsing into a layer index and back.

#![forbid(unsafe_code)]
