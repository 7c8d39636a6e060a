//! The ways to reach a peer: the network configuration of each, and the paths that must result. Pure.

use std::fmt;

use serde_json::json;

/// The pods' network.
pub const NETWORK: &str = "10.244.0.0/16";
/// The pods' IPv6 network; each host gets a /64.
pub const NETWORK_V6: &str = "fd10:244::/48";
/// A preshared key. It need not be secret in a lab.
const PSK: &str = "bGFiIGxhYiBsYWIgbGFiIGxhYiBsYWIgbGFiIGxhYiA=";

/// A backend, with the option that changes its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every peer through VXLAN.
    Vxlan,
    /// Peers on the same segment directly, the others through VXLAN.
    DirectRouting,
    /// Peers on the same segment directly, the others not at all.
    HostGw,
    /// Every peer through the daemon's UDP datagrams. IPv4 only.
    Udp,
    /// Every peer through IPIP. IPv4 only; needs the kernel module ipip.
    Ipip,
    /// Peers on the same segment directly, the others through IPIP.
    IpipDirect,
    /// Every peer through WireGuard, with a device per family. Needs the kernel module wireguard.
    Wireguard,
    /// Every peer through WireGuard, with one device.
    WireguardAuto,
    /// The extension backend with `ip route` as its command: peers on the same segment directly, the others not at all.
    Extension,
}

/// How packets travel between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Through a VXLAN device.
    Vxlan,
    /// Through a TUN device, in the daemon's UDP datagrams.
    Udp,
    /// Through the IPIP device flannel.ipip.
    Ipip,
    /// Through the WireGuard device flannel-wg or flannel-wg-v6.
    Wireguard,
    /// Over the underlay without encapsulation.
    Direct,
    /// There is no path.
    None,
}

impl Mode {
    /// The network configuration for the store.
    pub fn config(self, dual_stack: bool) -> String {
        let mut config = json!({ "Network": NETWORK, "Backend": self.backend() });
        if dual_stack {
            config["EnableIPv6"] = true.into();
            config["IPv6Network"] = NETWORK_V6.into();
        }
        config.to_string()
    }

    /// The expected path between two hosts.
    pub fn path(self, on_one_segment: bool) -> Path {
        match (self, on_one_segment) {
            (Self::Vxlan, _) | (Self::DirectRouting, false) => Path::Vxlan,
            (Self::Ipip, _) | (Self::IpipDirect, false) => Path::Ipip,
            (Self::Wireguard | Self::WireguardAuto, _) => Path::Wireguard,
            (Self::DirectRouting | Self::IpipDirect | Self::HostGw | Self::Extension, true) => Path::Direct,
            (Self::HostGw | Self::Extension, false) => Path::None,
            (Self::Udp, _) => Path::Udp,
        }
    }

    fn backend(self) -> serde_json::Value {
        match self {
            Self::Vxlan => json!({ "Type": "vxlan" }),
            Self::DirectRouting => json!({ "Type": "vxlan", "DirectRouting": true }),
            Self::HostGw => json!({ "Type": "host-gw" }),
            Self::Udp => json!({ "Type": "udp" }),
            Self::Ipip => json!({ "Type": "ipip" }),
            Self::IpipDirect => json!({ "Type": "ipip", "DirectRouting": true }),
            Self::Wireguard => json!({ "Type": "wireguard" }),
            Self::Extension => json!({
                "Type": "extension",
                "PreStartupCommand": "echo 'data of a host'",
                "SubnetAddCommand": "ip route replace $SUBNET via ${PUBLIC_IP}",
                "SubnetRemoveCommand": "ip route delete $SUBNET via $PUBLIC_IP",
            }),
            Self::WireguardAuto => json!({ "Type": "wireguard", "Mode": "auto", "PSK": PSK }),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::DirectRouting => "vxlan with DirectRouting",
            Self::HostGw => "host-gw",
            Self::Udp => "udp",
            Self::Ipip => "ipip",
            Self::IpipDirect => "ipip with DirectRouting",
            Self::Wireguard => "wireguard",
            Self::WireguardAuto => "wireguard with one device",
            Self::Extension => "extension",
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "VXLAN",
            Self::Udp => "UDP",
            Self::Ipip => "IPIP",
            Self::Wireguard => "WireGuard",
            Self::Direct => "direct",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        assert_eq!(Mode::Vxlan.config(false), r#"{"Backend":{"Type":"vxlan"},"Network":"10.244.0.0/16"}"#);
        assert_eq!(
            Mode::DirectRouting.config(true),
            r#"{"Backend":{"DirectRouting":true,"Type":"vxlan"},"EnableIPv6":true,"IPv6Network":"fd10:244::/48","Network":"10.244.0.0/16"}"#
        );
    }

    #[test]
    fn paths() {
        let paths = |mode: Mode| [mode.path(true), mode.path(false)];
        assert_eq!(paths(Mode::Vxlan), [Path::Vxlan, Path::Vxlan]);
        assert_eq!(paths(Mode::DirectRouting), [Path::Direct, Path::Vxlan]);
        assert_eq!(paths(Mode::HostGw), [Path::Direct, Path::None]);
        assert_eq!(paths(Mode::Udp), [Path::Udp, Path::Udp]);
        assert_eq!(paths(Mode::IpipDirect), [Path::Direct, Path::Ipip]);
        assert_eq!(paths(Mode::Wireguard), [Path::Wireguard, Path::Wireguard]);
    }
}
