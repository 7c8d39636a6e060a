//! What the Kubernetes store is opened with.

use std::path::PathBuf;
use std::time::Duration;

use overlay::lease::NodeKeys;

/// A restart of flanneld must not move pods to other Nodes.
pub const HYSTERESIS: Duration = Duration::from_secs(30);

/// The default of [`Options::answer`].
pub const ANSWER: Duration = Duration::from_secs(30);

/// How to reach the API server, and which Node this host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The API server's URL (`--kube-api-url`). Default: the one in the kubeconfig file, or the cluster's own service.
    pub api_url: Option<String>,
    /// The kubeconfig file (`--kubeconfig-file`). Default: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The annotations' keys (`--kube-annotation-prefix`).
    pub keys: NodeKeys,
    /// The network's configuration (`--net-config-path`).
    pub net_config: PathBuf,
    /// This host's Node.
    pub node: NodeName,
    /// How long the data path must be down before the Node's condition NetworkUnavailable says so, by default [`HYSTERESIS`];
    /// `None`: the condition is left alone (`--set-node-network-unavailable=false`).
    pub set_network_unavailable: Option<Duration>,
    /// The file of the last known leases. flanneld starts from it while the API server is away.
    pub saved: PathBuf,
    /// How long the server may take to answer. Default: [`ANSWER`].
    pub answer: Duration,
}

/// How this host's Node is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeName {
    /// `NODE_NAME`
    Named(String),
    /// The Node on which this pod runs (`POD_NAMESPACE`, `POD_NAME`).
    OfPod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
    },
}

impl NodeName {
    /// Reads the variables `NODE_NAME`, `POD_NAME` and `POD_NAMESPACE`. Empty ones count as missing. `None` if they
    /// name no Node.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        match given("NODE_NAME") {
            Some(name) => Some(Self::Named(name)),
            None => Some(Self::OfPod { namespace: given("POD_NAMESPACE")?, pod: given("POD_NAME")? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_named_by_variables() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            NodeName::from_variables(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone()))
        };
        assert_eq!(of(&[("NODE_NAME", "n1"), ("POD_NAME", "p")]), Some(NodeName::Named("n1".into())));
        let pod = NodeName::OfPod { namespace: "kube-flannel".into(), pod: "p".into() };
        assert_eq!(of(&[("NODE_NAME", ""), ("POD_NAME", "p"), ("POD_NAMESPACE", "kube-flannel")]), Some(pod));
        assert_eq!(of(&[("POD_NAME", "p")]), None);
    }
}
