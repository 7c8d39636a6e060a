//! What this machine's kernel lacks: Debian's kernel has it, in a virtual machine.

use std::process::ExitCode;

use tests::harness::{self, Environment, Test};

mod cluster;
mod links;

#[path = "../t1/bridge.rs"]
#[expect(dead_code, reason = "t1 runs the other tests")]
mod bridge;
#[path = "../t1/call.rs"]
mod call;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[], run: $module::$name }
    };
}

static TESTS: &[Test] = &[
    test!(links::vlans_of_a_bridge_work),
    test!(links::vlans_of_a_port_are_announced),
    test!(links::an_ipip_device_is_made_and_moved),
    test!(links::what_a_wireguard_device_holds_is_read_back),
    test!(links::a_thousand_peers_come_and_go),
    test!(cluster::ipip),
    test!(cluster::ipip_with_direct_routing_and_back),
    test!(cluster::wireguard_dual_stack),
    test!(cluster::wireguard_restarts_without_a_gap),
    test!(cluster::one_wireguard_device_for_both_families),
    test!(cluster::a_host_with_a_new_key_replaces_itself),
    test!(cluster::backends_change_live),
    test!(cluster::hostile_wireguard_leases_disturb_nobody),
];

fn main() -> ExitCode {
    let environment = Environment {
        tier: "vm",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO"),
    };
    harness::main_in_vm(TESTS, &environment)
}
