//! One plugin, one pod: and the kernel library that they stand on.

use std::process::ExitCode;

use tests::harness::{self, Environment, Test};
use tests::need::Need;

use call::Whose;

mod bridge;
mod call;
mod counts;
mod flannel;
mod host_local;
mod input;
mod kernel;
mod loopback;
mod news;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident $(, $need:expr)*) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[$($need),*], run: $module::$name }
    };
}

/// One that ours and the reference plugins must pass alike, under two names.
macro_rules! alike {
    ($module:ident :: $name:ident, ours) => {
        Test {
            name: concat!(stringify!($module), "::", stringify!($name)),
            needs: &[],
            run: || $module::$name(Whose::Ours),
        }
    };
    ($module:ident :: $name:ident, reference) => {
        Test {
            name: concat!("reference::", stringify!($module), "::", stringify!($name)),
            needs: &[Need::File(call::REFERENCE)],
            run: || $module::$name(Whose::Reference),
        }
    };
}

static TESTS: &[Test] = &[
    test!(kernel::what_is_written_is_read_back),
    test!(kernel::a_pair_is_born_in_two_namespaces),
    test!(kernel::a_vxlan_device_is_changed_in_place_where_that_is_possible),
    test!(kernel::other_links_are_made),
    test!(kernel::a_tap_device_is_made, Need::Tun),
    test!(kernel::a_refusal_is_in_the_kernels_words),
    test!(kernel::a_page_of_refusals_overruns_nothing),
    test!(kernel::a_refused_dump_is_not_an_empty_one),
    test!(kernel::a_deleted_link_is_gone_when_the_call_returns),
    test!(kernel::a_link_made_again_is_found_under_its_new_index),
    test!(news::every_change_is_announced_as_what_it_is, Need::Program("ip")),
    test!(news::a_bridge_port_is_announced_with_its_flags, Need::Program("ip")),
    test!(news::forwarding_is_announced_as_a_sysctl, Need::Program("ip"), Need::Program("sysctl")),
    alike!(bridge::a_pod_lives_and_goes, ours),
    alike!(bridge::a_pod_lives_and_goes, reference),
    alike!(bridge::every_version_is_spoken, ours),
    alike!(bridge::every_version_is_spoken, reference),
    alike!(bridge::del_needs_nothing, ours),
    alike!(bridge::del_needs_nothing, reference),
    alike!(bridge::a_mac_can_be_asked_for, ours),
    alike!(bridge::a_mac_can_be_asked_for, reference),
    alike!(bridge::a_taken_name_harms_nothing, ours),
    alike!(bridge::a_taken_name_harms_nothing, reference),
    alike!(bridge::a_bridge_that_is_none_is_refused, ours),
    alike!(bridge::a_bridge_that_is_none_is_refused, reference),
    alike!(bridge::another_subnets_bridge_is_refused_or_forced, ours),
    alike!(bridge::another_subnets_bridge_is_refused_or_forced, reference),
    alike!(bridge::the_smaller_fields_do_what_they_say, ours),
    alike!(bridge::the_smaller_fields_do_what_they_say, reference),
    test!(bridge::a_switch_without_ipam_is_checked_too),
    test!(bridge::check_lists_every_difference),
    test!(bridge::a_default_route_of_ipam_satisfies_the_bridge),
    test!(bridge::every_attribute_of_a_route_is_applied),
    test!(bridge::an_idle_bridge_takes_the_new_subnet),
    test!(bridge::the_bridges_mac_stays),
    test!(bridge::a_failed_add_leaves_nothing),
    test!(bridge::rules_come_and_go_with_the_pod),
    test!(bridge::gc_removes_what_nobody_owns),
    test!(bridge::every_mistake_is_said_at_once),
    test!(bridge::dad_is_waited_for_when_asked),
    test!(bridge::vlans_work_or_are_refused_cleanly),
    test!(flannel::a_pod_gets_an_address_of_the_hosts_subnet),
    test!(flannel::two_interfaces_of_a_container_do_not_mix),
    test!(flannel::del_always_reaches_the_delegate),
    test!(flannel::what_flanneld_said_last_is_in_the_error),
    test!(flannel::a_named_data_path_is_insisted_on),
    test!(flannel::a_bad_delegate_is_refused),
    test!(input::what_is_no_configuration_is_refused),
    test!(input::a_bad_environment_is_refused),
    test!(input::a_wrong_type_is_refused),
    test!(input::a_namespace_that_is_none_is_refused),
    test!(input::a_hostile_delegate_runs_nothing),
    test!(input::a_full_range_says_so),
    test!(input::a_disk_that_takes_nothing_says_so),
    test!(host_local::go_and_we_take_turns_in_one_directory, Need::File(call::REFERENCE)),
    test!(host_local::go_and_we_at_once_never_share_an_address, Need::File(call::REFERENCE)),
    test!(host_local::killed_at_any_moment_it_loses_no_address),
    test!(host_local::a_full_disk_is_named_and_keeps_nothing, Need::Program("unshare"), Need::Program("mount")),
    test!(host_local::a_read_only_disk_is_named, Need::Program("unshare"), Need::Program("mount")),
    test!(loopback::up_checked_and_down, Need::Program("unshare"), Need::Program("mount")),
    test!(loopback::every_versions_result_has_its_own_shape, Need::Program("unshare"), Need::Program("mount")),
    test!(
        loopback::a_foreign_address_on_lo_is_an_error,
        Need::Program("unshare"),
        Need::Program("mount"),
        Need::Program("ip")
    ),
    test!(loopback::the_hosts_own_lo_is_not_taken_down, Need::Program("unshare"), Need::Program("mount")),
    test!(counts::bridge_and_host_local_are_few_calls_of_one_program, Need::Program("strace")),
    test!(counts::flannel_and_its_delegates_are_one_program, Need::Program("strace")),
    test!(counts::a_network_without_flanneld_is_a_few_dumps_more, Need::Program("strace")),
    test!(counts::a_nearly_full_range_costs_what_an_empty_one_does, Need::Program("strace")),
];

fn main() -> ExitCode {
    let environment = Environment {
        tier: "t1",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO"),
    };
    harness::main(TESTS, &environment)
}
