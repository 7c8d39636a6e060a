//! Tree to Rust types, by Go's rules of matching.

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::{Json, JsonError, same_key};

impl de::Error for JsonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Shape { path: String::new(), message: message.to_string() }
    }
}

impl JsonError {
    /// The same with one more step in front of its path.
    fn inside(self, step: &str) -> Self {
        let Self::Shape { path, message } = self else { return self };
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        Self::Shape { path: format!("{step}{dot}{path}"), message }
    }
}

impl Json {
    fn refuse<'de, V: Visitor<'de>>(&self, visitor: &V) -> JsonError {
        let found = match self {
            Self::Bool(b) => Unexpected::Bool(*b),
            Self::Number(text) => {
                return JsonError::invalid_type(Unexpected::Other(&format!("number {text}")), visitor);
            }
            Self::String(s) => Unexpected::Str(s),
            other => return JsonError::invalid_type(Unexpected::Other(other.kind()), visitor),
        };
        JsonError::invalid_type(found, visitor)
    }
}

fn number<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, JsonError> {
    if let Ok(n) = text.parse::<u64>() {
        visitor.visit_u64(n)
    } else if let Ok(n) = text.parse::<i64>() {
        visitor.visit_i64(n)
    } else {
        match text.parse::<f64>() {
            Ok(n) if n.is_finite() => visitor.visit_f64(n),
            _ => Err(JsonError::custom(format_args!("number {text} is out of range"))),
        }
    }
}

/// `null` is the zero value of whatever is wanted, as in a Go array or map.
macro_rules! null_is {
    ($($method:ident => $visit:ident($zero:expr)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            if *self == Json::Null { visitor.$visit($zero) } else { self.deserialize_any(visitor) }
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Json {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self {
            Json::Null => visitor.visit_unit(),
            Json::Bool(b) => visitor.visit_bool(*b),
            Json::Number(text) => number(text, visitor),
            Json::String(s) => visitor.visit_borrowed_str(s),
            Json::Array(elements) => visitor.visit_seq(Elements { elements: elements.iter(), at: 0 }),
            Json::Object(members) => {
                visitor.visit_map(Members { rest: members.iter().map(|(k, v)| (k.as_str(), v)), now: None })
            }
        }
    }

    null_is! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(0), deserialize_i16 => visit_i16(0), deserialize_i32 => visit_i32(0),
        deserialize_i64 => visit_i64(0), deserialize_i128 => visit_i128(0),
        deserialize_u8 => visit_u8(0), deserialize_u16 => visit_u16(0), deserialize_u32 => visit_u32(0),
        deserialize_u64 => visit_u64(0), deserialize_u128 => visit_u128(0),
        deserialize_f32 => visit_f32(0.0), deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_borrowed_str(""), deserialize_string => visit_borrowed_str(""),
        deserialize_seq => visit_seq(SeqDeserializer::new(std::iter::empty::<&str>())),
        deserialize_map => visit_map(MapDeserializer::new(std::iter::empty::<(&str, &str)>())),
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
            other => return Err(other.refuse(&visitor)),
        };
        let mut found: Vec<Option<&'de Json>> = vec![None; fields.len()];
        for (key, value) in members.iter().filter(|(_, value)| *value != Json::Null) {
            let field = fields.iter().position(|f| f == key).or_else(|| fields.iter().position(|f| same_key(f, key)));
            if let Some(place) = field.and_then(|i| found.get_mut(i)) {
                *place = Some(value);
            }
        }
        let pairs = fields.iter().zip(found).filter_map(|(field, value)| Some((*field, value?)));
        visitor.visit_map(Members { rest: pairs, now: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self {
            Json::String(s) => visitor.visit_enum(IntoDeserializer::<JsonError>::into_deserializer(s.as_str())),
            Json::Object(members) if members.len() == 1 => visitor.visit_enum(Variant(&members[0])),
            other => Err(other.refuse(&visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

/// Members of an object, or those a struct wants.
struct Members<'de, I> {
    rest: I,
    now: Option<(&'de str, &'de Json)>,
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

struct Elements<'de> {
    elements: std::slice::Iter<'de, Json>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = JsonError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        let Some(element) = self.elements.next() else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        seed.deserialize(element).map(Some).map_err(|e| e.inside(&format!("[{at}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

/// `{"variant": content}`
struct Variant<'de>(&'de (String, Json));

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = JsonError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), JsonError> {
        Ok((seed.deserialize(BorrowedStrDeserializer::<JsonError>::new(&self.0.0))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = JsonError;

    fn unit_variant(self) -> Result<(), JsonError> {
        Deserialize::deserialize(&self.0.1)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, JsonError> {
        seed.deserialize(&self.0.1)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, JsonError> {
        self.0.1.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], v: V) -> Result<V::Value, JsonError> {
        self.0.1.deserialize_struct("", fields, v)
    }
}

impl<'de> Deserialize<'de> for Json {
    /// Keeps order and duplicates. A number that no u64 or i64 holds keeps its value but not its text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Json, D::Error> {
        Json::deserialize(d)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        // `{:?}` keeps the fraction of 1500.0, so that an integer field still refuses it
        Ok(Json::Number(format!("{value:?}")))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
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
