//! Tests that need features of Debian's kernel, in a virtual machine.

use std::process::ExitCode;

use tests::harness::{self, Environment, Outcome, Test};

mod clock;
mod cluster;
mod ipvs;
mod links;
mod sctp;
mod vlan;
mod vlans;

#[path = "../t2/disturb.rs"]
#[expect(dead_code, reason = "t2 disturbs in more ways")]
mod disturb;
#[path = "../t2/vandal/mod.rs"]
#[expect(dead_code, reason = "t2 runs the other tables")]
mod vandal;

#[path = "../t1/births.rs"]
#[expect(dead_code, reason = "t1 runs the other tests")]
mod births;
#[path = "../t1/bridge.rs"]
#[expect(dead_code, reason = "t1 runs the other tests")]
mod bridge;
#[path = "../t1/call.rs"]
#[expect(dead_code, reason = "t1 calls in more ways")]
mod call;
#[path = "../t1/commands.rs"]
#[expect(dead_code, reason = "t1 runs the other tests")]
mod commands;

#[path = "../t1/portmap.rs"]
#[expect(dead_code, reason = "t1 runs the other tests")]
mod portmap;

/// What a helper of a test fails with.
type Failure = Box<dyn std::error::Error>;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[], run: $module::$name }
    };
}

static TESTS: &[Test] = &[
    test!(links::vlans_of_a_bridge_work),
    test!(vlans::the_gateways_port_leaves_the_default_vlan),
    test!(vlans::the_gateways_port_of_a_trunk_leaves_the_default_vlan),
    test!(vlans::the_gateways_port_keeps_the_default_vlan_when_told_to),
    test!(vlans::the_loser_of_a_race_for_the_gateway_link_deletes_nothing),
    test!(vlans::the_loser_of_a_race_for_the_gateway_link_is_attached),
    test!(vlans::a_failed_add_leaves_the_gateway_link_to_others),
    test!(vlan::a_half_made_gateway_is_finished),
    test!(vlan::a_gateway_link_of_somebody_else_takes_no_router),
    test!(links::vlans_of_a_port_are_announced),
    test!(links::an_ipip_device_is_made_and_moved),
    test!(links::every_kind_is_born_in_the_pod),
    test!(links::a_taken_name_is_refused),
    test!(sctp::a_port_leads_to_the_pod),
    test!(ipvs::services_keep_their_ports),
    test!(births::what_was_born_elsewhere_is_changed_in_place),
    test!(births::a_tap_is_opened_in_the_pod),
    test!(links::a_dummy_moves_in_and_back),
    test!(links::printed_commands_do_the_same),
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
    test!(cluster::a_device_made_at_the_start_reaches_its_peers),
    test!(cluster::a_device_that_was_deleted_reaches_its_peers),
    test!(vandal::ipip),
    test!(vandal::wireguard),
    test!(clock::a_lease_is_renewed_when_the_clock_is_set_back_an_hour),
    test!(clock::a_lease_is_renewed_when_the_clock_is_set_back_eight_hours),
    test!(clock::no_lease_ends_when_the_clock_is_set_a_year_ahead),
];

fn main() -> ExitCode {
    let environment = Environment {
        tier: "vm",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO"),
        drills: std::env::var_os("DRILLS").is_some_and(|value| value == "all"),
        in_vm: true,
    };
    harness::main(TESTS, &environment)
}
