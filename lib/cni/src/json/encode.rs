//! Values to text with Go's escapes, number format and indentation.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use super::Json;

/// A value that JSON cannot express, such as a map whose keys are no strings.
#[derive(Debug, thiserror::Error)]
#[error("not expressible as JSON: {0}")]
pub struct EncodeError(#[from] serde_json::Error);

/// Compact; the keys of a struct in the order of its fields.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, EncodeError> {
    encode(value, CompactFormatter)
}

/// Indented by 4 spaces, without a newline at the end.
pub fn to_string_pretty4<T: Serialize + ?Sized>(value: &T) -> Result<String, EncodeError> {
    encode(value, PrettyFormatter::with_indent(b"    "))
}

fn encode<T: Serialize + ?Sized, F: Formatter>(value: &T, formatter: F) -> Result<String, EncodeError> {
    let mut out = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Go(formatter)))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

impl Json {
    /// Without spaces, in the order of the tree.
    pub fn compact(&self) -> String {
        infallible(to_string(self))
    }

    /// Indented by 4 spaces, without a newline at the end, in the order of the tree.
    pub fn pretty4(&self) -> String {
        infallible(to_string_pretty4(self))
    }
}

#[expect(clippy::expect_used, reason = "a tree has string keys and finite numbers, and memory takes every write")]
fn infallible(text: Result<String, EncodeError>) -> String {
    text.expect("a tree is always expressible")
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::Number(text) => match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(n), ..) => serializer.serialize_u64(n),
                // -0 is a float's only
                (_, Ok(n), _) if n != 0 => serializer.serialize_i64(n),
                (.., Ok(n)) => serializer.serialize_f64(n),
                _ => serializer.serialize_unit(),
            },
            Self::String(s) => serializer.serialize_str(s),
            Self::Array(elements) => {
                let mut seq = serializer.serialize_seq(Some(elements.len()))?;
                for element in elements {
                    seq.serialize_element(element)?;
                }
                seq.end()
            }
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// The inner layout, with Go's strings and floats.
struct Go<F>(F);

macro_rules! forward {
    ($($method:ident($($arg:ident: $ty:ty)?);)*) => {$(
        fn $method<W: ?Sized + Write>(&mut self, w: &mut W $(, $arg: $ty)?) -> io::Result<()> {
            self.0.$method(w $(, $arg)?)
        }
    )*};
}

impl<F: Formatter> Formatter for Go<F> {
    forward! {
        begin_array(); end_array(); begin_array_value(first: bool); end_array_value();
        begin_object(); end_object(); begin_object_key(first: bool); end_object_key();
        begin_object_value(); end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            let mut chars = from.chars();
            let c = chars.next().unwrap_or_default();
            write!(w, "{before}\\u{:04x}", u32::from(c))?;
            rest = chars.as_str();
        }
        w.write_all(rest.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, w: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            write!(w, "{value}")
        } else {
            let text = format!("{value:e}");
            w.write_all(if text.contains("e-") { text } else { text.replace('e', "e+") }.as_bytes())
        }
    }
}

/// A text in double quotes as Go's `%q` prints it, which the protocol's messages use.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
