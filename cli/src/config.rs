//! The global options, checked and typed.

use std::io::IsTerminal;
use std::path::PathBuf;

use tracing_subscriber::filter::LevelFilter;

use crate::args::{Global, LogLevel, ProgressChoice};
use crate::failure::Failure;
use crate::output::Output;

/// What every command gets beside its own options.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where results go.
    pub(crate) output: Output,
    /// How progress is shown.
    pub(crate) progress: ProgressStyle,
    /// Least severity of log lines.
    pub(crate) log_level: LevelFilter,
    /// Directory of temporary files.
    pub(crate) tmpdir: PathBuf,
    /// containerd's socket.
    pub(crate) address: PathBuf,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The snapshotter's control socket.
    pub(crate) control: PathBuf,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressStyle {
    /// A bar on the terminal.
    Bar,
    /// A line every few seconds.
    Plain,
    /// Nothing.
    None,
}

impl Config {
    /// Checks the global options.
    ///
    /// # Errors
    /// A temporary directory that is none.
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let terminal = std::io::stderr().is_terminal();
        let progress = match global.progress {
            _ if global.quiet || global.json => ProgressStyle::None,
            ProgressChoice::Auto if terminal => ProgressStyle::Bar,
            ProgressChoice::Auto | ProgressChoice::None => ProgressStyle::None,
            ProgressChoice::Plain => ProgressStyle::Plain,
        };
        Ok(Self {
            output: Output::new(global.json, global.quiet),
            progress,
            log_level: level(global.log_level, global.json),
            tmpdir: tmpdir(global.tmpdir)?,
            address: global.address,
            namespace: global.namespace,
            control: global.control,
        })
    }
}

/// With `--json`, standard error holds one error object or nothing: log lines only when asked for.
fn level(level: LogLevel, json: bool) -> LevelFilter {
    match level {
        LogLevel::Warn if json => LevelFilter::OFF,
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Where it is remembered how registries answer: in the user's cache, where there is one.
pub(crate) fn remembered_registries() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let cache = dir("XDG_CACHE_HOME").or_else(|| dir("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("d4c/registries.json"))
}

/// Unpacked layers are large and live for minutes: `/var/tmp`, because `/tmp` is often memory.
fn tmpdir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = match given {
        Some(dir) => dir,
        None => std::env::var_os("TMPDIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from),
    };
    let meta = std::fs::metadata(&dir).map_err(Failure::io("use temporary directory", &dir))?;
    if !meta.is_dir() {
        return Err(Failure::usage(dir.display(), "the temporary directory is not a directory"));
    }
    Ok(dir)
}
