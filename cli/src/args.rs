//! The command line as it is typed: names and flags, not checked beyond their form.
//!
//! The contract is `cli.md`; each command's own options stand with the command, in [`crate::commands`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, CommandFactory, Parser, ValueEnum};

use crate::commands::Command;

/// Delta updates for container images.
#[derive(Debug, Parser)]
#[command(
    name = "d4c",
    version,
    max_term_width = 100,
    arg_required_else_help = false,
    args_override_self = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Reads a command line.
    ///
    /// # Errors
    /// It is wrong, or asks for help.
    pub(crate) fn parse_line(arguments: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments).map_err(|error| match shown().try_get_matches_from(arguments) {
            Err(other) if other.use_stderr() == error.use_stderr() => other,
            _ => error,
        })
    }
}

/// A command whose last argument is of another kind than the many before it.
struct Last {
    command: &'static str,
    usage: &'static str,
    /// The options' field for all of them.
    field: &'static str,
    /// How many come before the last, at least.
    least: usize,
    /// What each of the many is called, and what it is; the same of the last.
    many: (&'static str, &'static str),
    last: (&'static str, &'static str),
}

const LAST: [Last; 3] = [
    Last {
        command: "merge",
        usage: "d4c merge [OPTIONS] <DELTA> <DELTA>... <OUT.cdimg>",
        field: "deltas_and_out",
        least: 2,
        many: ("DELTA", "The deltas in order; the first may be a base image"),
        last: ("OUT.cdimg", "The file to write; - is standard output"),
    },
    Last {
        command: "patch",
        usage: "d4c patch [OPTIONS] <BASE> [DELTA]... <DEST>",
        field: "deltas_and_dest",
        least: 0,
        many: ("DELTA", "The deltas in order; none: the base itself"),
        last: (
            "DEST",
            "Where the image goes: dir:PATH (a root file system), oci:DIR[:TAG] or oci-archive:FILE[:TAG] (layers uncompressed)",
        ),
    },
    Last {
        command: "mount",
        usage: "d4c mount [OPTIONS] <FILE>... <DIR>",
        field: "files_and_dir",
        least: 1,
        many: ("FILE", "A base file and the deltas on it, in order"),
        last: ("DIR", "The directory to mount at"),
    },
];

/// The command as people are told of it. It would take options between the many arguments and the last one for the end of the many, so it is
/// not what command lines are read with.
pub(crate) fn shown() -> clap::Command {
    LAST.into_iter().fold(Args::command(), |all, Last { command, usage, field, least, many, last }| {
        all.mut_subcommand(command, |command| {
            command
                .override_usage(usage)
                .mut_arg(field, |arg| {
                    arg.value_names(vec![many.0; least.max(1)]).num_args(least..).help(many.1)
                })
                .arg(Arg::new("last").value_name(last.0).help(last.1).required(true))
        })
    })
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
