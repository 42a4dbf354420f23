//! Tokens, and errors with their place.

use super::is_plain;
use std::borrow::Cow;
use std::fmt;

/// Text that is not what it should be: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// The line (of a very long one, the part around the column).
    pub source: String,
    /// Where in `source` the column is, from 0.
    pub caret: usize,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        writeln!(f, "  | {}", self.source)?;
        write!(f, "  | {:>1$}", "^", self.caret + 1)
    }
}

impl std::error::Error for ParseError {}

/// Characters of a line shown on either side of an error.
const CONTEXT: usize = 60;

impl ParseError {
    /// An error at byte `offset` of `text`, which must be a character boundary.
    pub fn at(text: &str, offset: usize, message: impl Into<String>) -> ParseError {
        let start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
        let line = text[start..].lines().next().unwrap_or("");
        let column = text[start..offset].chars().count();
        let skip = column.saturating_sub(CONTEXT);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        ParseError {
            line: text[..start].matches('\n').count() + 1,
            column: column + 1,
            message: message.into(),
            source: line.chars().skip(skip).take(2 * CONTEXT).map(shown).collect(),
            caret: column - skip,
        }
    }
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token<'t> {
    /// `%name`
    Name(Cow<'t, str>),
    /// A bare word: `load8`, `for`.
    Word(&'t str),
    /// A quoted string.
    Str(Cow<'t, str>),
    /// Digits, with what follows them directly: `3i32`. The sign is a token of its own.
    Int(u128, &'t str),
    /// Digits with a dot or exponent, with what follows them directly.
    Float(&'t str, &'t str),
    /// Punctuation.
    Mark(&'static str),
    /// The end of the text.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Name(s) if is_plain(s) => write!(f, "`%{s}`"),
            Token::Name(_) => f.write_str("a quoted name"),
            Token::Word(s) => write!(f, "`{}`", s.chars().take(40).collect::<String>()),
            Token::Str(_) => f.write_str("a string"),
            Token::Int(v, s) => write!(f, "`{v}{s}`"),
            Token::Float(v, s) => write!(f, "`{v}{s}`"),
            Token::Mark(s) => write!(f, "`{s}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// Longer ones first.
const MARKS: [&str; 31] = [
    "..", "==", "!=", "<=", ">=", "<<", ">>", "+=", "(", ")", "[", "]", "{", "}", ",", ":", "=", "@", "+", "-", "*",
    "/", "%", "&", "^", "|", "<", ">", ".", ";", "!",
];

/// Splits text into tokens, one ahead.
#[derive(Debug)]
pub struct Lexer<'t> {
    text: &'t str,
    /// Just past the present token.
    pos: usize,
    /// Where the present token begins.
    start: usize,
    token: Token<'t>,
}

impl<'t> Lexer<'t> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'t str) -> Result<Lexer<'t>, ParseError> {
        let mut l = Lexer { text, pos: 0, start: 0, token: Token::End };
        l.bump()?;
        Ok(l)
    }

    /// The present token.
    pub fn peek(&self) -> &Token<'t> {
        &self.token
    }

    /// Takes the present token.
    #[allow(clippy::should_implement_trait, reason = "fails, and does not end")]
    pub fn next(&mut self) -> Result<Token<'t>, ParseError> {
        let token = std::mem::replace(&mut self.token, Token::End);
        self.bump()?;
        Ok(token)
    }

    /// Takes the present token if it is the mark `m`.
    pub fn eat(&mut self, m: &'static str) -> Result<bool, ParseError> {
        let found = self.token == Token::Mark(m);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    /// Takes the present token if it is the word `w`.
    pub fn eat_word(&mut self, w: &str) -> Result<bool, ParseError> {
        let found = self.token == Token::Word(w);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    /// Takes the mark `m`.
    pub fn expect(&mut self, m: &'static str) -> Result<(), ParseError> {
        if self.eat(m)? { Ok(()) } else { self.expected(&format!("`{m}`")) }
    }

    /// Takes the word `w`.
    pub fn expect_word(&mut self, w: &str) -> Result<(), ParseError> {
        if self.eat_word(w)? { Ok(()) } else { self.expected(&format!("`{w}`")) }
    }

    /// An error at the present token.
    pub fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        self.fail(format!("expected {what}, found {}", self.token))
    }

    /// An error at the present token.
    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        self.fail_at(self.start, message)
    }

    /// An error at `offset`, as given by [`Lexer::here`].
    pub fn fail_at<T>(&self, offset: usize, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::at(self.text, offset, message))
    }

    /// Where the present token begins.
    pub fn here(&self) -> usize {
        self.start
    }

    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    /// Takes the characters for which `f` holds.
    fn take(&mut self, f: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let n = rest.find(|c| !f(c)).unwrap_or(rest.len());
        self.pos += n;
        &rest[..n]
    }

    fn bump(&mut self) -> Result<(), ParseError> {
        loop {
            self.take(char::is_whitespace);
            if !self.rest().starts_with("//") {
                break;
            }
            self.take(|c| c != '\n');
        }
        self.start = self.pos;
        let mut chars = self.rest().chars();
        self.token = match (chars.next(), chars.next()) {
            (None, _) => Token::End,
            (Some('"'), _) => Token::Str(self.string()?),
            (Some('%'), Some('"')) => {
                self.pos += 1;
                Token::Name(self.string()?)
            }
            (Some('%'), Some(c)) if c.is_ascii_alphabetic() || c == '_' => {
                self.pos += 1;
                Token::Name(Cow::Borrowed(self.word()))
            }
            (Some(c), _) if c.is_ascii_alphabetic() || c == '_' => Token::Word(self.word()),
            (Some(c), _) if c.is_ascii_digit() => self.number()?,
            (Some(c), _) => match MARKS.iter().find(|m| self.rest().starts_with(**m)) {
                Some(m) => {
                    self.pos += m.len();
                    Token::Mark(m)
                }
                None => return self.fail(format!("unexpected character {c:?}")),
            },
        };
        Ok(())
    }

    fn word(&mut self) -> &'t str {
        let from = self.pos;
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.take(part);
        while self.rest().strip_prefix('.').is_some_and(|r| r.starts_with(part)) {
            self.pos += 1;
            self.take(part);
        }
        &self.text[from..self.pos]
    }

    fn number(&mut self) -> Result<Token<'t>, ParseError> {
        let from = self.pos;
        if let Some(hex) = self.rest().strip_prefix("0x") {
            let n = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.pos += 2 + n;
            return match u64::from_str_radix(&hex[..n], 16) {
                Ok(v) => Ok(Token::Int(u128::from(v), "")),
                Err(_) => self.fail("a hexadecimal number has 1 to 16 digits"),
            };
        }
        let digit = |c: char| c.is_ascii_digit();
        self.take(digit);
        let mut float = false;
        if self.rest().strip_prefix('.').is_some_and(|r| r.starts_with(digit)) {
            self.pos += 1;
            self.take(digit);
            float = true;
        }
        if let Some(r) = self.rest().strip_prefix(['e', 'E']) {
            let signed = r.strip_prefix(['+', '-']);
            if signed.unwrap_or(r).starts_with(digit) {
                self.pos += if signed.is_some() { 2 } else { 1 };
                self.take(digit);
                float = true;
            }
        }
        let digits = &self.text[from..self.pos];
        let suffix = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        if float {
            return Ok(Token::Float(digits, suffix));
        }
        match digits.parse() {
            Ok(v) => Ok(Token::Int(v, suffix)),
            Err(_) => self.fail("the number is too large"),
        }
    }

    /// A string; `pos` is at its opening quote.
    fn string(&mut self) -> Result<Cow<'t, str>, ParseError> {
        self.pos += 1;
        let plain = self.take(|c| !matches!(c, '"' | '\\' | '\n'));
        if self.rest().starts_with('"') {
            self.pos += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut s = plain.to_string();
        loop {
            s.push_str(self.take(|c| !matches!(c, '"' | '\\' | '\n')));
            let rest = self.rest();
            let mut escape = |c: char, len: usize| {
                s.push(c);
                self.pos += len;
            };
            if rest.starts_with('"') {
                self.pos += 1;
                return Ok(Cow::Owned(s));
            } else if rest.starts_with("\\\"") {
                escape('"', 2);
            } else if rest.starts_with("\\\\") {
                escape('\\', 2);
            } else if rest.starts_with("\\n") {
                escape('\n', 2);
            } else if rest.starts_with("\\t") {
                escape('\t', 2);
            } else if let Some(r) = rest.strip_prefix("\\u{") {
                let code = r.find('}').map(|n| (&r[..n], n)).filter(|(_, n)| (1..=6).contains(n));
                let c = code.and_then(|(h, n)| Some((char::from_u32(u32::from_str_radix(h, 16).ok()?)?, n)));
                match c {
                    Some((c, n)) => escape(c, n + 4),
                    None => return self.fail("a string has an escape `\\u{…}` that is not a character"),
                }
            } else if rest.starts_with('\\') {
                return self.fail("a string has an unknown escape; known are \\\" \\\\ \\n \\t \\u{…}");
            } else {
                return self.fail("a string does not end on its line");
            }
        }
    }
}
