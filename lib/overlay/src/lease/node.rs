//! The lease of a Kubernetes Node, which upstream keeps in `spec.podCIDRs` and in annotations. Pure.
//!
//! `kubectl annotate node NAME --list` prints the annotations; `kubectl get node NAME -o jsonpath={.spec.podCIDRs}`
//! prints the subnets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use gojson::{Json, JsonError};
use kernel::types::Family;

use super::{LeaseAttrs, Subnets};
use crate::net::{ByFamily, parse_cidr};

/// Annotations of a Node by their keys.
pub type Annotations = BTreeMap<String, String>;

/// The longest annotation that is read, in bytes. A lease's have about 100.
const LONGEST: usize = 16 * 1024;

/// The keys of flannel's annotations, which start with `--kube-annotation-prefix`.
///
/// ```
/// let keys: overlay::lease::NodeKeys = "flannel.alpha.coreos.com".parse()?;
/// assert_eq!(keys.key("public-ip"), "flannel.alpha.coreos.com/public-ip");
/// let keys: overlay::lease::NodeKeys = "example.org/net".parse()?;
/// assert_eq!(keys.key("public-ip"), "example.org/net-public-ip");
/// # Ok::<(), overlay::lease::PrefixError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKeys {
    prefix: String,
}

/// A text that cannot be the prefix of annotations. Upstream's words, for which people search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The prefix has two slashes or more.
    #[error("subnet/kube: prefix can contain at most single slash")]
    Slashes,
    /// The part before the slash is not a domain, or the part behind it has other characters.
    #[error("subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*")]
    Format,
}

impl FromStr for NodeKeys {
    type Err = PrefixError;

    /// Follows upstream: a prefix without a slash gets one, and a part behind the slash is separated by `-`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if text.matches('/').count() > 1 {
            return Err(PrefixError::Slashes);
        }
        let mut prefix = text.to_owned();
        if !prefix.contains('/') {
            prefix.push('/');
        }
        if !prefix.ends_with(['/', '-']) {
            prefix.push('-');
        }
        let (domain, rest) = prefix.split_once('/').unwrap_or_default();
        let plain = |part: &str| part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        let labels: Vec<&str> = domain.split('.').collect();
        let is_domain = labels.len() > 1 && labels.iter().all(|label| !label.is_empty() && plain(label));
        if is_domain && plain(rest) { Ok(Self { prefix }) } else { Err(PrefixError::Format) }
    }
}

/// Why a Node has no lease that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The controller manager has assigned no subnet yet.
    #[error("no podCIDR is assigned")]
    Unassigned,
    /// `spec.podCIDRs` contains something else than a prefix.
    #[error("podCIDR {0:?} is not a prefix")]
    Cidr(String),
    /// `spec.podCIDRs` has more than one prefix of a family.
    #[error("node pod cidrs should be IPv4/IPv6 only or dualstack, not {0}")]
    Several(String),
    /// An annotation that every lease needs is missing.
    #[error("the annotation {0} is missing")]
    Missing(String),
    /// An annotation is not an address of its family.
    #[error("the annotation {key} is {value:?}, which is not an address of its family")]
    Address {
        /// The annotation's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// An annotation is not JSON.
    #[error("the annotation {key} is not JSON: {source}")]
    Json {
        /// The annotation's key.
        key: String,
        /// The parser's error.
        source: JsonError,
    },
    /// An annotation is longer than any lease needs.
    #[error("the annotation {0} is longer than 16 KiB")]
    TooLong(String),
    /// An older Node has the same subnets.
    #[error("the node {holder} has the same podCIDR and is older")]
    Held {
        /// The name of the Node that keeps the subnets.
        holder: String,
    },
}

/// The subnets that a Node has: its `podCIDRs`, or, where they are empty, its `podCIDR`. Only families in `on` count.
///
/// # Errors
/// No subnet is assigned, one is not a prefix, or a family has several.
pub fn assigned(pod_cidrs: &[String], on: ByFamily<bool>) -> Result<Subnets, NodeError> {
    let mut subnets = Subnets::default();
    for text in pod_cidrs.iter().filter(|text| !text.is_empty()) {
        let net = parse_cidr(text).ok_or_else(|| NodeError::Cidr(shown(text)))?;
        if subnets.get(Family::from(net)).is_some() {
            return Err(NodeError::Several(shown(&pod_cidrs.join(","))));
        }
        subnets.set(net);
    }
    let wanted: Subnets = subnets.iter().filter(|net| *on.get(Family::from(*net))).collect();
    if wanted.is_empty() { Err(NodeError::Unassigned) } else { Ok(wanted) }
}

/// Cuts a text of somebody else for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl NodeKeys {
    /// The full key of one of flannel's annotations, such as `public-ip`.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether `key` is one of flannel's annotations.
    pub fn has(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
    }

    fn get<'a>(&self, annotations: &'a Annotations, name: &str) -> Option<&'a str> {
        annotations.get(&self.key(name)).map(String::as_str)
    }

    /// Whether a flanneld has claimed the Node (`kube-subnet-manager`).
    pub fn is_claimed(&self, annotations: &Annotations) -> bool {
        self.get(annotations, "kube-subnet-manager") == Some("true")
    }

    /// What the host of a Node publishes.
    ///
    /// # Errors
    /// An annotation is missing or cannot be read.
    pub fn attrs(&self, annotations: &Annotations) -> Result<LeaseAttrs, NodeError> {
        let name = "backend-type";
        let backend_type = self.get(annotations, name).ok_or_else(|| NodeError::Missing(self.key(name)))?;
        let public_ip = self.address::<Ipv4Addr>(annotations, "public-ip")?.filter(|addr| !addr.is_unspecified());
        let public_ipv6 = self.address::<Ipv6Addr>(annotations, "public-ipv6")?.filter(|addr| !addr.is_unspecified());
        if public_ip.is_none() && public_ipv6.is_none() {
            return Err(NodeError::Missing(self.key("public-ip")));
        }
        Ok(LeaseAttrs {
            public_ip,
            public_ipv6,
            backend_type: shown(backend_type),
            backend_data: self.data(annotations, "backend-data")?,
            backend_v6_data: self.data(annotations, "backend-v6-data")?,
        })
    }

    fn address<A: FromStr>(&self, annotations: &Annotations, name: &str) -> Result<Option<A>, NodeError> {
        let Some(value) = self.get(annotations, name).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| NodeError::Address { key: self.key(name), value: shown(value) })
    }

    fn data(&self, annotations: &Annotations, name: &str) -> Result<Option<Json>, NodeError> {
        let Some(value) = self.get(annotations, name).filter(|value| !value.is_empty()) else { return Ok(None) };
        if value.len() > LONGEST {
            return Err(NodeError::TooLong(self.key(name)));
        }
        let json = Json::parse(value.as_bytes());
        let json = json.map_err(|source| NodeError::Json { key: self.key(name), source })?;
        Ok(Some(json).filter(|json| *json != Json::Null))
    }

    /// The addresses that the operator sets for flanneld itself (`node-public-ip`, `node-public-ipv6`). They replace
    /// `--public-ip` and `--public-ipv6`.
    ///
    /// # Errors
    /// An annotation is not an address.
    pub fn own_addresses(&self, annotations: &Annotations) -> Result<ByFamily<Option<IpAddr>>, NodeError> {
        Ok(ByFamily {
            v4: self.address::<Ipv4Addr>(annotations, "node-public-ip")?.map(IpAddr::V4),
            v6: self.address::<Ipv6Addr>(annotations, "node-public-ipv6")?.map(IpAddr::V6),
        })
    }

    /// `attrs` with the addresses that the operator wants published instead (`public-ip-overwrite`,
    /// `public-ipv6-overwrite`). The host itself keeps its own.
    ///
    /// # Errors
    /// An annotation is not an address.
    pub fn overwritten(&self, attrs: &LeaseAttrs, annotations: &Annotations) -> Result<LeaseAttrs, NodeError> {
        let v4 = self.address::<Ipv4Addr>(annotations, "public-ip-overwrite")?;
        let v6 = self.address::<Ipv6Addr>(annotations, "public-ipv6-overwrite")?;
        let public_ip = attrs.public_ip.map(|own| v4.unwrap_or(own));
        let public_ipv6 = attrs.public_ipv6.map(|own| v6.unwrap_or(own));
        Ok(LeaseAttrs { public_ip, public_ipv6, ..attrs.clone() })
    }

    /// The annotations that differ from what `attrs` needs, with their new values: what a patch of the Node sets.
    pub fn patch(&self, attrs: &LeaseAttrs, annotations: &Annotations) -> Annotations {
        let data = |json: &Option<Json>| json.as_ref().map_or_else(|| "null".to_owned(), Json::compact);
        let mut wanted = vec![("kube-subnet-manager", "true".to_owned()), ("backend-type", attrs.backend_type.clone())];
        if let Some(addr) = attrs.public_ip {
            wanted.extend([("public-ip", addr.to_string()), ("backend-data", data(&attrs.backend_data))]);
        }
        if let Some(addr) = attrs.public_ipv6 {
            wanted.push(("public-ipv6", addr.to_string()));
            // upstream writes these data only for backends that have some
            let stale = annotations.contains_key(&self.key("backend-v6-data"));
            if attrs.backend_v6_data.is_some() || attrs.backend_type == "host-gw" || stale {
                wanted.push(("backend-v6-data", data(&attrs.backend_v6_data)));
            }
        }
        let keyed = wanted.into_iter().map(|(name, value)| (self.key(name), value));
        keyed.filter(|(key, value)| annotations.get(key) != Some(value)).collect()
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
