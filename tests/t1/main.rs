//! One plugin, one pod: and the kernel library that they stand on.

use std::process::ExitCode;

use tests::harness::{self, Environment, Test};
use tests::need::Need;

use call::Whose;

mod bandwidth;
mod beside;
mod births;
mod bridge;
mod call;
mod check;
mod commands;
mod conntrack;
mod counts;
mod defaults;
mod del;
mod drills;
mod flannel;
mod foreign;
mod from_go;
mod host_local;
mod input;
mod iptables;
mod kernel;
mod lease_keys;
mod life;
mod loopback;
mod macvlan;
mod macvlan_left;
mod masquerade;
mod netns;
mod news;
mod portmap;
mod portmap_more;
mod ptp;
mod queues;
mod record;
mod router;
mod rules;
mod shared;
mod start;
mod static_ipam;
mod undecodable;
mod undo;
mod watch;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident $(, $need:expr)*) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[$($need),*], run: $module::$name }
    };
}

/// One that ours and the reference plugins must pass alike, under two names.
macro_rules! alike {
    ($module:ident :: $name:ident, ours $(, $need:expr)*) => {
        Test {
            name: concat!(stringify!($module), "::", stringify!($name)),
            needs: &[$($need),*],
            run: || $module::$name(Whose::Ours),
        }
    };
    ($module:ident :: $name:ident, reference $(, $need:expr)*) => {
        Test {
            name: concat!("reference::", stringify!($module), "::", stringify!($name)),
            needs: &[Need::File(call::REFERENCE) $(, $need)*],
            run: || $module::$name(Whose::Reference),
        }
    };
}

/// iproute2's, for what the kernel library cannot make or leaves out.
const IP: Need = Need::Program("ip");
const NFT: Need = Need::Program("nft");
const TC: Need = Need::Program("tc");
const STRACE: Need = Need::Program("strace");
/// The Go plugins masquerade by it.
const IPTABLES: Need = Need::Program("iptables");

static TESTS: &[Test] = &[
    test!(kernel::what_is_written_is_read_back),
    test!(kernel::slices_make_the_same),
    test!(kernel::a_pair_is_born_in_two_namespaces),
    test!(kernel::a_vxlan_device_is_changed_in_place_where_that_is_possible),
    test!(kernel::other_links_are_made),
    test!(kernel::a_tap_device_is_made, Need::Tun),
    test!(kernel::what_is_done_to_a_device_is_undone),
    test!(births::a_macvlan_is_born_in_the_pod),
    test!(births::what_is_born_under_a_known_name_is_another_link),
    test!(births::a_birth_that_fails_says_what_is_missing),
    test!(births::what_was_born_elsewhere_is_changed_in_place),
    test!(births::a_tap_is_opened_in_the_pod, Need::Tun),
    test!(births::a_veth_moves_in_and_back),
    test!(births::a_veth_that_cannot_move_stays),
    test!(commands::printed_commands_do_the_same, Need::Program("ip"), Need::Program("sysctl")),
    test!(commands::a_printed_tuntap_command_does_the_same, Need::Program("ip"), Need::Program("sysctl"), Need::Tun),
    test!(commands::a_birth_elsewhere_prints_what_does_the_same, Need::Program("ip"), Need::Program("sysctl")),
    test!(kernel::a_refusal_is_in_the_kernels_words),
    test!(kernel::a_port_in_use_is_named),
    test!(kernel::a_page_of_refusals_overruns_nothing),
    test!(kernel::a_refused_dump_is_not_an_empty_one),
    test!(kernel::a_deleted_link_is_gone_when_the_call_returns),
    test!(kernel::a_link_made_again_is_found_under_its_new_index),
    test!(queues::limits_are_made_changed_and_removed, TC, IP),
    test!(queues::deleting_what_is_gone_is_a_success),
    test!(queues::a_filter_to_a_link_that_is_gone_is_made_again, IP),
    test!(queues::what_others_have_set_stays, TC),
    test!(beside::another_programs_route_stays_behind_ours, IP),
    test!(beside::a_route_of_ours_with_more_to_it_is_replaced, IP),
    test!(beside::another_programs_route_of_ipv6_is_named, IP),
    test!(beside::a_forwarding_entry_by_next_hops_is_replaced, IP, Need::Program("bridge")),
    test!(conntrack::a_published_port_is_for_those_too_who_sent_before),
    test!(conntrack::hundreds_of_entries_are_deleted_at_once),
    test!(conntrack::entries_of_a_zone_and_without_ports_are_deleted, Need::Program("nft")),
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
    test!(undo::a_failed_add_leaves_other_pods_alone),
    test!(undo::a_failed_add_leaves_the_bridge_that_was_there),
    test!(undo::a_new_bridge_that_others_have_joined_stays, Need::Program("ip")),
    test!(undo::rules_that_were_written_are_taken_back, Need::Program("nft")),
    test!(bridge::rules_come_and_go_with_the_pod),
    test!(bridge::gc_removes_what_nobody_owns),
    test!(bridge::a_full_bridge_says_so),
    test!(bridge::every_mistake_is_said_at_once),
    test!(bridge::dad_is_waited_for_when_asked),
    test!(bridge::vlans_work_or_are_refused_cleanly),
    test!(life::del_takes_a_configuration_that_add_refuses),
    test!(life::del_by_a_path_that_leads_to_no_namespace),
    test!(life::del_by_another_pods_path_deletes_nothing_of_that_pod),
    test!(life::without_nf_tables_del_and_gc_work_and_status_says_it, STRACE),
    test!(life::gc_takes_dead_pods_links_and_rules),
    test!(life::what_a_record_names_is_not_forgotten_when_it_cannot_be_read, STRACE),
    test!(life::del_does_without_the_process_that_deletes, STRACE),
    test!(life::del_goes_on_behind_a_failure),
    test!(life::an_add_whose_answer_cannot_be_written_is_undone),
    test!(life::a_container_id_that_is_too_long_is_refused),
    test!(check::what_others_may_change_is_no_difference, IP),
    test!(check::the_answer_has_the_bridges_own_mac),
    test!(check::the_loser_of_a_race_for_the_bridge_has_its_mac, STRACE),
    test!(shared::a_failed_add_harms_no_other_pod_of_a_new_bridge, STRACE),
    test!(shared::a_failed_add_harms_no_other_pod_of_a_bridge_without_addresses, STRACE),
    test!(shared::of_eight_at_once_those_that_succeed_keep_what_they_need),
    test!(shared::a_failed_add_leaves_an_idle_bridge_its_addresses),
    alike!(shared::another_programs_idle_bridge_is_refused, ours),
    alike!(shared::another_programs_idle_bridge_is_refused, reference),
    alike!(shared::another_programs_idle_ipv6_bridge_is_refused, ours),
    alike!(shared::another_programs_idle_ipv6_bridge_is_refused, reference),
    test!(shared::a_failed_add_with_force_address_leaves_the_old_address),
    test!(shared::a_failed_add_with_force_address_leaves_the_old_ipv6_address),
    test!(shared::a_failed_add_leaves_an_idle_bridge_of_another_subnet_its_address),
    alike!(defaults::a_second_default_route_leaves_the_first_ipv4, ours, IP),
    alike!(defaults::a_second_default_route_leaves_the_first_ipv4, reference, IP),
    alike!(defaults::a_second_default_route_leaves_the_first_ipv6, ours, IP),
    alike!(defaults::a_second_default_route_leaves_the_first_ipv6, reference, IP),
    alike!(defaults::a_route_that_both_attachments_have_is_there_twice, ours, IP),
    alike!(defaults::a_route_that_both_attachments_have_is_there_twice, reference, IP),
    alike!(defaults::del_of_the_second_leaves_the_firsts_default_route, ours, IP),
    alike!(defaults::del_of_the_second_leaves_the_firsts_default_route, reference, IP),
    alike!(defaults::check_of_the_first_is_content_beside_a_second, ours, IP),
    alike!(defaults::check_of_the_first_is_content_beside_a_second, reference, IP),
    test!(defaults::check_finds_its_hop_of_a_route_that_two_attachments_share, IP),
    alike!(defaults::a_failed_add_of_the_second_leaves_the_firsts_default_route, ours, IP),
    alike!(defaults::a_failed_add_of_the_second_leaves_the_firsts_default_route, reference, IP),
    alike!(defaults::a_default_route_of_the_pods_own_stays_ipv4, ours, IP),
    alike!(defaults::a_default_route_of_the_pods_own_stays_ipv4, reference, IP),
    alike!(defaults::a_default_route_of_the_pods_own_stays_ipv6, ours, IP),
    alike!(defaults::a_default_route_of_the_pods_own_stays_ipv6, reference, IP),
    alike!(defaults::a_route_to_the_own_subnet_leaves_the_connected_one, ours, IP),
    alike!(defaults::a_route_to_the_own_subnet_leaves_the_connected_one, reference, IP),
    alike!(defaults::a_route_to_the_own_subnet_alone_leaves_the_connected_one, ours, IP),
    alike!(defaults::a_route_to_the_own_subnet_alone_leaves_the_connected_one, reference, IP),
    test!(defaults::a_network_that_is_the_hosts_subnet_is_attached_to, IP),
    test!(from_go::our_del_removes_gos_masquerade_ipv4, Need::File(call::REFERENCE), IPTABLES),
    test!(from_go::our_del_removes_gos_masquerade_ipv6, Need::File(call::REFERENCE), IPTABLES),
    test!(from_go::our_del_removes_gos_masquerade_without_the_namespace, Need::File(call::REFERENCE), IPTABLES),
    test!(from_go::our_del_takes_a_configuration_that_names_iptables, Need::File(call::REFERENCE), IPTABLES),
    alike!(iptables::masquerade_comes_and_goes, ours, IPTABLES),
    alike!(iptables::masquerade_comes_and_goes, reference, IPTABLES),
    test!(iptables::either_suite_removes_the_others_rules, Need::File(call::REFERENCE), IPTABLES),
    test!(iptables::check_accepts_either_backend, Need::File(call::REFERENCE), IPTABLES),
    test!(iptables::gc_removes_what_nobody_owns, Need::File(call::REFERENCE), IPTABLES),
    test!(iptables::flushed_tables_are_no_obstacle, IPTABLES),
    test!(iptables::pods_at_once_are_served, IPTABLES),
    test!(iptables::a_held_lock_is_waited_for_a_limited_time, IPTABLES),
    test!(iptables::a_host_without_the_programs),
    test!(iptables::a_program_that_does_not_end_is_killed),
    test!(record::host_gw_killed_at_any_write_leaves_no_route_behind_gc, STRACE),
    test!(record::host_gw_on_a_full_disk_leaves_no_route_behind_gc, STRACE),
    test!(record::direct_routing_killed_at_any_write_leaves_no_route_behind_gc, STRACE),
    test!(undecodable::a_link_with_an_alias_in_latin_1_is_not_absent, IP),
    test!(undecodable::a_link_with_an_alias_in_latin_1_is_listed_or_an_error, IP),
    test!(undecodable::an_address_with_a_label_in_latin_1_is_listed_or_an_error, IP),
    test!(undecodable::a_pod_on_a_bridge_with_an_alias_in_latin_1_is_told_no_untruth, IP),
    test!(undecodable::a_route_with_a_short_attribute_is_an_error),
    test!(undecodable::a_link_with_a_short_attribute_is_an_error),
    test!(undecodable::a_neighbour_that_is_cut_off_is_an_error),
    test!(router::an_advertisement_is_taken_where_it_may_be),
    test!(router::a_bridge_of_somebody_else_takes_no_router_from_a_pod),
    test!(router::a_bridge_of_a_killed_add_takes_no_router_from_a_pod, Need::Program("strace")),
    test!(router::parameters_that_are_right_need_not_be_written),
    test!(router::a_parameter_that_is_wrong_and_cannot_be_written_is_named),
    test!(netns::the_hosts_own_namespace_is_refused_by_any_path),
    test!(netns::what_is_no_namespace_holds_nobody_up),
    test!(netns::the_path_is_used_once, Need::Program("strace")),
    test!(netns::the_hosts_own_namespace_can_be_meant),
    test!(del::a_name_in_prev_result_deletes_nothing_of_others),
    test!(del::the_namespaces_file_is_free_after_del, Need::Program("unshare")),
    test!(del::no_process_is_left_to_a_pid_1_that_does_not_reap, Need::Program("unshare")),
    test!(del::without_another_process_del_takes_longer, Need::Program("strace")),
    test!(flannel::a_pod_gets_an_address_of_the_hosts_subnet),
    test!(flannel::two_interfaces_of_a_container_do_not_mix),
    test!(flannel::del_always_reaches_the_delegate),
    test!(flannel::what_flanneld_said_last_is_in_the_error),
    test!(flannel::a_named_data_path_is_insisted_on),
    test!(flannel::a_bad_delegate_is_refused),
    test!(flannel::a_failed_delegate_leaves_no_state),
    test!(flannel::del_says_which_state_it_cannot_look_at, STRACE),
    test!(flannel::gc_takes_stale_and_damaged_states),
    test!(flannel::gc_says_what_it_cannot_read, STRACE),
    test!(input::what_is_no_configuration_is_refused),
    test!(input::what_is_too_long_is_refused),
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
    test!(host_local::what_is_no_regular_file_holds_nobody_up),
    test!(host_local::a_read_only_disk_is_named, Need::Program("unshare"), Need::Program("mount")),
    test!(lease_keys::a_padded_length_is_not_canonical),
    test!(lease_keys::a_padded_length_of_ipv6_is_not_canonical),
    test!(lease_keys::an_address_that_is_not_compressed_is_not_canonical),
    test!(lease_keys::a_padded_group_is_not_canonical),
    test!(lease_keys::one_padded_half_is_enough),
    test!(lease_keys::padded_addresses_and_upper_case_are_refused),
    test!(loopback::up_checked_and_down, Need::Program("unshare"), Need::Program("mount")),
    test!(loopback::every_versions_result_has_its_own_shape, Need::Program("unshare"), Need::Program("mount")),
    test!(
        loopback::a_foreign_address_on_lo_is_an_error,
        Need::Program("unshare"),
        Need::Program("mount"),
        Need::Program("ip"),
        Need::Program("sysctl")
    ),
    test!(loopback::the_hosts_own_lo_is_not_taken_down, Need::Program("unshare"), Need::Program("mount")),
    alike!(macvlan::a_pod_lives_and_goes, ours),
    alike!(macvlan::a_pod_lives_and_goes, reference),
    alike!(macvlan::every_version_is_spoken, ours),
    alike!(macvlan::every_version_is_spoken, reference),
    alike!(macvlan::every_mode_is_made, ours),
    alike!(macvlan::every_mode_is_made, reference),
    alike!(macvlan::a_mac_can_be_asked_for, ours),
    alike!(macvlan::a_mac_can_be_asked_for, reference),
    alike!(macvlan::the_default_routes_link_is_the_master, ours, IP),
    alike!(macvlan::the_default_routes_link_is_the_master, reference, IP),
    alike!(macvlan::del_needs_nothing, ours),
    alike!(macvlan::del_needs_nothing, reference),
    alike!(macvlan::an_mtu_above_the_masters_is_refused, ours),
    alike!(macvlan::an_mtu_above_the_masters_is_refused, reference),
    test!(macvlan::pods_of_one_master_reach_each_other),
    test!(macvlan::a_failed_add_leaves_nothing, IP),
    test!(macvlan::a_taken_name_harms_nothing),
    test!(macvlan::a_master_with_the_interfaces_name_is_no_other_link),
    test!(macvlan::check_without_a_named_master_follows_no_route, IP),
    test!(macvlan::a_master_that_is_in_use_says_so, IP),
    test!(macvlan::a_second_interface_beside_passthru_says_so),
    test!(macvlan::a_master_in_the_pod_is_stood_on, IP),
    test!(macvlan::status_needs_a_default_route_where_add_does, IP),
    test!(macvlan::check_lists_every_difference, IP),
    test!(macvlan_left::del_by_another_pods_path_deletes_nothing_of_that_pod),
    test!(macvlan_left::gc_takes_dead_pods_interfaces_only),
    alike!(ptp::a_pod_lives_and_goes, ours),
    alike!(ptp::a_pod_lives_and_goes, reference),
    alike!(ptp::every_version_is_spoken, ours),
    alike!(ptp::every_version_is_spoken, reference),
    alike!(ptp::del_needs_nothing, ours),
    alike!(ptp::del_needs_nothing, reference),
    alike!(ptp::pods_and_host_reach_each_other, ours),
    alike!(ptp::pods_and_host_reach_each_other, reference),
    test!(ptp::either_suite_takes_over_the_others_pod, Need::File(call::REFERENCE), IPTABLES),
    test!(ptp::masquerade_by_iptables_is_shared_with_the_other_suite, Need::File(call::REFERENCE), IPTABLES),
    test!(ptp::rules_come_and_go_with_the_pod),
    test!(ptp::a_failed_add_leaves_nothing),
    test!(ptp::a_taken_name_harms_nothing),
    test!(ptp::another_programs_route_to_the_pods_address, IP),
    test!(ptp::gc_takes_dead_pods),
    test!(ptp::check_lists_every_difference, IP),
    test!(ptp::status_needs_what_add_needs),
    alike!(static_ipam::every_plugin_gives_its_addresses, ours),
    alike!(static_ipam::every_plugin_gives_its_addresses, reference),
    alike!(static_ipam::the_runtime_names_addresses, ours),
    alike!(static_ipam::the_runtime_names_addresses, reference),
    test!(static_ipam::every_key_of_a_route_is_applied),
    test!(static_ipam::check_misses_an_address),
    alike!(portmap::a_port_leads_to_the_pod, ours, IP, NFT),
    alike!(portmap::a_port_leads_to_the_pod, reference, IP, NFT, IPTABLES),
    alike!(portmap::a_port_of_one_address, ours, IP, NFT),
    alike!(portmap::a_port_of_one_address, reference, IP, NFT, IPTABLES),
    alike!(portmap::other_hosts_ports_are_not_taken, ours, IP, NFT),
    alike!(portmap::other_hosts_ports_are_not_taken, reference, IP, NFT, IPTABLES),
    alike!(portmap::nothing_is_masqueraded_without_snat, ours, IP, NFT),
    alike!(portmap::nothing_is_masqueraded_without_snat, reference, IP, NFT, IPTABLES),
    alike!(portmap::a_sender_from_before_is_served, ours, IP, NFT),
    alike!(portmap::a_sender_from_before_is_served, reference, IP, NFT, IPTABLES),
    alike!(portmap::del_needs_nothing, ours, IP, NFT),
    alike!(portmap::del_needs_nothing, reference, IP, NFT, IPTABLES),
    alike!(portmap::every_version_is_spoken, ours, IP, NFT),
    alike!(portmap::every_version_is_spoken, reference, IP, NFT, IPTABLES),
    alike!(portmap::a_pod_with_one_family, ours, IP, NFT),
    alike!(portmap::a_pod_with_one_family, reference, IP, NFT, IPTABLES),
    alike!(portmap::without_mappings_nothing_is_made, ours, IP, NFT),
    alike!(portmap::without_mappings_nothing_is_made, reference, IP, NFT, IPTABLES),
    test!(portmap_more::a_port_in_use_is_refused_by_name, IP, NFT),
    test!(portmap_more::a_container_on_two_networks_has_its_port_once, IP, NFT),
    test!(portmap_more::a_repeated_add_replaces, IP, NFT),
    test!(portmap_more::nothing_is_left_without_the_record_or_without_del, IP, NFT),
    test!(portmap_more::gc_removes_what_nobody_owns, IP, NFT),
    test!(portmap_more::what_go_made_is_checked_and_removed, IP, NFT, IPTABLES, Need::File(call::REFERENCE)),
    test!(portmap_more::upstreams_nftables_rules_are_checked_and_removed, IP, NFT),
    test!(portmap_more::everything_is_masqueraded_when_asked, IP, NFT),
    test!(portmap_more::conditions_divide_a_port, IP, NFT),
    test!(portmap_more::addresses_of_services_are_left_alone, IP, NFT),
    test!(portmap_more::every_mistake_is_said_at_once, IP, NFT),
    test!(portmap_more::a_flushed_rule_set_is_no_obstacle, IP, NFT),
    test!(portmap_more::sixteen_at_once_are_served, IP, NFT),
    test!(portmap_more::a_sender_follows_the_port_to_another_pod, IP, NFT),
    alike!(bandwidth::a_limited_pod_lives_and_goes, ours),
    alike!(bandwidth::a_limited_pod_lives_and_goes, reference),
    alike!(bandwidth::each_direction_is_limited_alone, ours),
    alike!(bandwidth::each_direction_is_limited_alone, reference),
    alike!(bandwidth::the_runtimes_limits_are_taken, ours),
    alike!(bandwidth::the_runtimes_limits_are_taken, reference),
    alike!(bandwidth::without_limits_nothing_is_made, ours),
    alike!(bandwidth::without_limits_nothing_is_made, reference),
    alike!(bandwidth::del_needs_nothing, ours),
    alike!(bandwidth::del_needs_nothing, reference),
    alike!(bandwidth::a_pod_without_a_veth_is_refused, ours),
    alike!(bandwidth::a_pod_without_a_veth_is_refused, reference),
    alike!(bandwidth::no_more_passes_than_the_rate_and_the_burst, ours),
    alike!(bandwidth::no_more_passes_than_the_rate_and_the_burst, reference),
    test!(bandwidth::either_suite_takes_over_the_others, Need::File(call::REFERENCE)),
    test!(bandwidth::del_restores_the_links),
    test!(bandwidth::check_lists_every_difference, TC, IP),
    test!(bandwidth::anothers_clsact_is_shared, TC),
    test!(bandwidth::anothers_discipline_stays_and_is_named, TC),
    test!(bandwidth::two_interfaces_of_a_container_have_a_device_each),
    test!(bandwidth::gc_takes_dead_pods_limits_only),
    test!(bandwidth::every_mistake_is_said_at_once),
    test!(drills::flannel, STRACE, IP, NFT),
    test!(drills::host_local, STRACE, IP, NFT),
    test!(drills::bridge, STRACE, IP, NFT),
    test!(drills::bridge_with_rules, STRACE, IP, NFT),
    test!(drills::bridge_with_vlan, STRACE, IP, NFT),
    test!(drills::macvlan, STRACE, IP, NFT),
    test!(drills::ptp, STRACE, IP, NFT),
    test!(drills::static_ipam, STRACE, IP, NFT),
    test!(drills::portmap, STRACE, IP, NFT),
    test!(drills::vxlan, STRACE, IP, NFT),
    test!(drills::host_gw, STRACE, IP, NFT),
    test!(drills::direct_routing, STRACE, IP, NFT),
    test!(drills::loopback, STRACE, IP, NFT),
    test!(drills::bandwidth, STRACE, IP, NFT, TC),
    test!(foreign::flannel, IP, NFT),
    test!(foreign::bridge, IP, NFT),
    test!(foreign::bridge_with_rules, IP, NFT),
    test!(foreign::macvlan, IP, NFT),
    test!(foreign::vxlan, IP, NFT),
    test!(foreign::host_gw, IP, NFT),
    test!(foreign::direct_routing, IP, NFT),
    test!(foreign::loopback, IP, NFT),
    test!(rules::masquerade_is_what_the_reference_plugins_write, Need::Program("nft")),
    test!(rules::masquerade_is_added_in_one_transaction_and_deleted_by_handle, Need::Program("nft")),
    test!(rules::a_handle_of_another_rule_deletes_nothing_of_others, Need::Program("nft")),
    test!(rules::a_chain_without_its_hook_is_refused, Need::Program("nft")),
    test!(rules::a_broken_frame_is_mended, Need::Program("nft")),
    test!(rules::masquerade_of_dead_attachments_is_collected, Need::Program("nft")),
    test!(rules::sixteen_at_once_beside_another_program_are_all_served, Need::Program("nft")),
    test!(rules::the_mac_check_is_what_the_reference_plugins_write, Need::Program("nft")),
    test!(start::a_closed_descriptor_is_never_anothers, STRACE),
    test!(start::without_dev_null_nothing_is_done, STRACE),
    test!(start::an_answer_into_a_broken_pipe_is_undone),
    test!(masquerade::sixteen_at_once_beside_fifty_commits_a_second_are_served),
    test!(masquerade::sixteen_at_once_with_mac_check_beside_commits_without_a_pause_are_served),
    test!(masquerade::the_first_pod_is_refused_nothing, STRACE),
    test!(watch::damage_amid_ten_thousand_elements_in_a_transaction_is_mended),
    test!(watch::damage_amid_a_hundred_transactions_is_mended),
    test!(watch::damage_amid_a_thousand_transactions_is_mended),
    test!(counts::bridge_and_host_local_are_few_calls_of_one_program, Need::Program("strace")),
    test!(counts::ptp_and_static_are_few_calls_of_one_program, Need::Program("strace")),
    test!(counts::portmap_is_three_messages_to_the_kernel, Need::Program("strace")),
    test!(counts::flannel_and_its_delegates_are_one_program, Need::Program("strace")),
    test!(counts::a_network_without_flanneld_is_a_few_dumps_more, Need::Program("strace")),
    test!(counts::a_nearly_full_range_costs_what_an_empty_one_does, Need::Program("strace")),
];

fn main() -> ExitCode {
    let environment = Environment {
        tier: "t1",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO").filter(|_| std::env::var_os("PREBUILT").is_none()),
        drills: std::env::var_os("DRILLS").is_some_and(|value| value == "all"),
    };
    harness::main(TESTS, &environment)
}
