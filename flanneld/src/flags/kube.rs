//! The flags and variables of the Kubernetes store, which `--kube-subnet-mgr` selects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use overlay::lease::NodeKeys;
use store::StoreOptions;
use store::kubernetes::{ANSWER, HYSTERESIS, NodeName, Options};

/// The file of the last known leases, beside subnet.env.
const SAVED: &str = "nodes.json";

/// The flags as they were given.
#[derive(clap::Args)]
pub(super) struct KubeFlags {
    /// Use the Nodes of a Kubernetes cluster as the store, instead of etcd
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    kube_subnet_mgr: bool,
    /// URL of the API server; default: the one of --kubeconfig-file, or the cluster's own service
    #[arg(long, value_name = "URL")]
    kube_api_url: Option<String>,
    /// The kubeconfig file; default: the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig_file: Option<String>,
    /// The prefix of the annotations on Nodes
    #[arg(long, value_name = "PREFIX", default_value = "flannel.alpha.coreos.com")]
    kube_annotation_prefix: String,
    /// The network's configuration in a Kubernetes cluster
    #[arg(long, value_name = "FILE", default_value = "/etc/kube-flannel/net-conf.json")]
    net_config_path: PathBuf,
    /// Keep the Node's condition NetworkUnavailable equal to the state of the network
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    set_node_network_unavailable: bool,
}

impl KubeFlags {
    /// Whether the store is Kubernetes.
    pub(super) fn selected(&self) -> bool {
        self.kube_subnet_mgr
    }

    /// The store's options. `subnet_file` is the path of subnet.env.
    ///
    /// # Errors
    /// All mistakes in the flags and variables.
    pub(super) fn store(self, subnet_file: &Path, env: &BTreeMap<String, String>) -> Result<StoreOptions, Vec<String>> {
        let keys = self.kube_annotation_prefix.parse::<NodeKeys>();
        let node = NodeName::from_variables(|name| env.get(name).cloned());
        let node = node.ok_or(
            "env variables POD_NAME and POD_NAMESPACE must be set: they, or NODE_NAME, name the Node that this host is",
        );
        match (keys, node) {
            (Ok(keys), Ok(node)) => Ok(StoreOptions::Kubernetes(Box::new(Options {
                api_url: self.kube_api_url.filter(|url| !url.is_empty()),
                kubeconfig: self.kubeconfig_file.filter(|path| !path.is_empty()).map(PathBuf::from),
                keys,
                net_config: self.net_config_path,
                node,
                set_network_unavailable: self.set_node_network_unavailable.then_some(HYSTERESIS),
                saved: store::files::dir_of(subnet_file).join(SAVED),
                answer: ANSWER,
            }))),
            (keys, node) => {
                let prefix = |error| format!("--kube-annotation-prefix {:?}: {error}", self.kube_annotation_prefix);
                Err(keys.err().map(prefix).into_iter().chain(node.err().map(str::to_owned)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parse_with, run};
    use super::*;

    #[track_caller]
    fn kube(args: &[&str], env: &[(&str, &str)]) -> Options {
        match run(args, env).store {
            StoreOptions::Kubernetes(options) => *options,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    /// The arguments and variables of upstream's DaemonSet.
    #[test]
    fn the_daemonset_of_upstream_starts() {
        let env = [
            ("POD_NAME", "kube-flannel-ds-x"),
            ("POD_NAMESPACE", "kube-flannel"),
            ("EVENT_QUEUE_DEPTH", "5000"),
            ("CONT_WHEN_CACHE_NOT_READY", "false"),
        ];
        let options = kube(&["--ip-masq", "--kube-subnet-mgr", "--healthz-port=8081"], &env);
        assert_eq!(options.node, NodeName::OfPod { namespace: "kube-flannel".into(), pod: "kube-flannel-ds-x".into() });
        assert_eq!(options.net_config, Path::new("/etc/kube-flannel/net-conf.json"));
        assert_eq!(options.keys.key("public-ip"), "flannel.alpha.coreos.com/public-ip");
        assert_eq!(options.saved, Path::new("/run/flannel/nodes.json"));
        assert!(
            options.set_network_unavailable == Some(HYSTERESIS)
                && options.api_url.is_none()
                && options.kubeconfig.is_none()
        );
    }

    #[test]
    fn flags_and_variables_are_read() {
        let args = [
            "-kube-subnet-mgr=t",
            "-kube-api-url=https://192.0.2.1:6443",
            "-kubeconfig-file",
            "/etc/kubernetes/admin.conf",
            "-kube-annotation-prefix=example.org/net",
            "-net-config-path=/elsewhere",
            "-set-node-network-unavailable=0",
            "-subnet-file=/run/other/subnet.env",
        ];
        let options = kube(&args, &[("NODE_NAME", "n1")]);
        assert_eq!(options.api_url.as_deref(), Some("https://192.0.2.1:6443"));
        assert_eq!(options.kubeconfig.as_deref(), Some(Path::new("/etc/kubernetes/admin.conf")));
        assert_eq!(options.keys.key("public-ip"), "example.org/net-public-ip");
        assert_eq!((options.net_config, options.saved), ("/elsewhere".into(), "/run/other/nodes.json".into()));
        assert_eq!(options.node, NodeName::Named("n1".into()));
        assert_eq!(options.set_network_unavailable, None);
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let error = parse_with(&["--kube-subnet-mgr", "-kube-annotation-prefix=a/b/c", "-store-dir=/s"], &[]);
        let text = error.unwrap_err().to_string();
        for said in
            ["at most single slash", "POD_NAME and POD_NAMESPACE must be set", "--store-dir and --kube-subnet-mgr"]
        {
            assert!(text.contains(said), "{text}");
        }
    }
}
