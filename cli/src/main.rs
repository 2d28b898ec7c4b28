//! `d4c`: delta updates for container images. All of it is in the library beside.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    d4c::main()
}
