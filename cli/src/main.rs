//! `d4c`: delta updates for container images. All of it is in the library beside.

#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: d4c_sys::Telling = d4c_sys::Telling;

fn main() -> ExitCode {
    d4c::main()
}
