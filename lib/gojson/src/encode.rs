//! Writes a tree as text with Go's escapes, number format and indentation.

use std::fmt;
use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::Json;

impl Json {
    /// The text that Go's `json.Marshal` writes: no spaces, keys in the order of the tree.
    ///
    /// ```
    /// let tree = gojson::Json::parse(br#"{"b": 1500.0, "a": "<&>"}"#).unwrap();
    /// assert_eq!(tree.compact(), r#"{"b":1500,"a":"\u003c\u0026\u003e"}"#);
    /// ```
    pub fn compact(&self) -> String {
        self.encode(CompactFormatter)
    }

    /// The text indented by 4 spaces, as Go's `json.MarshalIndent` writes it, without a final newline.
    pub fn pretty4(&self) -> String {
        self.encode(PrettyFormatter::with_indent(b"    "))
    }

    #[expect(clippy::expect_used, reason = "a tree has string keys, and memory takes every write")]
    fn encode<F: Formatter>(&self, formatter: F) -> String {
        let mut out = Vec::with_capacity(512);
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Go(formatter)));
        written.ok().and_then(|()| String::from_utf8(out).ok()).expect("a tree has a text")
    }
}

impl fmt::Display for Json {
    /// The text for messages: compact, without Go's escapes. A float keeps its decimal point.
    ///
    /// ```
    /// let tree = gojson::Json::parse(br#"{"b": 1500.0, "a": "<&>"}"#).unwrap();
    /// assert_eq!(tree.to_string(), r#"{"b":1500.0,"a":"<&>"}"#);
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::Number(n) => n.serialize(serializer),
            Self::String(s) => serializer.serialize_str(s),
            Self::Array(elements) => elements.serialize(serializer),
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

impl From<&[u8]> for Json {
    /// The string that Go writes for a `[]byte`: base64 with padding (RFC 4648 §4).
    ///
    /// ```
    /// assert_eq!(gojson::Json::from(b"fo".as_slice()).compact(), r#""Zm8=""#);
    /// ```
    fn from(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
            for i in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
                out.push(if i > chunk.len() { '=' } else { char::from(digit) });
            }
        }
        Self::String(out)
    }
}

/// Wraps a layout of serde_json and adds Go's strings and floats.
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
