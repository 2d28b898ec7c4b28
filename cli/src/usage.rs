//! A wrong command line as one line.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::failure::Failure;

/// What `error` says, in the form of every other failure.
pub(crate) fn failure(error: &Error) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" ")),
        Some(ContextValue::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let argument = || text(ContextKind::InvalidArg).unwrap_or_else(|| "arguments".into());
    let value = || text(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            Failure::usage(name, with_hint("no such command", text(ContextKind::SuggestedSubcommand)))
        }
        ErrorKind::UnknownArgument => {
            Failure::usage(argument(), with_hint("unexpected argument", text(ContextKind::SuggestedArg)))
        }
        ErrorKind::InvalidValue if value().is_empty() => Failure::usage(argument(), "needs a value"),
        ErrorKind::InvalidValue => {
            let possible = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => format!("one of {}", values.join(", ")),
                _ => "another value".into(),
            };
            Failure::usage(argument(), format!("{:?} where {possible} is expected", value()))
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(|| "invalid".into(), ToString::to_string);
            Failure::usage(argument(), format!("{:?}: {why}", value()))
        }
        ErrorKind::MissingRequiredArgument => Failure::usage(argument(), "missing"),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::usage("command", "missing; d4c --help lists them")
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).unwrap_or_default();
            Failure::usage(argument(), format!("cannot be used with {other}"))
        }
        ErrorKind::TooFewValues => Failure::usage(argument(), "needs more values"),
        ErrorKind::TooManyValues => Failure::usage(argument(), "has too many values"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Failure::usage("arguments", line.strip_prefix("error: ").unwrap_or(line))
        }
    }
}

fn with_hint(why: &str, hint: Option<String>) -> String {
    hint.map_or_else(|| why.to_owned(), |hint| format!("{why}; did you mean {hint}?"))
}
