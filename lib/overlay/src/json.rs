//! Go's JSON dialect for the documents this crate reads: keys match in any case, the last of several equal keys wins,
//! `null` leaves the default, a wrong type is a mistake, and so is anything after the document.
//!
//! A [`Reader`] takes fields by name and remembers which were taken, so that what remains can be named. It collects
//! every mistake instead of stopping at the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A JSON value that keeps the order of keys, and all of several equal ones.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number; whole ones keep their value exactly up to 64 bits.
    Number(serde_json::Number),
    /// A string
    String(String),
    /// An array
    Array(Vec<Json>),
    /// An object, in the order of the text.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one document. Bytes after it are an error, white space aside.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

impl fmt::Display for Json {
    /// Compact, as Go's `json.Marshal` prints it but for its escapes of `<`, `>` and `&`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => out.serialize_unit(),
            Self::Bool(b) => out.serialize_bool(*b),
            Self::Number(n) => n.serialize(out),
            Self::String(s) => out.serialize_str(s),
            Self::Array(items) => items.serialize(out),
            Self::Object(fields) => {
                let mut map = out.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
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
        Ok(serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}

/// A field that has another type than it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} must be {wanted}, not {found}", if .field.is_empty() { "the whole" } else { .field })]
pub struct WrongType {
    /// The field with the objects around it: `Backend.Port`. Empty at the top.
    pub field: String,
    /// What it must be.
    pub wanted: &'static str,
    /// What is there, as compact JSON.
    pub found: String,
}

/// A type that a field can be read as.
pub trait Field: Sized {
    /// What an error says the field must be.
    const WANTED: &'static str;
    /// `null` is a wrong value here and not the default.
    const NULL_IS_WRONG: bool = false;
    /// The value, if it has the right type.
    fn read(value: &Json) -> Option<Self>;
}

impl Field for bool {
    const WANTED: &'static str = "true or false";
    fn read(value: &Json) -> Option<Self> {
        if let Json::Bool(b) = value { Some(*b) } else { None }
    }
}

impl Field for u64 {
    const WANTED: &'static str = "a whole number that is not negative";
    fn read(value: &Json) -> Option<Self> {
        if let Json::Number(n) = value { n.as_u64() } else { None }
    }
}

impl Field for String {
    const WANTED: &'static str = "a string";
    fn read(value: &Json) -> Option<Self> {
        if let Json::String(s) = value { Some(s.clone()) } else { None }
    }
}

/// Anything, `null` too: Go's `json.RawMessage`.
impl Field for Json {
    const WANTED: &'static str = "a value";
    const NULL_IS_WRONG: bool = true;
    fn read(value: &Json) -> Option<Self> {
        Some(value.clone())
    }
}

/// What a [`Reader`] found that is no mistake but worth a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// Keys that nobody took, with the objects around them.
    pub unknown: Vec<String>,
    /// Keys that occur more than once, by the name of the field; the last one counted.
    pub repeated: Vec<String>,
}

/// Takes the fields of one JSON object.
#[derive(Debug)]
pub struct Reader<'a> {
    path: &'a str,
    fields: &'a [(String, Json)],
    taken: Vec<bool>,
    repeated: Vec<String>,
    wrong: Vec<WrongType>,
}

impl<'a> Reader<'a> {
    /// Reads `value`, which must be an object; `path` names it in messages (`Backend`, or empty at the top).
    /// `null` is an object without fields, as for Go.
    pub fn new(path: &'a str, value: &'a Json) -> Result<Self, WrongType> {
        let fields = match value {
            Json::Object(fields) => fields.as_slice(),
            Json::Null => &[],
            other => {
                return Err(WrongType { field: path.into(), wanted: "an object", found: other.to_string() });
            }
        };
        Ok(Self { path, fields, taken: vec![false; fields.len()], repeated: Vec::new(), wrong: Vec::new() })
    }

    /// The value of the field `name`, in whatever case its key is written; `None` when absent, `null` or wrong.
    pub fn take<T: Field>(&mut self, name: &str) -> Option<T> {
        let mut last = None;
        let mut count = 0;
        for (taken, (key, value)) in self.taken.iter_mut().zip(self.fields) {
            if !key.eq_ignore_ascii_case(name) {
                continue;
            }
            *taken = true;
            count += 1;
            if *value == Json::Null && !T::NULL_IS_WRONG {
                continue;
            }
            match T::read(value) {
                Some(read) => last = Some(read),
                None => self.wrong.push(WrongType {
                    field: join(self.path, name),
                    wanted: T::WANTED,
                    found: value.to_string(),
                }),
            }
        }
        if count > 1 {
            self.repeated.push(join(self.path, name));
        }
        last
    }

    /// The mistakes so far, and what was not taken.
    pub fn finish(self) -> (Vec<WrongType>, Leftovers) {
        let rest = self.fields.iter().zip(&self.taken).filter(|(_, taken)| !**taken);
        let unknown = rest.map(|((key, _), _)| join(self.path, key)).collect();
        (self.wrong, Leftovers { unknown, repeated: self.repeated })
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_tree_keeps_order_and_numbers() {
        let text = r#"{"b":1,"a":[true,null,-2,1.5,18446744073709551615],"b":{"Z":"é","A":""}}"#;
        assert_eq!(tree(text).to_string(), text);
        for bad in ["", "{} x", "{}{}", "{\"a\":1,}", "[1"] {
            assert!(Json::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_taken_as_go_takes_them() {
        let doc = tree(r#"{"PORT":1,"Port":2,"port":null,"Other":{},"mtu":null}"#);
        let mut reader = Reader::new("Backend", &doc).unwrap();
        assert_eq!(reader.take::<u64>("Port"), Some(2), "the last that is not null");
        assert_eq!(reader.take::<u64>("MTU"), None);
        let (wrong, rest) = reader.finish();
        assert_eq!(wrong, []);
        assert_eq!(rest, Leftovers { unknown: vec!["Backend.Other".into()], repeated: vec!["Backend.Port".into()] });
    }

    #[test]
    fn every_wrong_type_is_named() {
        let doc = tree(r#"{"Port":"8472","MTU":1500.0,"GBP":0}"#);
        let mut reader = Reader::new("Backend", &doc).unwrap();
        assert_eq!((reader.take::<u64>("Port"), reader.take::<u64>("MTU")), (None, None));
        assert_eq!(reader.take::<bool>("GBP"), None);
        let said: Vec<String> = reader.finish().0.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                r#"Backend.Port must be a whole number that is not negative, not "8472""#,
                "Backend.MTU must be a whole number that is not negative, not 1500.0",
                "Backend.GBP must be true or false, not 0",
            ]
        );
        assert!(Reader::new("", &tree("[]")).is_err() && Reader::new("", &Json::Null).is_ok());
    }
}
