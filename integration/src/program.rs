//! Running a program to its end and judging how it ended; finding the programs under test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// The exit status; 128 + the number of the signal that ended it.
    pub code: i32,
    /// What it wrote to stdout, bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to stderr, bytes that are not UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end without input.
    ///
    /// # Errors
    /// Fails when it cannot be started, saying how to install it.
    pub fn of(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::ExitStatusExt;
        let line = line(command);
        let out = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {line}: make build and make setup make it available"))?;
        let code = out.status.code().or(out.status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { line, code, stdout: text(out.stdout), stderr: text(out.stderr) })
    }

    /// The output of a program that must succeed.
    ///
    /// # Errors
    /// Fails, with what it wrote, when its status is not 0.
    pub fn success(self) -> Result<Self> {
        ensure!(self.code == 0, "{}: exit status {}\n{}{}", self.line, self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Checks that `d4c` refused: this exit status, nothing on stdout, and on stderr one line `d4c: <what>: <on what>: <why>` that names `about`.
    ///
    /// # Errors
    /// Fails, with what it wrote, when any of this is not so.
    pub fn refused(&self, code: i32, about: &str) -> Result<()> {
        let all = format!("{}: exit status {}\n{}{}", self.line, self.code, self.stdout, self.stderr);
        ensure!(self.code == code, "expected exit status {code}: {all}");
        ensure!(self.stdout.is_empty(), "expected nothing on stdout: {all}");
        let mut lines = self.stderr.lines();
        let (Some(first), None) = (lines.next(), lines.next()) else {
            bail!("expected one line on stderr: {all}")
        };
        ensure!(
            first.starts_with("d4c: ") && first.contains(about),
            "expected a line `d4c: … {about} …`: {all}"
        );
        ensure!(!first.ends_with('.') && !first.contains("panicked"), "expected a clear line: {all}");
        Ok(())
    }
}

/// The command line as one would type it, more or less.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The program `name` of this repository: in `D4C_BIN_DIR`, else where `make build` leaves it.
pub fn built(name: &str) -> PathBuf {
    let dir = std::env::var_os("D4C_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target.unwrap_or_else(|| repository().join("target")).join("release")
    });
    dir.join(name)
}

/// The folder of this repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the repository")
}

/// Runs `d4c` with these arguments.
///
/// # Errors
/// Fails only when it cannot be started.
pub fn d4c<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Result<Output> {
    Output::of(Command::new(built("d4c")).args(arguments))
}
