//! Tokens of the filter language, and its quoted strings (those of Go, with two more quotes).

/// A piece of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'i> {
    End,
    /// With its quotes.
    Quoted(&'i str),
    Value(&'i str),
    Field(&'i str),
    Separator,
    Operator(&'i str),
    /// A character that starts nothing.
    Other,
    Illegal(&'static str),
}

pub(super) struct Scanner<'i> {
    input: &'i str,
    at: usize,
    /// The token after an operator may hold nearly any character.
    value: bool,
}

impl<'i> Scanner<'i> {
    pub fn new(input: &'i str) -> Self {
        Self { input, at: 0, value: false }
    }

    /// Byte offset of the next character.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next character, blanks not skipped.
    pub fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
    }

    /// The next token and the byte where it begins.
    pub fn scan(&mut self) -> (usize, Token<'i>) {
        let input = self.input;
        self.skip(char::is_whitespace);
        let start = self.at;
        let Some(c) = self.next() else { return (start, Token::End) };
        let token = match c {
            '\0' => Token::Illegal("unexpected null"),
            char::REPLACEMENT_CHARACTER => Token::Illegal("rune error"),
            '/' | '|' | '"' => match self.quoted(c) {
                Ok(()) => Token::Quoted(&input[start..self.at]),
                Err(why) => Token::Illegal(why),
            },
            ',' | '.' => {
                self.value = false;
                Token::Separator
            }
            '=' | '!' | '~' => {
                self.skip(|c| matches!(c, '=' | '!' | '~'));
                self.value = true;
                Token::Operator(&input[start..self.at])
            }
            _ if self.value => {
                self.skip(is_value);
                self.value = false;
                Token::Value(&input[start..self.at])
            }
            c if is_field(c) => {
                self.skip(is_field);
                Token::Field(&input[start..self.at])
            }
            _ => Token::Other,
        };
        (start, token)
    }

    /// Moves behind the closing quote.
    fn quoted(&mut self, quote: char) -> Result<(), &'static str> {
        loop {
            match self.next() {
                None | Some('\n' | '\0' | char::REPLACEMENT_CHARACTER) => {
                    return Err("quoted literal not terminated");
                }
                Some(c) if c == quote => return Ok(()),
                Some('\\') => {
                    // What the escape means is checked when it is unquoted; here only its character counts.
                    if self.next().is_none() {
                        return Err("quoted literal not terminated");
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn is_field(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

fn is_value(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control() && c != char::REPLACEMENT_CHARACTER
}

/// Takes off the quotes and resolves the escapes of Go's strings; `None` if one is wrong.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    let quote = text.chars().next()?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut chars = inner.chars();
    let mut out = Vec::with_capacity(inner.len());
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut out, c);
            continue;
        }
        match chars.next()? {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '\\' => out.push(b'\\'),
            'x' => out.push(u8::try_from(digits(&mut chars, 2, 16, 0)?).ok()?),
            'u' => push(&mut out, rune(digits(&mut chars, 4, 16, 0)?)?),
            'U' => push(&mut out, rune(digits(&mut chars, 8, 16, 0)?)?),
            c if c.is_digit(8) => {
                out.push(u8::try_from(digits(&mut chars, 2, 8, c.to_digit(8)?)?).ok()?);
            }
            c if c == quote => push(&mut out, c),
            _ => return None,
        }
    }
    Some(out)
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn digits(chars: &mut std::str::Chars<'_>, count: usize, base: u32, first: u32) -> Option<u32> {
    (0..count)
        .try_fold(first, |sum, _| Some(sum.wrapping_mul(base).wrapping_add(chars.next()?.to_digit(base)?)))
}

/// A code point; half a surrogate pair becomes the replacement character, as in Go.
fn rune(code: u32) -> Option<char> {
    match code {
        0xD800..=0xDFFF => Some(char::REPLACEMENT_CHARACTER),
        _ => char::from_u32(code),
    }
}
