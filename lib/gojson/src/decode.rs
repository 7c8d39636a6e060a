//! Decodes a tree into Rust types by Go's rules.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use crate::{Json, JsonError, same_key};

impl Json {
    /// Decodes this tree into `T`, as [`crate::decode`] does.
    ///
    /// # Errors
    /// A member has the wrong type; the error names the member.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        T::deserialize(self)
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Other("null"),
            Self::Bool(b) => Unexpected::Bool(*b),
            Self::Number(_) => Unexpected::Other("number"),
            Self::String(s) => Unexpected::Str(s),
            Self::Array(_) => Unexpected::Other("array"),
            Self::Object(_) => Unexpected::Other("object"),
        }
    }
}

impl de::Error for JsonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Shape { path: String::new(), message: message.to_string() }
    }
}

impl JsonError {
    /// The error with one more step in front of its path.
    fn inside(self, step: &str) -> Self {
        let Self::Shape { path, message } = self else { return self };
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        Self::Shape { path: format!("{step}{dot}{path}"), message }
    }
}

/// `null` becomes the zero value of the type, as in a Go array or map.
macro_rules! null_is {
    ($($visit:ident($zero:expr): $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            if *self == Json::Null { visitor.$visit($zero) } else { self.deserialize_any(visitor) }
        }
    )*)*};
}

impl<'de> Deserializer<'de> for &'de Json {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self {
            Json::Null => visitor.visit_unit(),
            Json::Bool(b) => visitor.visit_bool(*b),
            Json::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => visitor.visit_u64(n),
                (_, Some(n)) => visitor.visit_i64(n),
                _ => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            },
            Json::String(s) => visitor.visit_borrowed_str(s),
            Json::Array(elements) => visitor.visit_seq(Elements::of(elements)),
            Json::Object(members) => visitor.visit_map(Members::of(members.iter().map(|(k, v)| (k.as_str(), v)))),
        }
    }

    null_is! {
        visit_bool(false): deserialize_bool;
        visit_u64(0): deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
            deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
            deserialize_f32 deserialize_f64;
        visit_borrowed_str(""): deserialize_str deserialize_string;
        visit_seq(Elements::of(&[])): deserialize_seq;
        visit_map(Members::of(std::iter::empty())): deserialize_map;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if *self == Json::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let members = match self {
            Json::Object(members) => members.as_slice(),
            Json::Null => &[],
            other => return Err(JsonError::invalid_type(other.unexpected(), &visitor)),
        };
        let mut found: Vec<Option<&'de Json>> = vec![None; fields.len()];
        for (key, value) in members.iter().filter(|(_, value)| *value != Json::Null) {
            let field = fields.iter().position(|f| f == key).or_else(|| fields.iter().position(|f| same_key(f, key)));
            if let Some(place) = field.and_then(|i| found.get_mut(i)) {
                *place = Some(value);
            }
        }
        visitor.visit_map(Members::of(fields.iter().zip(found).filter_map(|(field, value)| Some((*field, value?)))))
    }

    /// Accepts variants without data, by their names.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self {
            Json::String(s) => visitor.visit_enum(s.as_str().into_deserializer()),
            other => Err(JsonError::invalid_type(other.unexpected(), &visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

/// The members of an object, or only those that a struct has.
struct Members<'de, I> {
    rest: I,
    now: Option<(&'de str, &'de Json)>,
}

impl<'de, I: Iterator<Item = (&'de str, &'de Json)>> Members<'de, I> {
    fn of(rest: I) -> Self {
        Self { rest, now: None }
    }
}

impl<'de, I: Iterator<Item = (&'de str, &'de Json)>> MapAccess<'de> for Members<'de, I> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        self.now = self.rest.next();
        self.now.map(|(key, _)| seed.deserialize(BorrowedStrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, JsonError> {
        let (key, value) = self.now.take().ok_or_else(|| JsonError::custom("value asked for before its key"))?;
        seed.deserialize(value).map_err(|e| e.inside(key))
    }
}

struct Elements<'de>(std::iter::Enumerate<std::slice::Iter<'de, Json>>);

impl<'de> Elements<'de> {
    fn of(elements: &'de [Json]) -> Self {
        Self(elements.iter().enumerate())
    }
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = JsonError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        let Some((at, element)) = self.0.next() else { return Ok(None) };
        seed.deserialize(element).map(Some).map_err(|e| e.inside(&format!("[{at}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}
