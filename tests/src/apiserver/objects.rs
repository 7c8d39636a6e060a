//! The server's Nodes and pods, their versions, and the log of changes. Objects are kept as text, as in etcd: thousands of
//! Nodes of real size take no more memory than their text, and are sent as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::patch::{Kind, apply};

/// The most bytes that an object's annotations may have (`TotalAnnotationSizeLimitB` in apimachinery's validation).
const ANNOTATIONS: usize = 256 * 1024;

/// The text of an object, without its `kind` and `apiVersion`: as lists have it.
type Text = Arc<str>;

/// Nodes by name, as they were at one version.
type Nodes = BTreeMap<String, Text>;

/// One change, as a watch delivers it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) object: Text,
}

/// Why the server refuses a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    Absent,
    Exists,
    Conflict,
    Annotations,
}

/// What the server has.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    version: u64,
    nodes: Nodes,
    /// Pods by `NAMESPACE/NAME`.
    pods: BTreeMap<String, Value>,
    log: Vec<Change>,
    /// The oldest version from which a watch can continue.
    oldest: u64,
    /// The Nodes at the versions where a list in pages began.
    lists: BTreeMap<u64, Arc<Nodes>>,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) version: u64,
    /// The token of the next page; empty on the last one.
    pub(super) next: String,
    pub(super) items: Vec<Text>,
}

/// An object as it is sent alone: with its kind.
pub(super) fn whole(text: &str) -> String {
    format!(r#"{{"kind":"Node","apiVersion":"v1",{}"#, text.strip_prefix('{').unwrap_or(text))
}

fn parsed(text: &Text) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

impl Objects {
    /// The current version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Creates a Node, or replaces the one of this name.
    pub fn put(&mut self, mut node: Value) {
        let name = name_of(&node);
        self.version += 1;
        let known = self.nodes.get(&name).map(parsed);
        let created = known.as_ref().map(|node| node["metadata"]["creationTimestamp"].clone());
        // each Node is a second younger than the one before
        let created = created.unwrap_or_else(|| {
            let (minutes, seconds) = (self.version / 60 % 60, self.version % 60);
            json!(format!("2026-11-27T{:02}:{minutes:02}:{seconds:02}Z", self.version / 3600 % 24))
        });
        if let Some(fields) = node.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        node["metadata"]["creationTimestamp"] = created;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text: Text = node.to_string().into();
        self.log(if known.is_some() { "MODIFIED" } else { "ADDED" }, &text);
        self.nodes.insert(name, text);
    }

    /// Creates a Node of a client.
    pub(super) fn create(&mut self, node: Value) -> Result<String, Refused> {
        let name = name_of(&node);
        if self.nodes.contains_key(&name) {
            return Err(Refused::Exists);
        }
        self.put(node);
        Ok(self.text(&name).unwrap_or_default())
    }

    /// Changes a Node.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut node) = self.node(name) {
            change(&mut node);
            self.put(node);
        }
    }

    /// Deletes a Node. Returns whether there was one.
    pub fn delete(&mut self, name: &str) -> bool {
        let Some(text) = self.nodes.remove(name) else { return false };
        self.version += 1;
        let mut node = parsed(&text);
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log("DELETED", &node.to_string().into());
        true
    }

    fn log(&mut self, kind: &'static str, object: &Text) {
        self.log.push(Change { version: self.version, kind, object: object.clone() });
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<Value> {
        self.nodes.get(name).map(parsed)
    }

    /// A Node as it is sent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.nodes.get(name).map(|text| whole(text))
    }

    /// An annotation of a Node.
    pub fn annotation(&self, name: &str, key: &str) -> Option<String> {
        let value = &self.node(name)?["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{key}")];
        value.as_str().map(str::to_owned)
    }

    /// A condition of a Node.
    pub fn condition(&self, name: &str, kind: &str) -> Option<Value> {
        let node = self.node(name)?;
        let conditions = node["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind).cloned()
    }

    /// Says on which Node a pod runs.
    pub fn pod(&mut self, namespace: &str, name: &str, node: &str) {
        let pod = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": { "nodeName": node } });
        self.put_pod(namespace, pod);
    }

    pub(super) fn put_pod(&mut self, namespace: &str, mut pod: Value) {
        pod["kind"] = "Pod".into();
        pod["apiVersion"] = "v1".into();
        self.pods.insert(format!("{namespace}/{}", name_of(&pod)), pod);
    }

    pub(super) fn find_pod(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.pods.get(&format!("{namespace}/{name}"))
    }

    /// Forgets old changes and lists: a watch from an older version, and the next page of an older list, get 410.
    pub fn compact(&mut self) {
        self.log.clear();
        self.lists.clear();
        self.oldest = self.version;
    }

    /// The changes after `version`; `None` if they are forgotten.
    pub(super) fn since(&self, version: u64) -> Option<&[Change]> {
        let first = self.log.partition_point(|change| change.version <= version);
        (version >= self.oldest).then_some(&self.log[first..])
    }

    pub(super) fn all(&self) -> Vec<Text> {
        self.nodes.values().cloned().collect()
    }

    /// A page of at most `limit` Nodes (0: all). The pages of one list are of one version. `None`: that is forgotten.
    pub(super) fn page(&mut self, limit: usize, token: &str) -> Option<Page> {
        let (version, after) = match token.split_once('/') {
            Some((version, after)) => (version.parse().ok()?, Some(after)),
            None => (self.version, None),
        };
        let list = match after {
            Some(_) => self.lists.get(&version)?.clone(),
            None => Arc::new(self.nodes.clone()),
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut rest = list.iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        let page: Vec<(&String, &Text)> = rest.by_ref().take(limit).collect();
        let next = match (rest.next(), page.last()) {
            (Some(_), Some((last, _))) => format!("{version}/{last}"),
            _ => String::new(),
        };
        let items = page.into_iter().map(|(_, text)| text.clone()).collect();
        if !next.is_empty() {
            self.lists.insert(version, list);
        }
        Some(Page { version, next, items })
    }

    /// Applies a client's patch to a Node, or to its status: of the latter's patches the spec is left out. Returns the
    /// Node as it is sent.
    pub(super) fn patch(&mut self, name: &str, patch: &Value, kind: Kind, status: bool) -> Result<String, Refused> {
        let before = self.node(name).ok_or(Refused::Absent)?;
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
            return Err(Refused::Conflict);
        }
        let mut node = before.clone();
        apply(&mut node, patch, kind);
        let kept = if status { "spec" } else { "status" };
        node[kept] = before[kept].clone();
        let annotations = node["metadata"]["annotations"].as_object();
        let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
        if annotations.into_iter().flatten().map(size).sum::<usize>() > ANNOTATIONS {
            return Err(Refused::Annotations);
        }
        if node != before {
            self.put(node);
        }
        Ok(self.text(name).unwrap_or_default())
    }
}
