//! The parts of the API's objects that a lease needs. Everything else is skipped when an object is read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use overlay::lease::Annotations;
use serde::Deserialize;

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Node {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: Spec,
}

/// A Node's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default)]
    pub(super) creation_timestamp: Option<Time>,
    #[serde(default)]
    pub(super) annotations: Option<Annotations>,
}

/// A Node's subnets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Spec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: String,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

impl Spec {
    /// The assigned subnets. Old clusters set only `podCIDR`.
    pub(super) fn cidrs(&self) -> &[String] {
        match self.pod_cidrs.is_empty() {
            true => std::slice::from_ref(&self.pod_cidr),
            false => &self.pod_cidrs,
        }
    }
}

/// A page of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Page {
    pub(super) metadata: PageMeta,
    #[serde(default)]
    pub(super) items: Vec<Node>,
}

/// A page's metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    /// The token of the next page; empty on the last one.
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}

/// The Node of a pod.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Pod {
    #[serde(default)]
    pub(super) spec: PodSpec,
}

/// Where a pod runs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    pub(super) node_name: String,
}

/// A Node with its conditions, which only its own host reads.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Conditioned {
    #[serde(default)]
    pub(super) status: Status,
}

/// A Node's conditions.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
}

impl Node {
    /// When the Node was created, in seconds since 1970; 0 if that is unknown.
    pub(super) fn created(&self) -> u64 {
        let seconds = self.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_without_what_no_lease_needs() {
        let text = r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","uid":"u","resourceVersion":"200",
            "creationTimestamp":"2026-11-27T20:00:00Z","labels":{"a":"b"},"annotations":{"k":"v"},
            "managedFields":[{"manager":"kubelet"}]},"spec":{"podCIDR":"10.244.0.0/24","podCIDRs":["10.244.0.0/24"],
            "taints":[{"key":"x"}]},"status":{"images":[{"names":["x"]}],"conditions":[{"type":"Ready","status":"True"}]}}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!((node.metadata.name.as_str(), node.spec.cidrs()), ("n1", &["10.244.0.0/24".to_owned()][..]));
        assert_eq!(node.created(), 1_795_809_600);
        let conditions = serde_json::from_str::<Conditioned>(text).unwrap().status.conditions;
        assert_eq!(conditions[0].kind, "Ready");
        let bare: Node = serde_json::from_str(r#"{"metadata":{"name":"n2","annotations":null}}"#).unwrap();
        assert_eq!((bare.spec.cidrs(), bare.created()), (&[String::new()][..], 0));
        let old: Node = serde_json::from_str(r#"{"metadata":{},"spec":{"podCIDR":"10.244.9.0/24"}}"#).unwrap();
        assert_eq!(old.spec.cidrs(), ["10.244.9.0/24"]);
    }
}
