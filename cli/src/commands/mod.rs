//! The commands, one file each: its options, and what it does with them.

mod completions;
mod man;

use clap::Subcommand;

use crate::config::Config;
use crate::failure::Failure;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a completion script
    #[command(hide = true)]
    Completions(completions::Options),
    /// Write the man pages
    #[command(hide = true)]
    Man(man::Options),
}

/// Does what the command line says.
///
/// # Errors
/// The command's own.
pub(crate) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Completions(options) => completions::run(options, config),
        Command::Man(options) => man::run(&options),
    }
}
