//! Taking the fields of an object one by one, with every mistake collected.

use std::borrow::Cow;
use std::fmt::Display;

use crate::{Json, same_key};

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", if .field.is_empty() { "the whole" } else { .field })]
pub struct Wrong {
    /// The field with the objects around it: `Backend.Port`. Empty at the top.
    pub field: String,
    /// Such as `must be a string, not 7`.
    pub what: String,
}

impl Wrong {
    fn type_of(field: String, wanted: &str, found: &Json) -> Self {
        Self { field, what: format!("must be {wanted}, not {found}") }
    }
}

/// A type that a field can be read as.
pub trait Field: Sized {
    /// What an error says the field must be.
    const WANTED: &'static str;
    /// `null` is a value like any other here, and does not leave the default.
    const READS_NULL: bool = false;
    /// The value, if it has the right type.
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

/// Anything, `null` too: Go's `json.RawMessage`.
impl Field for Json {
    const WANTED: &'static str = "a value";
    const READS_NULL: bool = true;
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
    path: Cow<'a, str>,
    fields: &'a [(String, Json)],
    taken: Vec<bool>,
    repeated: Vec<String>,
    wrong: Vec<Wrong>,
}

impl<'a> Reader<'a> {
    /// Reads `value`, which must be an object; `path` names it in messages (`Backend`, `peers[0]`, or empty at the top).
    /// `null` is an object without fields, as for Go.
    ///
    /// # Errors
    /// Anything else.
    pub fn new(path: impl Into<Cow<'a, str>>, value: &'a Json) -> Result<Self, Wrong> {
        let path = path.into();
        let fields = match value {
            Json::Object(fields) => fields.as_slice(),
            Json::Null => &[],
            other => return Err(Wrong::type_of(path.into_owned(), "an object", other)),
        };
        Ok(Self { path, fields, taken: vec![false; fields.len()], repeated: Vec::new(), wrong: Vec::new() })
    }

    /// The value of the field `name`, in whatever case its key is written; `None` when absent, `null` or wrong.
    pub fn take<T: Field>(&mut self, name: &str) -> Option<T> {
        self.last(name, T::WANTED, T::READS_NULL, T::read)
    }

    /// The same by a function, which gives nothing for what is not as `wanted`; `null` is absent.
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

    /// True when the field is there in any case, and not `null`. That takes nothing.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, value)| *value != Json::Null && same_key(key, name))
    }

    /// Adds a mistake of the caller's: what is wrong with the field `name`.
    pub fn wrong(&mut self, name: &str, what: impl Display) {
        self.wrong.push(Wrong { field: join(&self.path, name), what: what.to_string() });
    }

    /// The mistakes so far, in order, and what was not taken.
    pub fn finish(self) -> (Vec<Wrong>, Leftovers) {
        let rest = self.fields.iter().zip(&self.taken).filter(|(_, taken)| !**taken);
        let unknown = rest.map(|((key, _), _)| join(&self.path, key)).collect();
        (self.wrong, Leftovers { unknown, repeated: self.repeated })
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
