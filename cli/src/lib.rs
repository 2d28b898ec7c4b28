//! `d4c` and `di3fs-virtiofsd`: delta updates for container images, and images for virtual machines.
//!
//! Reads the command line, starts logging, calls one command and turns its failure into one line and an exit
//! status. What commands do is in [`commands`]; what they share is in the modules beside it.

#![forbid(unsafe_code)]

mod args;
mod beside;
mod commands;
mod config;
mod exhausted;
mod failure;
mod files;
mod image;
mod interrupt;
mod memory;
mod output;
mod progress;
mod report;
mod serve;
mod units;
mod usage;
mod virtiofsd;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use config::Config;
use failure::{Failure, Kind};

/// Runs `d4c` with the arguments of this process.
pub fn main() -> ExitCode {
    start("d4c", run)
}

/// Runs `di3fs-virtiofsd` with the arguments of this process.
pub fn virtiofsd() -> ExitCode {
    start("di3fs-virtiofsd", virtiofsd::run)
}

/// Runs a program and tells why it failed.
fn start(name: &'static str, run: impl FnOnce(Vec<OsString>) -> Result<(), Failure>) -> ExitCode {
    exhausted::watch(name);
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Known before the arguments are: a wrong usage is reported as JSON, too.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if matches!(failure.kind, Kind::Closed | Kind::Cut) => {
            ExitCode::from(failure.kind.exit_code())
        }
        Err(failure) => {
            let line = if json { failure.json().to_string() } else { format!("{name}: {failure}") };
            // The status tells it as well, where standard error takes nothing.
            drop(writeln!(std::io::stderr(), "{line}"));
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    let args = match args::Args::parse_line(&arguments) {
        Ok(args) => args,
        Err(error) if error.use_stderr() => return Err(usage::failure(&error)),
        // Help and version are answers, not errors.
        Err(error) => return error.print().map_err(output::not_written(Kind::Closed)),
    };
    let config = Config::new(args.global)?;
    start_logging(&config, None, &[]);
    interrupt::watch()?;
    commands::run(args.command, &config)
}

/// Sends log lines to `other`, else to standard error, but for those of the crates `silent`.
fn start_logging(config: &Config, other: Option<BoxMakeWriter>, silent: &[&str]) {
    // What a certificate is refused for, and that the plugin went away, is told by the command that fails with it.
    let silent = silent.iter().chain(&["rustls_platform_verifier", "ttrpc"]);
    let levels = silent.fold(Targets::new().with_default(config.log_level), |levels, name| {
        levels.with_target(*name, LevelFilter::OFF)
    });
    let plain = other.is_some() || !std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .without_time()
        .with_writer(other.unwrap_or_else(|| BoxMakeWriter::new(std::io::stderr)))
        // A line that cannot be written is told nowhere: by default that ends the process where it is standard error.
        .log_internal_errors(false);
    // Left alone otherwise: it looks at NO_COLOR.
    let lines = if plain { lines.with_ansi(false) } else { lines };
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
}
