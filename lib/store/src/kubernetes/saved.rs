//! The last known leases in a file, so that a host which starts while the API server is away has its network at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay::lease::{Annotations, Subnets};
use serde::{Deserialize, Serialize};

use super::nodes::{Nodes, Text};
use super::own::OwnNode;
use crate::files::{self, FileError};

/// The number of the format. A file of another format counts as missing.
const SCHEMA: u32 = 1;

/// The largest file that is read, in bytes. A lease has about 250; a cluster has at most some thousand Nodes.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What was known at one moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    schema: u32,
    /// Seconds since 1970.
    at: u64,
    /// The name of this host's Node.
    node: String,
    #[serde(default)]
    pod_cidrs: Vec<String>,
    #[serde(default)]
    annotations: Annotations,
    /// The leases by the names of their Nodes.
    leases: BTreeMap<String, Lease>,
}

/// A lease.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    /// The key as in etcd.
    subnets: String,
    /// The value as in etcd.
    value: String,
    /// When the Node was created, in seconds since 1970.
    created: u64,
}

impl Saved {
    /// What is known now.
    pub(super) fn now(name: &str, own: Option<&OwnNode>, nodes: &Nodes) -> Self {
        let lease = |(name, text): (&str, &Text)| {
            let Text { subnets, value, created } = text;
            (name.to_owned(), Lease { subnets: subnets.to_string(), value: value.to_string(), created: *created })
        };
        Self {
            schema: SCHEMA,
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            node: name.to_owned(),
            pod_cidrs: own.map(|own| own.cidrs.clone()).unwrap_or_default(),
            annotations: own.map(|own| own.annotations.clone()).unwrap_or_default(),
            leases: nodes.leases().map(lease).collect(),
        }
    }

    /// Reads the file. `None` if there is none that can be used.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let text = files::read_own(path, LARGEST).ok()?;
        serde_json::from_slice(&text).ok().filter(|saved: &Self| saved.schema == SCHEMA)
    }

    /// Replaces the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).map_err(|error| files::at("write", path)(error.into()))?;
        files::replace(path, &text)
    }

    /// When it was saved.
    pub(super) fn at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.at)).unwrap_or(UNIX_EPOCH)
    }

    /// This host's Node and its name.
    pub(super) fn own(&self) -> (&str, OwnNode) {
        let created = self.leases.get(&self.node).map(|lease| lease.created).unwrap_or_default();
        (&self.node, OwnNode { cidrs: self.pod_cidrs.clone(), annotations: self.annotations.clone(), created })
    }

    /// Adds the leases to `nodes`. An entry that is not a lease is left out.
    pub(super) fn restore(self, nodes: &mut Nodes) {
        for (name, Lease { subnets, value, created }) in self.leases {
            if let Ok(subnets) = subnets.parse::<Subnets>() {
                nodes.restore(&name, Text { subnets, value: value.into(), created });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay::net::ByFamily;

    use super::*;
    use crate::kubernetes::nodes::Rules;
    use crate::kubernetes::wire::Node;

    fn nodes() -> Nodes {
        let keys = "flannel.alpha.coreos.com".parse().unwrap();
        Nodes::new(Rules { keys, on: ByFamily { v4: true, v6: true } })
    }

    #[test]
    fn what_is_saved_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.json");
        let mut all = nodes();
        for n in 0..3 {
            let text = format!(
                r#"{{"metadata":{{"name":"n{n}","annotations":{{"flannel.alpha.coreos.com/kube-subnet-manager":"true",
                "flannel.alpha.coreos.com/backend-type":"host-gw","flannel.alpha.coreos.com/public-ip":"192.0.2.{n}"}}}},
                "spec":{{"podCIDR":"10.244.{n}.0/24"}}}}"#
            );
            let node: Node = serde_json::from_str(&text).unwrap();
            all.put(&node);
        }
        let own = OwnNode { cidrs: vec!["10.244.0.0/24".into()], annotations: Annotations::new(), created: 0 };
        Saved::now("n0", Some(&own), &all).write(&path).unwrap();
        let saved = Saved::read(&path).unwrap();
        assert_eq!(saved.own(), ("n0", own));
        assert!(saved.at() <= SystemTime::now());
        let mut restored = nodes();
        saved.restore(&mut restored);
        assert_eq!(restored.leases().collect::<Vec<_>>(), all.leases().collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_file_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.json");
        for text in ["", "{", "[]", r#"{"schema":2,"at":1,"node":"n","leases":{}}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(Saved::read(&path).is_none(), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Saved::read(&path).is_none());
    }
}
