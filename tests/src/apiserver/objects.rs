//! The server's Nodes and pods, their versions, and the log of changes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One change, as a watch delivers it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) event: Value,
}

/// What the server has.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// The Nodes of pods, by `NAMESPACE/NAME`.
    pods: BTreeMap<String, String>,
    log: Vec<Change>,
    /// The oldest version from which a watch can continue.
    oldest: u64,
}

impl Objects {
    /// The current version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Creates a Node, or replaces the one of this name.
    pub fn put(&mut self, mut node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.version += 1;
        let known = self.nodes.get(&name);
        let created = known.map(|node| node["metadata"]["creationTimestamp"].clone());
        // each Node is a second younger than the one before
        let created = created.unwrap_or_else(|| {
            let (minutes, seconds) = (self.version / 60 % 60, self.version % 60);
            json!(format!("2026-11-27T{:02}:{minutes:02}:{seconds:02}Z", self.version / 3600 % 24))
        });
        node["metadata"]["creationTimestamp"] = created;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log(if known.is_some() { "MODIFIED" } else { "ADDED" }, &node);
        self.nodes.insert(name, node);
    }

    /// Changes a Node.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut node) = self.nodes.get(name).cloned() {
            change(&mut node);
            self.put(node);
        }
    }

    /// Deletes a Node.
    pub fn delete(&mut self, name: &str) {
        if let Some(mut node) = self.nodes.remove(name) {
            self.version += 1;
            node["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.log("DELETED", &node);
        }
    }

    fn log(&mut self, kind: &str, node: &Value) {
        self.log.push(Change { version: self.version, event: json!({ "type": kind, "object": node }) });
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.get(name)
    }

    /// An annotation of a Node.
    pub fn annotation(&self, name: &str, key: &str) -> Option<String> {
        let value = &self.nodes.get(name)?["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{key}")];
        value.as_str().map(str::to_owned)
    }

    /// A condition of a Node.
    pub fn condition(&self, name: &str, kind: &str) -> Option<Value> {
        let conditions = self.nodes.get(name)?["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind).cloned()
    }

    /// Says on which Node a pod runs.
    pub fn pod(&mut self, namespace: &str, name: &str, node: &str) {
        self.pods.insert(format!("{namespace}/{name}"), node.to_owned());
    }

    pub(super) fn pod_node(&self, namespace: &str, name: &str) -> Option<&str> {
        self.pods.get(&format!("{namespace}/{name}")).map(String::as_str)
    }

    /// Forgets old changes: a watch from an older version gets 410.
    pub fn compact(&mut self) {
        self.log.clear();
        self.oldest = self.version;
    }

    /// The changes after `version`; `None` if they are forgotten.
    pub(super) fn since(&self, version: u64) -> Option<&[Change]> {
        let first = self.log.partition_point(|change| change.version <= version);
        (version >= self.oldest).then_some(&self.log[first..])
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Value> {
        self.nodes.values()
    }

    /// A page of at most `limit` Nodes (0: all), after the one that `token` names.
    pub(super) fn page(&self, limit: usize, token: &str) -> Value {
        let after = self.nodes.iter().filter(|(name, _)| token.is_empty() || name.as_str() > token);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let items: Vec<&Value> = after.clone().take(limit).map(|(_, node)| node).collect();
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if after.count() > limit {
            metadata["continue"] = items.last().map(|node| node["metadata"]["name"].clone()).unwrap_or_default();
        }
        json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items })
    }

    /// Applies a strategic merge patch to a Node's status: conditions are merged by their type. `None`: no such Node.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) -> Option<Value> {
        let mut node = self.nodes.get(name)?.clone();
        let before = node.clone();
        if let (Some(node), Some(patch)) = (node.as_object_mut(), patch.as_object()) {
            merge(node, patch);
        }
        if node != before {
            self.put(node);
        }
        self.nodes.get(name).cloned()
    }
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => drop(target.remove(key)),
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            (Some(Value::Array(all)), Value::Array(patch)) if key == "conditions" => merge_conditions(all, patch),
            _ => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

fn merge_conditions(all: &mut Vec<Value>, patch: &[Value]) {
    for new in patch {
        let known = all.iter_mut().find(|known| known["type"] == new["type"]);
        match (known.and_then(Value::as_object_mut), new.as_object()) {
            (Some(known), Some(new)) => merge(known, new),
            _ => all.push(new.clone()),
        }
    }
}
