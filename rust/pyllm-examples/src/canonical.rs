//! The one JSON spelling of a value, as `canonical_json` of `pyllm.provenance` writes it: sorted keys, no spaces,
//! characters as they are, numbers as Python prints them. What JSON cannot hold becomes null.

use std::fmt::Write;

use crate::strings::special;
use crate::values::{Store, Text, Value};

/// Canonical JSON of a value as new text.
pub(crate) fn json_text(store: &Store<'_>, value: Value<'_>) -> String {
    let mut out = String::new();
    write_value(&mut out, store, value);
    out
}

/// Appends the canonical JSON of a value.
pub(crate) fn write_value<'a>(out: &mut String, store: &Store<'a>, value: Value<'a>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if yes { "true" } else { "false" }),
        Value::Int(number) => write_int(out, number),
        Value::Big(digits) => out.push_str(store.text(digits)),
        Value::Float(number) => write_float(out, number),
        Value::Text(text) => write_text(out, store, text),
        Value::Foreign(_, entry) => write_text(out, store, Text::Stored(entry)),
        Value::List(start, len) => {
            out.push('[');
            for (place, &item) in store.items(start, len).iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_value(out, store, item);
            }
            out.push(']');
        }
        Value::Object(start, len) => {
            let mut members: Vec<_> = store.object(start, len).iter().collect();
            // Bytes of UTF-8 sort as code points do, which is how Python sorts text.
            members.sort_by(|a, b| store.text(a.key).cmp(store.text(b.key)));
            out.push('{');
            for (place, member) in members.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_text(out, store, member.key);
                out.push(':');
                write_value(out, store, member.value);
            }
            out.push('}');
        }
    }
}

/// Appends text with its quotation marks.
pub(crate) fn write_text<'a>(out: &mut String, store: &Store<'a>, text: Text<'a>) {
    out.push('"');
    match store.canonical(text) {
        Some(spelling) => out.push_str(spelling),
        None => write_escaped(out, store.text(text)),
    }
    out.push('"');
}

fn write_escaped(out: &mut String, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    loop {
        let at = special(bytes, copied);
        out.push_str(&text[copied..at]);
        let Some(&byte) = bytes.get(at) else { return };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => write(out, format_args!("\\u{control:04x}")),
        }
        copied = at + 1;
    }
}

fn write_int(out: &mut String, number: i64) {
    write(out, format_args!("{number}"));
}

/// A number as Python prints it: its shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn write_float(out: &mut String, number: f64) {
    if !number.is_finite() {
        out.push_str("null");
        return;
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = match exponent.strip_prefix('-') {
            Some(power) => ('-', power),
            None => ('+', exponent),
        };
        write(out, format_args!("{digits}e{sign}{power:0>2}"));
        return;
    }
    // Debug keeps the `.0`, and its own exponents begin just there.
    write(out, format_args!("{number:?}"));
}

fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelled_as_python_does() {
        for (number, spelled) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (9.999e-5, "9.999e-05"),
            (5e-324, "5e-324"),
            (1e15, "1000000000000000.0"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (-2.5e-7, "-2.5e-07"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
        ] {
            let mut out = String::new();
            write_float(&mut out, number);
            assert_eq!(out, spelled);
        }
    }

    #[test]
    fn text_is_escaped_as_python_does() {
        let mut store = Store::default();
        let text = store.keep("a\"\\\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}é😀/");
        let expected = "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}é😀/\"";
        assert_eq!(json_text(&store, Value::Text(text)), expected);
        assert_eq!(json_text(&store, Value::Text(Text::Plain("a\tb"))), "\"a\\tb\"");
    }
}
