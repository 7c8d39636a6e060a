//! Patches of objects: strategic merge patches and JSON merge patches (RFC 7396).

use serde_json::{Map, Value};

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lists with a merge key are merged by it: of a Node, the conditions by their `type`.
    Strategic,
    /// Lists are replaced.
    Merge,
}

impl Kind {
    /// The kind with this content type.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type {
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/merge-patch+json" => Some(Self::Merge),
            _ => None,
        }
    }
}

pub(super) fn apply(target: &mut Value, patch: &Value, kind: Kind) {
    if let (Some(target), Some(patch)) = (target.as_object_mut(), patch.as_object()) {
        merge(target, patch, kind);
    }
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>, kind: Kind) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => drop(target.remove(key)),
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch, kind),
            (None, Value::Object(patch)) => {
                // the nulls of a patch are not stored
                let mut inner = Map::new();
                merge(&mut inner, patch, kind);
                target.insert(key.clone(), inner.into());
            }
            (Some(Value::Array(all)), Value::Array(patch)) if key == "conditions" && kind == Kind::Strategic => {
                merge_conditions(all, patch);
            }
            _ => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

fn merge_conditions(all: &mut Vec<Value>, patch: &[Value]) {
    for new in patch {
        let known = all.iter_mut().find(|known| known["type"] == new["type"]);
        match (known.and_then(Value::as_object_mut), new.as_object()) {
            (Some(known), Some(new)) => merge(known, new, Kind::Strategic),
            _ => all.push(new.clone()),
        }
    }
}
