//! `di3fs-snapshotter`: the containerd plugin. All of it is in the library.

use std::process::ExitCode;

use clap::Parser;
use di3fs_snapshotter::config::Flags;

fn main() -> ExitCode {
    match di3fs_snapshotter::run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("di3fs-snapshotter: {error}");
            ExitCode::FAILURE
        }
    }
}
