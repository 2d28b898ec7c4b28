//! containerd's filter language, as List takes it: strings are alternatives, the selectors of one string, with
//! commas between, must all hold. A selector is a field path and perhaps an operator and a value:
//! `name==foo`, `labels."a.b/c"!=x`, `parent~=/^sha256:/`, `labels.present`.
//!
//! It follows containerd's `pkg/filters` also where that is peculiar: a quoted value may be in `"`, and in `/` or
//! `|` after `~=` only; blanks are skipped before a token but not after a value; a broken regular expression
//! matches nothing.

mod scanner;

use std::borrow::Cow;

use regex::bytes::Regex;

use crate::error::{Error, Result};
use crate::snapshot::Info;
use scanner::{Scanner, Token};

/// All strings of one request.
#[derive(Debug)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<Vec<u8>>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// `None` for an expression that does not compile.
    Matches(Option<Regex>),
}

impl Filters {
    /// Parses the strings of a request; no string, and an empty one, accept everything.
    ///
    /// # Errors
    /// `InvalidArgument` naming the string, the place and what is wrong.
    pub fn parse<S: AsRef<str>>(strings: &[S]) -> Result<Self> {
        strings.iter().map(|s| selectors(s.as_ref())).collect::<Result<_>>().map(Self)
    }

    /// Whether a snapshot is wanted.
    #[must_use]
    pub fn accept(&self, info: &Info) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|s| s.accept(info)))
    }
}

impl Selector {
    fn accept(&self, info: &Info) -> bool {
        let field = field(info, &self.path);
        let value = field.unwrap_or_default().as_bytes();
        match &self.test {
            Test::Present => field.is_some(),
            Test::Equal(wanted) => field.is_some() && value == wanted,
            Test::NotEqual(other) => value != other,
            Test::Matches(regex) => regex.as_ref().is_some_and(|r| r.is_match(value)),
        }
    }
}

/// The value of a field, if the snapshot has it.
fn field<'i>(info: &'i Info, path: &[Vec<u8>]) -> Option<&'i str> {
    match path.first()?.as_slice() {
        b"kind" => Some(info.kind.as_str()),
        b"name" => Some(&info.name),
        b"parent" => Some(&info.parent),
        b"labels" => {
            let key = path[1..].join(&b'.');
            info.labels.get(std::str::from_utf8(&key).ok()?).map(String::as_str)
        }
        _ => None,
    }
}

fn selectors(input: &str) -> Result<Vec<Selector>> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut scanner = Scanner::new(input);
    let mut all = vec![selector(&mut scanner, input)?];
    loop {
        match scanner.peek() {
            None => return Ok(all),
            Some(',') => {
                scanner.scan();
                all.push(selector(&mut scanner, input)?);
            }
            Some(c) => return Err(wrong(input, scanner.at(), &format!("unexpected input: {c}"))),
        }
    }
}

fn selector(scanner: &mut Scanner<'_>, input: &str) -> Result<Selector> {
    let mut path = vec![path_field(scanner, input)?];
    while scanner.peek() == Some('.') {
        scanner.scan();
        path.push(path_field(scanner, input)?);
    }
    if matches!(scanner.peek(), None | Some(',')) {
        return Ok(Selector { path, test: Test::Present });
    }
    let (at, token) = scanner.scan();
    let operator = match token {
        Token::Operator(o) => o,
        Token::Illegal(why) => return Err(wrong(input, at, why)),
        _ => return Err(wrong(input, at, "expected an operator (==, != or ~=)")),
    };
    let test = match operator {
        "==" => Test::Equal(value(scanner, input, false)?),
        "!=" => Test::NotEqual(value(scanner, input, false)?),
        "~=" => Test::Matches(regex(&value(scanner, input, true)?)),
        _ => return Err(wrong(input, at, &format!("unsupported operator {operator:?}"))),
    };
    Ok(Selector { path, test })
}

fn path_field(scanner: &mut Scanner<'_>, input: &str) -> Result<Vec<u8>> {
    match scanner.scan() {
        (_, Token::Field(field)) => Ok(field.into()),
        (at, Token::Quoted(text)) => unquote(input, at, text, false),
        (at, Token::Illegal(why)) => Err(wrong(input, at, why)),
        (at, _) => Err(wrong(input, at, "expected field or quoted")),
    }
}

fn value(scanner: &mut Scanner<'_>, input: &str, any_quote: bool) -> Result<Vec<u8>> {
    match scanner.scan() {
        (_, Token::Field(text) | Token::Value(text)) => Ok(text.into()),
        (at, Token::Quoted(text)) => unquote(input, at, text, any_quote),
        (at, Token::Illegal(why)) => Err(wrong(input, at, why)),
        (at, _) => Err(wrong(input, at, "expected value or quoted")),
    }
}

fn regex(pattern: &[u8]) -> Option<Regex> {
    let pattern = std::str::from_utf8(pattern).ok()?;
    Regex::new(pattern).inspect_err(|e| tracing::debug!(pattern, error = %e, "filter matches nothing")).ok()
}

fn unquote(input: &str, at: usize, text: &str, any_quote: bool) -> Result<Vec<u8>> {
    if !any_quote && !text.starts_with('"') {
        return Err(wrong(input, at, "invalid quote encountered"));
    }
    scanner::unquote(text).ok_or_else(|| wrong(input, at, "unquoting failed: quote syntax error"))
}

fn wrong(input: &str, at: usize, why: &str) -> Error {
    let shown: Cow<'_, str> = input.chars().take(200).collect();
    Error::InvalidArgument { what: format!("parse filter: {shown:?} at byte {at}: {why}") }
}

#[cfg(test)]
mod tests;
