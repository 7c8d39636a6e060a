//! JSON as Go's `encoding/json` reads and writes it, because every configuration was written for that reader.
//!
//! Where it differs from serde_json: keys match case-insensitively, the last of duplicate keys wins, `null` leaves the
//! default, an integer is not `1500.0`, invalid UTF-8 becomes U+FFFD, and `<`, `>`, `&` are written as `\u003c`,
//! `\u003e`, `\u0026`. One difference is deliberate: a duplicate key replaces an object, where Go would merge into it.
//!
//! ```
//! #[derive(serde::Deserialize, Default)]
//! #[serde(default)]
//! struct Conf { mtu: u32, ipam: cni::json::Json }
//! let conf: Conf = cni::json::decode(br#"{"MTU": 1400, "mtu": null, "ipam": {"type": "x"}}"#).unwrap();
//! assert_eq!(conf.mtu, 1400);
//! assert_eq!(conf.ipam.sorted().compact(), r#"{"type":"x"}"#);
//! ```
//!
//! Structs must not use `#[serde(flatten)]`: serde then asks for a map and matches keys itself, exactly. Decode the
//! same tree twice instead.

mod de;
mod encode;
mod net;
mod parse;
#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;

pub use encode::{EncodeError, quote, to_string, to_string_pretty4};
pub use net::{Cidr, Ip, parse_cidr, parse_ip};

/// A value as it was read: order and duplicates of keys are kept, numbers keep their text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// The text of the number.
    Number(String),
    /// Unescaped.
    String(String),
    /// `[…]`
    Array(Vec<Json>),
    /// `{…}`, in the order of the text.
    Object(Vec<(String, Json)>),
}

/// Why a text is not JSON, or not of the wanted shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text stops too early; empty input too.
    #[error("unexpected end of JSON input")]
    Ended,
    /// A character that cannot stand where it stands.
    #[error("invalid character {found} {place} (byte {offset})")]
    Character {
        /// Quoted.
        found: String,
        /// Such as "looking for beginning of value".
        place: String,
        /// From the start of the text, the first is 0.
        offset: usize,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth of {MAX_DEPTH}")]
    TooDeep,
    /// Valid JSON of the wrong type.
    #[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
    Shape {
        /// Such as `ipam.routes[2].dst`; empty for the whole document.
        path: String,
        /// What was found and what was wanted.
        message: String,
    },
}

/// Arrays and objects inside one another, at most. Go allows 10000; no configuration comes near either.
pub const MAX_DEPTH: usize = 500;

/// Reads a document into `T`; anything but white space after it is an error.
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    Json::parse(text)?.decode()
}

/// Whether two keys are the same to Go: Unicode simple folding, where only two other characters fold to ASCII letters.
/// `Go: encoding/json fold.go`
pub fn same_key(a: &str, b: &str) -> bool {
    a == b || a.chars().map(fold).eq(b.chars().map(fold))
}

fn fold(c: char) -> char {
    match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c if c.is_ascii() => c.to_ascii_lowercase(),
        c => {
            let mut lower = c.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(l), None) => l,
                _ => c,
            }
        }
    }
}

impl Json {
    /// Reads a whole text.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        parse::document(text)
    }

    /// Reads this tree into `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        T::deserialize(self)
    }

    /// The value of a key as a struct field of that name would get it: case-insensitive, last wins, `null` is absent.
    /// None on anything but an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().rev().find(|(k, v)| *v != Self::Null && same_key(k, key)).map(|(_, v)| v)
    }

    /// True when the key stands there, even as `null`.
    pub fn has(&self, key: &str) -> bool {
        matches!(self, Self::Object(members) if members.iter().any(|(k, _)| same_key(k, key)))
    }

    /// Puts a value in place of all members of that key (in any case). Anything but an object becomes one.
    pub fn set(&mut self, key: &str, value: Self) {
        self.remove(key);
        if let Self::Object(members) = self {
            members.push((key.to_owned(), value));
        } else {
            *self = Self::Object(vec![(key.to_owned(), value)]);
        }
    }

    /// Removes all members of that key, in any case.
    pub fn remove(&mut self, key: &str) {
        if let Self::Object(members) = self {
            members.retain(|(k, _)| !same_key(k, key));
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The members of an object, in the order of the text, with duplicates.
    pub fn as_object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(o) = self { Some(o) } else { None }
    }

    /// True for `null`, `{}` and `[]`.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Array(a) => a.is_empty(),
            Self::Object(o) => o.is_empty(),
            _ => false,
        }
    }

    /// What a Go map would keep of it: keys sorted by bytes at every level, the last of exact duplicates.
    pub fn sorted(&self) -> Self {
        match self {
            Self::Array(a) => Self::Array(a.iter().map(Self::sorted).collect()),
            Self::Object(members) => {
                let map: std::collections::BTreeMap<&String, &Self> = members.iter().map(|(k, v)| (k, v)).collect();
                Self::Object(map.into_iter().map(|(k, v)| (k.clone(), v.sorted())).collect())
            }
            other => other.clone(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<u32> for Json {
    fn from(value: u32) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<Vec<Self>> for Json {
    fn from(values: Vec<Self>) -> Self {
        Self::Array(values)
    }
}

impl<K: Into<String>> FromIterator<(K, Self)> for Json {
    fn from_iter<I: IntoIterator<Item = (K, Self)>>(members: I) -> Self {
        Self::Object(members.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }
}
