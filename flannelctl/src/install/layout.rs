use std::path::PathBuf;

/// Where a distribution's runtime looks for plugins and configurations, on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Layout {
    /// /opt/cni/bin and /etc/cni/net.d: kubeadm, RKE2, Talos, k0s, and containerd's own defaults
    #[default]
    Standard,
    /// k3s, started with --flannel-backend=none
    K3s,
    /// microk8s
    Microk8s,
}

impl Layout {
    /// The plugins' directory, the last one of the runtime's CNI_PATH.
    pub fn bin(self) -> PathBuf {
        match self {
            Self::Standard => "/opt/cni/bin",
            Self::K3s => "/var/lib/rancher/k3s/data/cni",
            Self::Microk8s => "/var/snap/microk8s/current/opt/cni/bin",
        }
        .into()
    }

    /// The directory of configurations.
    pub fn conf(self) -> PathBuf {
        match self {
            Self::Standard => "/etc/cni/net.d",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/cni/net.d",
            Self::Microk8s => "/var/snap/microk8s/current/args/cni-network",
        }
        .into()
    }
}
