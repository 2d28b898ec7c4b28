//! `di3fs-snapshotter`: the containerd plugin. All of it is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use di3fs_snapshotter::config::Flags;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let ended = match &flags.hold {
        Some(socket) => di3fs_snapshotter::holder::hold(socket),
        None => di3fs_snapshotter::run(flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The status tells it as well, where standard error takes nothing.
            drop(writeln!(std::io::stderr(), "di3fs-snapshotter: {error}"));
            ExitCode::FAILURE
        }
    }
}
