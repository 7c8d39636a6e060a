//! Text to tree: serde_json's grammar and limits, made as lenient as Go's.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::error::Category;

use crate::Json;

/// Why a text is not JSON, or not of the wanted shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text stops too early; empty input too. Go's words, which other programs look for.
    #[error("unexpected end of JSON input")]
    Ended,
    /// The text is not one JSON document.
    #[error("{said}")]
    Syntax {
        /// Such as `expected value at line 1 column 5`.
        said: String,
    },
    /// Valid JSON of the wrong type.
    #[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
    Shape {
        /// Such as `ipam.routes[2].dst`; empty for the whole document.
        path: String,
        /// What was found and what was wanted.
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

/// Arrays and objects inside one another, at most: serde_json's limit. Go allows 10000; no configuration comes near
/// either.
pub const MAX_DEPTH: usize = 127;

/// Reads a document into `T`; anything but white space after it is an error.
///
/// `T` must not use `#[serde(flatten)]`: serde then asks for a map and matches keys itself, exactly. Parse the text once
/// and decode the tree twice instead.
///
/// # Errors
/// The text is not JSON, or a member has another type than `T` wants; the error names the member.
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
    /// Reads one document; anything but white space after it is an error.
    ///
    /// # Errors
    /// What is wrong with the text, with line and column.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let text = String::from_utf8_lossy(text);
        Ok(serde_json::from_str(&without_halves(&text))?)
    }
}

/// Writes U+FFFD for half a surrogate pair, as Go reads it; serde_json refuses one.
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
                // the character after a backslash belongs to it: `\\ud800` has no escape but the first
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

/// The number of a `\uXXXX` at the beginning.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix(r"\u")?.get(..4)?, 16).ok()
}

impl<'de> Deserialize<'de> for Json {
    /// Keeps the order and the duplicates of keys.
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
        // the parser yields no other floats than finite ones
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
