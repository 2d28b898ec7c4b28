//! Safe wrappers of system calls: the only crate of d4c with unsafe code.
