//! Parses text into a tree: serde_json's grammar and limits, made as lenient as Go's.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::error::Category;

use crate::Json;

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is empty or ends too early. The message is Go's, because other programs look for it.
    #[error("unexpected end of JSON input")]
    Ended,
    /// The text is not one JSON document.
    #[error("{said}")]
    Syntax {
        /// The parser's message, such as `expected value at line 1 column 5`.
        said: String,
    },
    /// A value has the wrong type.
    #[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
    Shape {
        /// The value's path, such as `ipam.routes[2].dst`; empty for the whole document.
        path: String,
        /// The type that was found and the type that was expected.
        message: String,
    },
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            Category::Eof => Self::Ended,
            _ => Self::Syntax { said: error.to_string() },
        }
    }
}

/// How deep arrays and objects may nest: serde_json's limit. Go allows 10000. Real configurations stay far below both.
pub const MAX_DEPTH: usize = 127;

/// Decodes one document into `T`. Only white space may follow it.
///
/// `T` must not use `#[serde(flatten)]`: serde then requests a map and compares keys exactly. Parse the text once and
/// decode the tree twice instead.
///
/// # Errors
/// The text is not JSON, or a member has the wrong type; the error names the member.
///
/// ```
/// #[derive(Debug, serde::Deserialize, Default)]
/// #[serde(default)]
/// struct Conf { mtu: u32 }
/// let error = gojson::decode::<Conf>(br#"{"MTU": "1400"}"#).unwrap_err();
/// assert_eq!(error.to_string(), r#"mtu: invalid type: string "1400", expected u32"#);
/// ```
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    Json::parse(text)?.decode()
}

impl Json {
    /// Parses one document. Only white space may follow it.
    ///
    /// # Errors
    /// The text is not one JSON document; the error names line and column.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let text = String::from_utf8_lossy(text);
        Ok(serde_json::from_str(&without_halves(&text))?)
    }
}

/// Replaces unpaired surrogates by U+FFFD, as Go does. serde_json rejects them.
fn without_halves(text: &str) -> Cow<'_, str> {
    if !text.contains(r"\ud") && !text.contains(r"\uD") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let second = escape.get(6..).and_then(unit);
        let (said, length) = match unit(escape) {
            Some(0xd800..0xdc00) if matches!(second, Some(0xdc00..0xe000)) => (&escape[..12], 12),
            Some(0xd800..0xe000) => (r"\ufffd", 6),
            _ => {
                // the backslash takes the next character with it: `\\ud800` is an escaped backslash, not a surrogate
                let length = escape.chars().take(2).map(char::len_utf8).sum();
                (&escape[..length], length)
            }
        };
        out.push_str(said);
        rest = &escape[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The number of the `\uXXXX` at the start of `text`.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix(r"\u")?.get(..4)?, 16).ok()
}

impl<'de> Deserialize<'de> for Json {
    /// Keeps the order of keys, and repeated keys.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        // the parser returns only finite floats
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Json::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}
