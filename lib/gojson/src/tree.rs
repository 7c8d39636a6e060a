//! The tree, and the look-up of keys by Go's rules.

use std::collections::BTreeMap;

use serde_json::Number;

/// A JSON value as it was read. Objects keep the order of keys, and repeated keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number. Whole numbers keep up to 64 bits; all others are floats. `1500.0` is a float, not the integer 1500.
    Number(Number),
    /// A string, without escapes.
    String(String),
    /// `[…]`
    Array(Vec<Json>),
    /// `{…}`, in the order of the text.
    Object(Vec<(String, Json)>),
}

/// Whether two keys are the same for Go: Unicode simple folding, by which only two other characters fold to ASCII
/// letters. `Go: encoding/json fold.go`
///
/// ```
/// assert!(gojson::same_key("cniVersion", "CNIVERSION"));
/// ```
pub fn same_key(a: &str, b: &str) -> bool {
    let ascii = a.is_ascii() && b.is_ascii();
    if ascii { a.eq_ignore_ascii_case(b) } else { a.chars().map(fold).eq(b.chars().map(fold)) }
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
    /// The value of a key by the rules for a struct field: any case, the last one wins, `null` counts as absent. `None`
    /// if this is not an object.
    ///
    /// ```
    /// let tree = gojson::Json::parse(br#"{"Type": "a", "type": "b", "TYPE": null}"#).unwrap();
    /// assert_eq!(tree.get("type").and_then(|kind| kind.as_str()), Some("b"));
    /// ```
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().rev().find(|(k, v)| *v != Self::Null && same_key(k, key)).map(|(_, v)| v)
    }

    /// Whether the key is present, in any case, even as `null`.
    pub fn has(&self, key: &str) -> bool {
        matches!(self, Self::Object(members) if members.iter().any(|(k, _)| same_key(k, key)))
    }

    /// Removes all members with that key, in any case, and appends one. Turns any other value into an object first.
    pub fn set(&mut self, key: &str, value: Self) {
        self.remove(key);
        if let Self::Object(members) = self {
            members.push((key.to_owned(), value));
        } else {
            *self = Self::Object(vec![(key.to_owned(), value)]);
        }
    }

    /// Removes all members with that key, in any case.
    pub fn remove(&mut self, key: &str) {
        if let Self::Object(members) = self {
            members.retain(|(k, _)| !same_key(k, key));
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// The value, if this is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The number, if it is whole and not negative. `None` for `1500.0`.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(n) = self { n.as_u64() } else { None }
    }

    /// The elements, if this is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The members in the order of the text, repeated keys included, if this is an object.
    pub fn as_object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(o) = self { Some(o) } else { None }
    }

    /// The value as a Go map keeps it: keys sorted by bytes at every level; of equal keys the last wins.
    pub fn sorted(&self) -> Self {
        match self {
            Self::Array(a) => Self::Array(a.iter().map(Self::sorted).collect()),
            Self::Object(members) => {
                let map: BTreeMap<&String, &Self> = members.iter().map(|(k, v)| (k, v)).collect();
                Self::Object(map.into_iter().map(|(k, v)| (k.clone(), v.sorted())).collect())
            }
            other => other.clone(),
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
        Self::Number(value.into())
    }
}

impl From<u32> for Json {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
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
