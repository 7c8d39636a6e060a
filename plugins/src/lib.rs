//! The CNI plugins: one executable under many names.

pub mod attach;
pub mod bandwidth;
pub mod bridge;
pub mod firewall;
pub mod flannel;
pub mod host;
pub mod host_local;
pub mod loopback;
pub mod macvlan;
pub mod netns;
pub mod pod;
pub mod portmap;
pub mod ptp;
pub mod read_only;
pub mod static_ipam;
pub mod traces;
pub mod tuning;

use cni::plugin::Plugin;

/// Every plugin of this executable.
pub static SUITE: &[&dyn Plugin] = &[
    &attach::Chain(bandwidth::Bandwidth),
    &attach::Attach(bridge::Bridge),
    &attach::Chain(firewall::FirewallPlugin),
    &attach::Addresses(host_local::HostLocal),
    &attach::Chain(loopback::Loopback),
    &attach::Attach(macvlan::Macvlan),
    &attach::Chain(portmap::Portmap),
    &attach::Attach(ptp::Ptp),
    &attach::Addresses(static_ipam::Static),
    &attach::Chain(tuning::Tuning),
    &attach::Delegation(flannel::FLANNEL),
    &attach::Delegation(flannel::VXLAN),
    &attach::Delegation(flannel::DIRECT_ROUTING),
    &attach::Delegation(flannel::HOST_GW),
];
