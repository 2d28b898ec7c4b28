//! Standard output: text for people or one JSON object.

use std::io::{self, Write};

use crate::failure::{Failure, Kind, Reason};

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Prints what was asked for: `value` as JSON, else what `human` gives.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn result(
        self,
        value: &serde_json::Value,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { self.text(&format!("{value}\n")) } else { self.text(&human()) }
    }

    /// As [`Output::result`], of a command whose result is a file: silent with `--quiet`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn report(
        self,
        value: &serde_json::Value,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { self.result(value, human) }
    }

    /// Prints `text` as it is.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(not_written(Kind::Closed))
    }
}

/// A failure to write to standard output; of the kind `unread` for a pipe that nobody reads any more.
pub(crate) fn not_written(unread: Kind) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { unread } else { Kind::of_io(&error) };
        Failure::new(kind, "write file", "standard output", Reason(&error))
    }
}
