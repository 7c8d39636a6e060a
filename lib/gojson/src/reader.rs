//! Reads an object field by field and collects every mistake.

use std::borrow::Cow;
use std::fmt::Display;

use crate::{Json, same_key};

/// A mistake in one field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", if .field.is_empty() { "the whole" } else { .field })]
pub struct Wrong {
    /// The field's path, such as `Backend.Port`. Empty for the document itself.
    pub field: String,
    /// The mistake, such as `must be a string, not 7`.
    pub what: String,
}

impl Wrong {
    fn type_of(field: String, wanted: &str, found: &Json) -> Self {
        Self { field, what: format!("must be {wanted}, not {found}") }
    }
}

/// A type that a field can have.
pub trait Field: Sized {
    /// What an error message says that the field must be.
    const WANTED: &'static str;
    /// Whether `null` is a value. Default: `false`, so that `null` leaves the default.
    const READS_NULL: bool = false;
    /// The value; `None` if it has the wrong type.
    fn read(value: &Json) -> Option<Self>;
}

impl Field for bool {
    const WANTED: &'static str = "true or false";
    fn read(value: &Json) -> Option<Self> {
        value.as_bool()
    }
}

impl Field for u64 {
    const WANTED: &'static str = "a whole number that is not negative";
    fn read(value: &Json) -> Option<Self> {
        value.as_u64()
    }
}

impl Field for String {
    const WANTED: &'static str = "a string";
    fn read(value: &Json) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

/// Accepts any value, `null` included, as Go's `json.RawMessage` does.
impl Field for Json {
    const WANTED: &'static str = "a value";
    const READS_NULL: bool = true;
    fn read(value: &Json) -> Option<Self> {
        Some(value.clone())
    }
}

/// What a [`Reader`] found that is not a mistake but deserves a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// The paths of keys that nobody took.
    pub unknown: Vec<String>,
    /// The paths of keys that occur more than once. The last value is used.
    pub repeated: Vec<String>,
}

/// Takes the fields of one JSON object.
#[derive(Debug)]
pub struct Reader<'a> {
    path: Cow<'a, str>,
    fields: &'a [(String, Json)],
    taken: Vec<bool>,
    repeated: Vec<String>,
    wrong: Vec<Wrong>,
}

impl<'a> Reader<'a> {
    /// Starts to read `value`, which must be an object. `path` names it in messages: `Backend`, `peers[0]`, or empty
    /// for the document itself. As in Go, `null` is an object without fields.
    ///
    /// # Errors
    /// `value` is neither an object nor `null`.
    pub fn new(path: impl Into<Cow<'a, str>>, value: &'a Json) -> Result<Self, Wrong> {
        let path = path.into();
        let fields = match value {
            Json::Object(fields) => fields.as_slice(),
            Json::Null => &[],
            other => return Err(Wrong::type_of(path.into_owned(), "an object", other)),
        };
        Ok(Self { path, fields, taken: vec![false; fields.len()], repeated: Vec::new(), wrong: Vec::new() })
    }

    /// The value of the field `name`; the key's case does not matter. `None` if it is absent, `null` or wrong. A wrong
    /// value is noted as a mistake.
    pub fn take<T: Field>(&mut self, name: &str) -> Option<T> {
        self.last(name, T::WANTED, T::READS_NULL, T::read)
    }

    /// As [`Reader::take`], with a function that reads the value. If `read` returns `None`, the mistake says that the
    /// field must be `wanted`. `null` counts as absent.
    ///
    /// ```
    /// let tree = gojson::Json::parse(br#"{"gateway": "10.0.0.256"}"#).unwrap();
    /// let mut reader = gojson::Reader::new("peers[0]", &tree).unwrap();
    /// let gateway = reader.take_with("gateway", "an address", |value| gojson::parse_ip(value.as_str()?));
    /// assert_eq!(gateway, None);
    /// let wrong = &reader.finish().0[0];
    /// assert_eq!(wrong.to_string(), r#"peers[0].gateway must be an address, not "10.0.0.256""#);
    /// ```
    pub fn take_with<T>(&mut self, name: &str, wanted: &str, read: impl Fn(&Json) -> Option<T>) -> Option<T> {
        self.last(name, wanted, false, read)
    }

    fn last<T>(&mut self, name: &str, wanted: &str, nulls: bool, read: impl Fn(&Json) -> Option<T>) -> Option<T> {
        let mut last = None;
        let mut count = 0;
        for (taken, (key, value)) in self.taken.iter_mut().zip(self.fields) {
            if !same_key(key, name) {
                continue;
            }
            *taken = true;
            count += 1;
            if *value == Json::Null && !nulls {
                continue;
            }
            match read(value) {
                Some(read) => last = Some(read),
                None => self.wrong.push(Wrong::type_of(join(&self.path, name), wanted, value)),
            }
        }
        if count > 1 {
            self.repeated.push(join(&self.path, name));
        }
        last
    }

    /// Whether the field is present, in any case, and not `null`. Takes nothing.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, value)| *value != Json::Null && same_key(key, name))
    }

    /// Adds a mistake that the caller found in the field `name`.
    pub fn wrong(&mut self, name: &str, what: impl Display) {
        self.wrong.push(Wrong { field: join(&self.path, name), what: what.to_string() });
    }

    /// The mistakes, in order, and the leftovers.
    pub fn finish(self) -> (Vec<Wrong>, Leftovers) {
        let rest = self.fields.iter().zip(&self.taken).filter(|(_, taken)| !**taken);
        let unknown = rest.map(|((key, _), _)| join(&self.path, key)).collect();
        (self.wrong, Leftovers { unknown, repeated: self.repeated })
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
