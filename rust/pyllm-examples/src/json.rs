//! A strict JSON parser (RFC 8259) over text, with Python's words for what is wrong and where.

use crate::strings::{characters, special};
use crate::values::{Member, Store, Text, Value};

/// A record nested deeper than this is bad.
pub(crate) const MAX_NESTING: usize = 64;
/// As many digits as Python reads of an integer.
const MAX_DIGITS: usize = 4300;

/// Why text is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is no JSON at this byte.
    Syntax(&'static str, usize),
    /// NaN or an infinity.
    Constant(&'static str),
    /// An integer of that many digits.
    Digits(usize),
    /// Nested too deep.
    Deep,
    /// Half of a surrogate pair.
    HalfPair,
    /// It is something else than an object.
    Kind(&'static str),
}

impl Problem {
    /// What is wrong with the record that `text` begins with.
    pub(crate) fn reason(self, text: &str) -> String {
        match self {
            Self::Syntax(reason, at) => {
                let column = characters(&text.as_bytes()[..at.min(text.len())]) + 1;
                format!("is not valid JSON: {reason} (column {column})")
            }
            Self::Constant(name) => format!("holds {name}, which is not JSON"),
            Self::Digits(found) => format!(
                "exceeds the limit ({MAX_DIGITS} digits) for integer string conversion: value has {found} digits; \
                 use sys.set_int_max_str_digits() to increase the limit"
            ),
            Self::Deep => format!("is nested deeper than {MAX_NESTING} levels"),
            Self::HalfPair => "holds half of a surrogate pair, which is no text".to_owned(),
            Self::Kind(kind) => format!("is {kind}, not an object"),
        }
    }
}

const EXPECTING_VALUE: &str = "expecting value";
const EXPECTING_COMMA: &str = "expecting ',' delimiter";
const EXPECTING_COLON: &str = "expecting ':' delimiter";
const EXPECTING_KEY: &str = "expecting property name enclosed in double quotes";
const UNTERMINATED: &str = "unterminated string starting at";
const CONTROL: &str = "invalid control character at";
const ESCAPE: &str = "invalid \\escape";
const UNICODE_ESCAPE: &str = "invalid \\uXXXX escape";

/// What stands where a row should.
#[derive(Clone, Copy)]
enum Found<'a> {
    /// An object, whose members begin there.
    Row(usize),
    /// Something else.
    Other(Value<'a>),
}

/// Parses one value after another out of a text into a store.
pub(crate) struct Parser<'s, 'a> {
    text: &'s str,
    /// The same text where it outlives the store; else strings are copied.
    lasting: Option<&'a str>,
    pub(crate) at: usize,
    constants: bool,
    half_pair: bool,
}

impl<'a> Parser<'a, 'a> {
    /// A parser of input.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, lasting: Some(text), at: 0, constants: false, half_pair: false }
    }
}

impl<'s, 'a> Parser<'s, 'a> {
    /// A parser of text that was itself a value; NaN and infinities pass, as with `json.loads`.
    pub(crate) fn inner(text: &'s str) -> Self {
        Self { text, lasting: None, at: 0, constants: true, half_pair: false }
    }

    /// A whole record: one object. Returns where its members begin in the store; equal keys are not merged.
    pub(crate) fn record(&mut self, store: &mut Store<'a>) -> Result<usize, Problem> {
        self.blanks();
        let found = self.row(store)?;
        self.blanks();
        if self.at != self.text.len() {
            return Err(Problem::Syntax("extra data", self.at));
        }
        self.sound(found)
    }

    /// One element of an array; the rest as for a record.
    pub(crate) fn element(&mut self, store: &mut Store<'a>) -> Result<usize, Problem> {
        self.half_pair = false;
        let found = self.row(store)?;
        self.sound(found)
    }

    /// A whole text that holds any value.
    pub(crate) fn whole(&mut self, store: &mut Store<'a>) -> Result<Value<'a>, Problem> {
        self.blanks();
        let value = self.value(store, 0)?;
        self.blanks();
        if self.at != self.text.len() {
            return Err(Problem::Syntax("extra data", self.at));
        }
        Ok(value)
    }

    /// Whether what was parsed holds half of a surrogate pair.
    pub(crate) fn half_pair(&self) -> bool {
        self.half_pair
    }

    fn sound(&self, found: Found<'a>) -> Result<usize, Problem> {
        let kind = match found {
            Found::Row(_) if self.half_pair => return Err(Problem::HalfPair),
            Found::Row(start) => return Ok(start),
            Found::Other(Value::Null) => "null",
            Found::Other(Value::Bool(_)) => "true or false",
            Found::Other(Value::Int(_) | Value::Big(_) | Value::Float(_)) => "a number",
            Found::Other(Value::Text(_)) => "text",
            Found::Other(Value::List(..)) => "a list",
            Found::Other(Value::Object(..) | Value::Foreign(..)) => "an object",
        };
        Err(Problem::Kind(kind))
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(crate) fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn row(&mut self, store: &mut Store<'a>) -> Result<Found<'a>, Problem> {
        if self.peek() == Some(b'{') {
            self.members(store, 1)?;
            Ok(Found::Row(store.close_row()))
        } else {
            self.value(store, 0).map(Found::Other)
        }
    }

    fn value(&mut self, store: &mut Store<'a>, depth: usize) -> Result<Value<'a>, Problem> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string(store)?)),
            Some(b'{' | b'[') if depth == MAX_NESTING => Err(Problem::Deep),
            Some(b'{') => {
                let base = store.open_members.len();
                self.members(store, depth + 1)?;
                Ok(store.close_object(base))
            }
            Some(b'[') => {
                let base = store.open_items.len();
                self.list(store, depth + 1)?;
                Ok(store.close_list(base))
            }
            Some(b'-' | b'0'..=b'9') => self.number(store),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Value<'a>, Problem> {
        let rest = &self.text.as_bytes()[self.at..];
        let (length, value) = if rest.starts_with(b"null") {
            (4, Value::Null)
        } else if rest.starts_with(b"true") {
            (4, Value::Bool(true))
        } else if rest.starts_with(b"false") {
            (5, Value::Bool(false))
        } else if rest.starts_with(b"NaN") {
            (3, self.constant("NaN", f64::NAN)?)
        } else if rest.starts_with(b"Infinity") {
            (8, self.constant("Infinity", f64::INFINITY)?)
        } else {
            return Err(Problem::Syntax(EXPECTING_VALUE, self.at));
        };
        self.at += length;
        Ok(value)
    }

    fn constant(&self, name: &'static str, value: f64) -> Result<Value<'a>, Problem> {
        if self.constants { Ok(Value::Float(value)) } else { Err(Problem::Constant(name)) }
    }

    /// The members of the object that begins here, put behind the store's open ones.
    fn members(&mut self, store: &mut Store<'a>, depth: usize) -> Result<(), Problem> {
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Problem::Syntax(EXPECTING_KEY, self.at));
            }
            let key = self.string(store)?;
            self.blanks();
            if self.peek() != Some(b':') {
                return Err(Problem::Syntax(EXPECTING_COLON, self.at));
            }
            self.at += 1;
            self.blanks();
            let value = self.value(store, depth)?;
            store.open_members.push(Member { key, value });
            self.blanks();
            match self.peek() {
                Some(b'}') => break,
                Some(b',') => self.at += 1,
                _ => return Err(Problem::Syntax(EXPECTING_COMMA, self.at)),
            }
            self.blanks();
        }
        self.at += 1;
        Ok(())
    }

    /// The items of the list that begins here, put behind the store's open ones.
    fn list(&mut self, store: &mut Store<'a>, depth: usize) -> Result<(), Problem> {
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let value = self.value(store, depth)?;
            store.open_items.push(value);
            self.blanks();
            match self.peek() {
                Some(b']') => break,
                Some(b',') => self.at += 1,
                _ => return Err(Problem::Syntax(EXPECTING_COMMA, self.at)),
            }
            self.blanks();
        }
        self.at += 1;
        Ok(())
    }

    /// The string whose opening mark stands here.
    fn string(&mut self, store: &mut Store<'a>) -> Result<Text<'a>, Problem> {
        let opening = self.at;
        let bytes = self.text.as_bytes();
        let end = special(bytes, opening + 1);
        if bytes.get(end) != Some(&b'"') {
            return self.escaped(store, opening, end);
        }
        self.at = end + 1;
        Ok(match self.lasting {
            Some(text) => Text::Sound(&text[opening + 1..end]),
            None => store.keep(&self.text[opening + 1..end]),
        })
    }

    /// The rest of a string from its first backslash on (or from what must not stand there).
    #[cold]
    #[inline(never)]
    fn broken(&self, opening: usize, at: usize) -> Problem {
        if at < self.text.len() { Problem::Syntax(CONTROL, at) } else { Problem::Syntax(UNTERMINATED, opening) }
    }

    fn escaped(&mut self, store: &mut Store<'a>, opening: usize, mut at: usize) -> Result<Text<'a>, Problem> {
        let bytes = self.text.as_bytes();
        let start = store.buffer().len();
        let mut copied = opening + 1;
        let mut canonical = true;
        loop {
            store.buffer().push_str(&self.text[copied..at]);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {}
                _ => return Err(self.broken(opening, at)),
            }
            let letter = bytes.get(at + 1).ok_or(Problem::Syntax(UNTERMINATED, opening))?;
            let plain = match letter {
                b'"' => '"',
                b'\\' => '\\',
                b'/' => {
                    canonical = false;
                    '/'
                }
                b'b' => '\x08',
                b'f' => '\x0c',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => {
                    let (found, next) = self.code_point(at)?;
                    canonical &= is_canonical_escape(&bytes[at..next]);
                    at = next - 2;
                    found
                }
                _ => return Err(Problem::Syntax(ESCAPE, at)),
            };
            store.buffer().push(plain);
            copied = at + 2;
            at = special(bytes, copied);
        }
        self.at = at + 1;
        let spelling = self.lasting.filter(|_| canonical).map(|text| &text[opening + 1..at]);
        Ok(Text::Stored(store.entry(start, spelling)))
    }

    /// The character that `\uXXXX`, alone or as a pair, stands for, and where it ends.
    fn code_point(&mut self, at: usize) -> Result<(char, usize), Problem> {
        let bytes = self.text.as_bytes();
        let wrong = Problem::Syntax(UNICODE_ESCAPE, at + 1);
        let first = hex(bytes, at + 2).ok_or(wrong)?;
        if bytes.len() <= at + 6 {
            return Err(wrong);
        }
        if (0xd800..0xdc00).contains(&first) && bytes[at + 6..].starts_with(b"\\u") && bytes.len() > at + 12 {
            let second = hex(bytes, at + 8).ok_or(Problem::Syntax(UNICODE_ESCAPE, at + 7))?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok((char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER), at + 12));
            }
        }
        let found = char::from_u32(first).unwrap_or_else(|| {
            self.half_pair = true;
            char::REPLACEMENT_CHARACTER
        });
        Ok((found, at + 6))
    }

    fn number(&mut self, store: &mut Store<'a>) -> Result<Value<'a>, Problem> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let first = start + usize::from(bytes[start] == b'-');
        let mut at = digits(bytes, first);
        if at == first {
            if bytes[first..].starts_with(b"Infinity") {
                let value = self.constant("-Infinity", f64::NEG_INFINITY)?;
                self.at = first + 8;
                return Ok(value);
            }
            return Err(Problem::Syntax(EXPECTING_VALUE, start));
        }
        if bytes[first] == b'0' {
            at = first + 1;
        }
        let whole = at;
        if bytes.get(at) == Some(&b'.') && digits(bytes, at + 1) > at + 1 {
            at = digits(bytes, at + 1);
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let end = digits(bytes, at + 1 + sign);
            if end > at + 1 + sign {
                at = end;
            }
        }
        self.at = at;
        let text = &self.text[start..at];
        if at > whole {
            // Whatever is spelled like this is a number.
            return Ok(Value::Float(text.parse().unwrap_or(f64::NAN)));
        }
        if whole - first > MAX_DIGITS {
            return Err(Problem::Digits(whole - first));
        }
        Ok(match (text.parse(), self.lasting) {
            (Ok(number), _) => Value::Int(number),
            (Err(_), Some(lasting)) => Value::Big(Text::Sound(&lasting[start..at])),
            (Err(_), None) => Value::Big(store.keep(text)),
        })
    }
}

fn digits(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let mut number = 0;
    for &byte in bytes.get(at..at + 4)? {
        number = number * 16 + char::from(byte).to_digit(16)?;
    }
    Some(number)
}

/// Whether canonical JSON spells a control character just so.
fn is_canonical_escape(escape: &[u8]) -> bool {
    match escape {
        [b'\\', b'u', b'0', b'0', b'0', low] => matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f'),
        [b'\\', b'u', b'0', b'0', b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::json_text;

    fn read(text: &str) -> Result<String, Problem> {
        let mut store = Store::default();
        let value = Parser::new(text).whole(&mut store)?;
        Ok(json_text(&store, value))
    }

    #[test]
    fn values_come_back_as_canonical_json() {
        for (text, canonical) in [
            (
                r#" {"b": [1, -0, 2.50], "a": {"z": null, "é": true}, "b": false} "#,
                r#"{"a":{"z":null,"é":true},"b":false}"#,
            ),
            (r#""\u0041\/\n\"\\\u001f\u0009\ud83d\ude00\u00e9""#, "\"A/\\n\\\"\\\\\\u001f\\t😀é\""),
            (
                "[123456789012345678901234567890, 9223372036854775808, -9223372036854775808]",
                "[123456789012345678901234567890,9223372036854775808,-9223372036854775808]",
            ),
            (
                "[1e400, 1e5, 0.1e-6, 1E+2, -0.0, 1e16, 123456789012345680.0]",
                "[null,100000.0,1e-07,100.0,-0.0,1e+16,1.2345678901234568e+17]",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(canonical), "{text}");
            let mut store = Store::default();
            let value = Parser::inner(text).whole(&mut store).expect("parses");
            assert_eq!(json_text(&store, value), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, reason, at) in [
            ("{", EXPECTING_KEY, 1),
            (r#"{"a" 1}"#, EXPECTING_COLON, 5),
            (r#"{"a":1,}"#, EXPECTING_KEY, 7),
            (r#"{"a":1 "b":2}"#, EXPECTING_COMMA, 7),
            ("[1 2]", EXPECTING_COMMA, 3),
            ("[01]", EXPECTING_COMMA, 2),
            ("[1.]", EXPECTING_COMMA, 2),
            ("[1e]", EXPECTING_COMMA, 2),
            ("[-]", EXPECTING_VALUE, 1),
            ("[", EXPECTING_VALUE, 1),
            ("nul", EXPECTING_VALUE, 0),
            ("1 2", "extra data", 2),
            (r#""abc"#, UNTERMINATED, 0),
            (r#""abc\"#, UNTERMINATED, 0),
            ("\"a\tb\"", CONTROL, 2),
            (r#""\x""#, ESCAPE, 1),
            (r#""\u12g4""#, UNICODE_ESCAPE, 2),
            (r#""\u12"#, UNICODE_ESCAPE, 2),
        ] {
            assert_eq!(read(text), Err(Problem::Syntax(reason, at)), "{text}");
        }
        assert_eq!(read("[NaN"), Err(Problem::Constant("NaN")));
        assert_eq!(read("-Infinity"), Err(Problem::Constant("-Infinity")));
        assert_eq!(read(&"9".repeat(4301)), Err(Problem::Digits(4301)));
        assert_eq!(read(&"[".repeat(65)), Err(Problem::Deep));
        assert!(read(&("[".repeat(64) + &"]".repeat(64))).is_ok());
    }

    #[test]
    fn half_pairs_are_noticed() {
        for (text, half) in [(r#""\ud83d\ude00""#, false), (r#""\ud83d""#, true), (r#""\ude00\ud83dx""#, true)] {
            let mut store = Store::default();
            let mut parser = Parser::new(text);
            parser.whole(&mut store).expect("parses");
            assert_eq!(parser.half_pair(), half, "{text}");
        }
    }
}
