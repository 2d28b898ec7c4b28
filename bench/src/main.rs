//! Comparisons of d4c with other delta tools on the same inputs in one run.

fn main() {}
