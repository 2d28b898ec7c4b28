//! `d4c completions SHELL`: what completes its command lines in a shell.

use clap_complete::Shell;

use crate::args::shown;
use crate::config::Config;
use crate::failure::Failure;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The shell to write for
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(options: Options, config: &Config) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut shown(), "d4c", &mut script);
    config.output.text(&String::from_utf8_lossy(&script))
}
