//! The command line as it is typed: names and flags, not checked beyond their form.
//!
//! The contract is `cli.md`; each command's own options stand with the command, in [`crate::commands`].

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::commands::Command;

/// Delta updates for container images.
#[derive(Debug, Parser)]
#[command(name = "d4c", version, max_term_width = 100, arg_required_else_help = false)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// containerd's socket
    #[arg(
        long,
        global = true,
        value_name = "SOCK",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock",
        hide_env = true
    )]
    pub(crate) address: PathBuf,
    /// containerd's namespace
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "CONTAINERD_NAMESPACE",
        default_value = "default",
        hide_env = true
    )]
    pub(crate) namespace: String,
    /// The snapshotter's control socket
    #[arg(long, global = true, value_name = "SOCK", default_value = "/run/di3fs/control.sock")]
    pub(crate) control: PathBuf,
    /// The snapshotter's root directory
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/di3fs")]
    pub(crate) root: PathBuf,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print results and errors as JSON objects
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to show progress on standard error
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value_t = ProgressChoice::Auto)]
    pub(crate) progress: ProgressChoice,
    /// Least severity of log lines on standard error
    #[arg(long, global = true, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn)]
    pub(crate) log_level: LogLevel,
    /// Where unpacked layers and other temporary files go (default: TMPDIR or /var/tmp)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) tmpdir: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressChoice {
    /// A bar when standard error is a terminal, else nothing
    Auto,
    /// A line every few seconds
    Plain,
    /// Nothing
    None,
}

/// Least severity of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// No log lines
    Off,
    /// Errors
    Error,
    /// Errors and warnings
    Warn,
    /// What happens, too
    Info,
    /// Details for the curious
    Debug,
    /// Everything
    Trace,
}
