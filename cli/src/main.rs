//! `d4c`: delta updates for container images.

fn main() {}
