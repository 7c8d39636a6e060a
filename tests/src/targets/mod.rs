//! Targets for fuzzing: each passes hostile bytes to a parser. libFuzzer (tests/fuzz) runs them for any time; a test
//! (tests/parsers.rs) runs them with random and mutated bytes, so that they keep working.
//!
//! A target panics if the parser panics, or if a property of the result fails: a value that is written and read again
//! is the same, and every check of the parser holds for what it accepts.

mod domain;
mod host;
mod plugins;
mod programs;
mod protocol;
mod wire;

/// A parser, or several that read the same thing.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name, also of the fuzz target.
    pub name: &'static str,
    /// Runs the parser. Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub static TARGETS: &[Target] = &[
    Target { name: "net_conf", run: domain::net_conf, seeds: domain::net_conf_seeds },
    Target { name: "lease_key", run: domain::lease_key, seeds: domain::lease_key_seeds },
    Target { name: "lease_value", run: domain::lease_value, seeds: domain::lease_value_seeds },
    Target { name: "leases", run: domain::leases, seeds: domain::leases_seeds },
    Target { name: "subnet_env", run: domain::subnet_env, seeds: domain::subnet_env_seeds },
    Target { name: "status", run: host::status, seeds: host::status_seeds },
    Target { name: "flags", run: host::flags, seeds: host::flags_seeds },
    Target { name: "reservations", run: host::reservations, seeds: host::reservations_seeds },
    Target { name: "reservation_index", run: host::reservation_index, seeds: host::reservation_index_seeds },
    Target { name: "flannel_state", run: host::flannel_state, seeds: host::flannel_state_seeds },
    Target { name: "host_ports", run: host::host_ports, seeds: host::host_ports_seeds },
    Target { name: "cni_conf", run: protocol::conf, seeds: protocol::conf_seeds },
    Target { name: "cni_list", run: protocol::list, seeds: protocol::list_seeds },
    Target { name: "cni_network", run: protocol::network, seeds: protocol::network_seeds },
    Target { name: "cni_plugin", run: plugins::plugin, seeds: plugins::plugin_seeds },
    Target { name: "cni_args", run: protocol::args, seeds: protocol::args_seeds },
    Target { name: "cni_result", run: protocol::result, seeds: protocol::result_seeds },
    Target { name: "rtnetlink", run: wire::rtnetlink, seeds: wire::rtnetlink_seeds },
    Target { name: "nftables", run: wire::nftables, seeds: wire::nftables_seeds },
    Target { name: "traffic_control", run: wire::traffic_control, seeds: wire::traffic_control_seeds },
    Target { name: "firewalld", run: programs::firewalld, seeds: programs::firewalld_seeds },
    Target { name: "iptables_save", run: programs::iptables_save, seeds: programs::iptables_save_seeds },
    Target { name: "packet", run: wire::packet, seeds: wire::packet_seeds },
];

/// The target with this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn owned(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
