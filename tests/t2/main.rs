//! Many hosts: network namespaces with the real daemon and the real plugins in them.

use std::process::ExitCode;
use std::time::Duration;

use lab::cluster::{Cluster, Spec};
use lab::mode::{Mode, Path};
use lab::topology::Topology;
use tests::harness::{self, Environment, Outcome, Test};
use tests::need::Need;

mod attachments;
mod attachments_left;
mod beside;
mod claims;
mod daemonless;
mod disturb;
mod drills;
mod entries;
mod etcd_daemon;
mod etcd_server;
mod etcd_store;
mod etcd_trust;
mod etcd_writes;
mod events;
mod files;
mod foreign_routes;
mod heal;
mod health;
mod host_ports;
mod instances;
mod kube;
mod kube_api;
mod kube_away;
mod kube_daemon;
mod kube_fleet;
mod kube_input;
mod kube_trust;
mod live;
mod live_changes;
mod lost_files;
mod managers;
mod paths;
mod reclaim;
mod rights;
mod rules;
mod samples;
mod settings;
mod sources;
mod store;
mod takeover;
mod tracer;
mod tunnels;
mod two_networks;
mod udp;
mod udp_roll;
mod underlay;
mod underlay_changes;
mod underlay_lost;
mod uninstall;
#[expect(dead_code, reason = "vm runs the other tables")]
mod vandal;
mod workers;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident $(, $need:expr)*) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[$($need),*], run: $module::$name }
    };
}

/// Debian's etcd-server and etcd-client.
const ETCD: Need = Need::Program("etcd");
const ETCDCTL: Need = Need::Program("etcdctl");
/// What people change a host with.
const IP: Need = Need::Program("ip");
const BRIDGE: Need = Need::Program("bridge");
const NFT: Need = Need::Program("nft");
const TC: Need = Need::Program("tc");
const IPTABLES: Need = Need::Program("iptables");
const SYSTEMD: Need = Need::Program("systemd-analyze");
const SETPRIV: Need = Need::Program("setpriv");
const OPENSSL: Need = Need::Program("openssl");
const STRACE: Need = Need::Program("strace");

static TESTS: &[Test] = &[
    test!(underlay::every_host_reaches_every_host),
    test!(underlay::a_process_dies_with_the_thread_that_started_it),
    test!(underlay::ten_thousand_a_second_cross_the_router),
    test!(underlay::a_vxlan_packet_is_seen_and_opened),
    test!(underlay::nothing_is_left),
    test!(paths::vxlan),
    test!(paths::direct_routing),
    test!(paths::host_gw),
    test!(paths::vxlan_dual_stack),
    test!(paths::direct_routing_dual_stack),
    test!(paths::host_gw_dual_stack),
    test!(paths::vxlan_adds_fifty_bytes_and_direct_none),
    test!(paths::pods_are_detached_without_a_trace),
    test!(live::direct_routing_and_back_under_traffic),
    test!(live::host_gw_and_back_under_traffic),
    test!(live::dual_stack_change_under_traffic),
    test!(live::a_killed_daemon_loses_no_packet),
    test!(heal::ipv4),
    test!(heal::dual_stack),
    test!(heal::host_gw),
    test!(events::a_forwarding_entry_or_neighbour_that_differs_is_undone, IP),
    test!(events::a_link_address_or_route_that_differs_is_undone, IP),
    test!(events::the_routes_of_a_bgp_daemon_cost_no_pass, IP),
    test!(tunnels::extension_routes_by_commands, Need::Program("ip")),
    test!(tunnels::a_command_that_fails_is_shown_and_told_again, Need::Program("ip")),
    test!(tunnels::wireguard_works_or_names_its_module),
    test!(tunnels::ipip_works_or_names_its_module),
    test!(store::daemons_that_race_get_different_subnets),
    test!(store::garbage_disturbs_nobody),
    test!(store::hostile_leases_disturb_nobody),
    test!(takeover::vxlan),
    test!(takeover::vxlan_dual_stack),
    test!(takeover::direct_routing),
    test!(takeover::host_gw),
    test!(takeover::routes_of_any_scope_are_replaced),
    test!(takeover::nothing_is_removed_before_the_store_is_read),
    test!(takeover::hosts_with_different_backends_reach_each_other),
    test!(underlay_changes::an_address_changes),
    test!(underlay_changes::the_mtu_changes),
    test!(underlay_changes::the_link_goes_down_and_up),
    test!(underlay_changes::the_link_below_vxlan_goes_down_and_up),
    test!(underlay_changes::one_family_is_missing),
    test!(underlay_changes::the_interface_is_made_anew),
    test!(underlay_changes::the_interface_below_vxlan_is_made_anew),
    test!(underlay_changes::the_default_route_is_followed),
    test!(underlay_changes::behind_nat),
    test!(underlay_changes::an_address_that_another_host_has),
    test!(underlay_changes::a_public_ip_that_another_host_has),
    test!(samples::systemd_accepts_the_units, SYSTEMD),
    test!(samples::flannel),
    test!(samples::flannel_without_ip_masq),
    test!(samples::vxlan),
    test!(samples::host_gw),
    test!(samples::direct_routing),
    test!(samples::vxlan_without_flanneld),
    test!(samples::host_gw_without_flanneld),
    test!(rules::sources_with_iptables_modes_rules, NFT, IP),
    test!(rules::sources_with_nftables_modes_rules, NFT, IP),
    test!(host_ports::beside_kube_proxys_iptables, NFT, IPTABLES, IP),
    test!(host_ports::beside_kube_proxys_nftables, NFT, IP),
    test!(rules::they_are_repaired, NFT),
    test!(rules::a_forward_policy_of_drop_is_overridden, NFT, IPTABLES),
    test!(rules::a_chain_that_drops_is_named, NFT),
    test!(rules::those_of_gos_nftables_mode_are_taken_over_and_back, NFT),
    test!(rules::those_of_gos_iptables_mode_are_replaced_and_back, NFT, IPTABLES),
    test!(daemonless::vxlan),
    test!(daemonless::direct_routing),
    test!(daemonless::host_gw),
    test!(daemonless::vxlan_dual_stack),
    test!(daemonless::direct_routing_dual_stack),
    test!(daemonless::host_gw_dual_stack),
    test!(daemonless::peers_come_and_go),
    test!(daemonless::check_names_what_is_missing),
    test!(daemonless::pods_that_come_at_once_are_all_served),
    test!(daemonless::the_host_is_cleared_when_nobody_is_left),
    test!(daemonless::a_vxlan_flanneld_is_not_fought_with),
    test!(daemonless::a_host_gw_flanneld_is_not_fought_with),
    test!(daemonless::status_looks_at_the_underlay),
    test!(udp::every_pod_reaches_every_pod, Need::Tun),
    test!(udp::a_stream_arrives_whole, Need::Tun),
    test!(udp::datagrams_of_every_size_arrive, Need::Tun),
    test!(udp::a_plain_host_is_served, Need::Tun),
    test!(udp::strangers_and_liars_are_not_heard, Need::Tun),
    test!(udp::a_destination_without_a_host_is_unreachable, Need::Tun),
    test!(udp::vxlan_and_back_under_traffic, Need::Tun),
    test!(udp::a_restarted_daemon_goes_on_with_the_same_device, Need::Tun),
    test!(udp::a_deleted_device_is_back, Need::Tun),
    test!(udp::a_port_that_is_taken_is_said_and_waited_for, Need::Tun),
    test!(etcd_daemon::a_lease_is_upstreams_and_so_are_its_peers, ETCD, ETCDCTL),
    test!(etcd_daemon::hosts_without_ipv4_get_different_subnets, ETCD, ETCDCTL),
    test!(etcd_daemon::daemons_that_race_share_no_half, ETCD, ETCDCTL),
    test!(etcd_daemon::a_reservation_stays_one, ETCD, ETCDCTL),
    test!(etcd_daemon::it_waits_for_etcd_and_outlives_it, ETCD, ETCDCTL),
    test!(kube::nodes_are_leases_as_they_change),
    test!(kube::heartbeats_wake_nobody),
    test!(kube::servers_without_streaming_lists_are_read_by_pages),
    test!(kube::a_watch_goes_on_where_it_ended),
    test!(kube::refusals_are_said_and_outlived),
    test!(kube::half_an_answer_is_no_answer),
    test!(kube::the_lease_is_the_nodes_pod_cidr),
    test!(kube::another_writer_of_the_annotations_is_not_fought_with),
    test!(kube::the_last_known_leases_outlive_the_server),
    test!(kube::the_condition_follows_the_network),
    test!(kube::a_config_map_that_is_replaced_is_followed),
    test!(kube_away::a_server_that_is_away_is_asked_less_and_less_often),
    test!(kube_away::a_server_that_refuses_is_asked_less_and_less_often),
    test!(kube_away::a_server_that_ends_each_watch_is_asked_less_and_less_often),
    test!(kube_away::a_configuration_that_changes_meanwhile_is_followed),
    test!(kube_away::a_network_that_does_not_work_is_said),
    test!(kube_away::another_writer_of_the_condition_keeps_it),
    test!(kube_api::the_double_answers_as_the_real_server, OPENSSL),
    test!(kube_trust::a_rotated_authority_and_token_are_read_anew, OPENSSL),
    test!(kube_trust::a_certificate_for_another_name_is_refused, OPENSSL),
    test!(kube_trust::a_silent_server_is_given_up_and_asked_again),
    test!(kube_trust::an_answer_that_stops_halfway_is_given_up),
    test!(kube_input::wrong_nodes_touch_nobody, IP, BRIDGE),
    test!(kube_input::a_node_on_the_servers_host_takes_nothing, IP, BRIDGE),
    test!(kube_input::a_shared_address_is_named, IP, BRIDGE),
    test!(kube_input::a_wrong_configuration_changes_nothing, IP, BRIDGE),
    test!(kube_input::a_missing_right_is_named),
    test!(kube_input::the_refusal_of_an_admission_webhook_is_quoted),
    test!(kube_fleet::the_kernels_have_what_the_nodes_say, BRIDGE),
    test!(kube_daemon::nodes_are_hosts),
    test!(kube_daemon::a_missing_pod_cidr_is_waited_for),
    test!(kube_daemon::a_host_starts_without_the_server),
    test!(kube_daemon::a_bridge_that_hides_packets_is_named),
    test!(kube_daemon::a_pod_cidr_outside_the_network_is_refused),
    test!(health::ready_is_the_host_whose_data_path_is_up, ETCD, ETCDCTL),
    test!(health::a_busy_port_ends_the_start),
    test!(health::clients_that_stay_do_not_keep_a_probe_out),
    test!(health::without_descriptors_it_waits_and_does_not_spin),
    test!(files::killed_before_a_file_has_a_name_it_leaves_nothing, STRACE),
    test!(files::killed_before_a_file_is_replaced_it_leaves_nothing, STRACE),
    test!(files::killed_while_a_file_is_written_it_leaves_nothing, STRACE),
    test!(files::killed_while_the_wireguard_key_is_made_it_makes_another, STRACE),
    test!(files::modes_do_not_depend_on_the_umask),
    test!(files::a_unit_of_upstreams_starts),
    test!(store::a_lock_that_is_held_is_said_and_waited_for),
    test!(etcd_writes::a_lease_is_written_renewed_and_deleted_by_compare, ETCD, ETCDCTL),
    test!(etcd_writes::etcd_leases_are_not_left_behind, ETCD, ETCDCTL),
    test!(etcd_writes::of_many_creators_one_wins, ETCD, ETCDCTL),
    test!(etcd_store::a_member_that_is_dead_or_paused_is_left, ETCD, ETCDCTL),
    test!(etcd_store::what_was_missed_is_seen_after_compaction_and_restore, ETCD, ETCDCTL, Need::Program("ip")),
    test!(etcd_store::a_burst_is_few_changes, ETCD, ETCDCTL),
    test!(etcd_trust::certificates_are_read_anew, ETCD, ETCDCTL, Need::Program("openssl")),
    test!(etcd_trust::a_token_is_renewed, ETCD, ETCDCTL),
    test!(attachments::a_deleted_bridge, IP),
    test!(attachments::a_bridge_that_is_down, IP),
    test!(attachments::a_bridge_without_its_address, IP),
    test!(attachments::a_bridge_with_another_mac, IP),
    test!(attachments::a_bridge_that_does_not_forward),
    test!(attachments::a_port_that_is_unplugged, IP),
    test!(attachments::a_port_that_is_down, IP),
    test!(attachments::a_port_without_hairpin, IP, BRIDGE),
    test!(attachments::a_port_that_is_isolated, IP, BRIDGE),
    test!(attachments::a_pair_without_its_address, IP),
    test!(attachments::a_pair_that_is_down, IP),
    test!(attachments::a_pair_without_its_route, IP),
    test!(attachments::a_flushed_ruleset, IP, NFT),
    test!(attachments::a_deleted_masquerade_table, IP, NFT),
    test!(attachments::a_deleted_table_of_host_ports, IP, NFT),
    test!(attachments::a_deleted_host_port, IP, NFT),
    test!(attachments::deleted_tables_of_the_firewall, NFT),
    test!(attachments::flushed_accepts_in_forward, NFT, IPTABLES),
    test!(attachments::flushed_tables_of_iptables, IPTABLES),
    test!(attachments::forgotten_sources_of_firewalld),
    test!(attachments::a_limit_of_what_the_pod_receives, TC),
    test!(attachments::a_limit_of_what_the_pod_sends, TC),
    test!(attachments::a_limit_with_another_rate, TC),
    test!(attachments::a_way_past_the_limit, TC),
    test!(attachments::a_limit_without_its_discipline, TC),
    test!(attachments::a_deleted_device_of_a_limit, IP),
    test!(attachments::a_device_of_a_limit_that_is_down, IP),
    test!(attachments_left::a_link_to_a_pod_that_is_gone_is_reported, IP),
    test!(attachments_left::pods_that_come_and_go_are_not_reported, NFT),
    test!(attachments_left::a_detached_pod_is_not_reported),
    test!(attachments_left::an_exempted_attachment_is_left_alone, IP),
    test!(attachments_left::without_the_flag_nothing_is_repaired, IP),
    test!(attachments_left::a_record_in_use_is_waited_for, IP),
    test!(attachments_left::the_sixth_repair_in_a_minute_waits, IP),
    test!(uninstall::nothing_of_the_network_is_left, NFT, IP),
    test!(reclaim::a_pod_without_del_leaves_nothing, NFT, IP),
    test!(reclaim::without_a_living_pod_nothing_is_removed),
    test!(reclaim::a_namespace_with_a_process_is_kept),
    test!(reclaim::a_record_in_use_is_left_alone),
    test!(claims::one_that_holds_the_gateways_address, IP),
    test!(claims::one_that_holds_a_dns_servers_address),
    test!(claims::one_that_holds_the_stores_address, IP, ETCD, ETCDCTL),
    test!(claims::a_network_over_the_hosts_lan_is_said),
    test!(claims::one_of_the_underlays_broadcast_address),
    test!(claims::one_of_the_underlays_network_address),
    test!(entries::an_fdb_entry_to_elsewhere, IP, BRIDGE),
    test!(entries::an_fdb_entry_to_elsewhere_that_ages, IP, BRIDGE),
    test!(entries::an_fdb_entry_to_another_port, IP, BRIDGE),
    test!(entries::a_foreign_default_fdb_entry, IP, BRIDGE),
    test!(entries::a_reachable_neighbour_with_another_mac, IP, BRIDGE),
    test!(entries::a_stale_neighbour_of_ipv6, IP, BRIDGE),
    test!(entries::a_permanent_neighbour_with_another_mac, IP, BRIDGE),
    test!(foreign_routes::one_by_a_gateway_stays, IP),
    test!(foreign_routes::one_with_a_metric_stays, IP),
    test!(foreign_routes::one_of_ipv6_stays, IP),
    test!(foreign_routes::one_of_protocol_static_stays, IP),
    test!(foreign_routes::one_without_a_gateway_stays, IP),
    test!(foreign_routes::one_from_before_the_start_stays, IP),
    test!(foreign_routes::the_networks_own_before_udps, IP, Need::Tun),
    test!(foreign_routes::a_peers_own_before_vxlans, IP),
    test!(live_changes::a_routed_host_of_vxlan_keeps_its_path),
    test!(live_changes::a_routed_host_of_direct_routing_keeps_its_path),
    test!(live_changes::a_routed_host_of_another_vni_keeps_its_path),
    test!(live_changes::another_vni),
    test!(live_changes::another_port),
    test!(live_changes::another_vni_and_port),
    test!(instances::the_second_refuses),
    test!(rights::vxlan_without_the_capability_ends, SETPRIV),
    test!(rights::host_gw_without_the_capability_ends, SETPRIV),
    test!(rights::alloc_needs_no_capability, SETPRIV),
    test!(live_changes::another_mtu),
    test!(lost_files::the_status_is_there_when_subnet_env_is, STRACE),
    test!(lost_files::a_deleted_subnet_env),
    test!(lost_files::an_edited_subnet_env),
    test!(lost_files::a_replaced_subnet_env),
    test!(lost_files::a_removed_folder),
    test!(lost_files::a_deleted_status),
    test!(lost_files::an_emptied_status),
    test!(drills::vxlan, STRACE, IP, NFT),
    test!(drills::host_gw, STRACE, IP, NFT),
    test!(drills::udp, STRACE, IP, NFT, Need::Tun),
    test!(drills::alloc, STRACE, IP, NFT),
    test!(drills::ipip, STRACE, IP, NFT),
    test!(drills::wireguard, STRACE, IP, NFT),
    test!(drills::extension, STRACE, IP, NFT),
    test!(settings::ip_forward, IP),
    test!(settings::forwarding_of_the_device, IP),
    test!(settings::forwarding_of_the_underlay, IP),
    test!(settings::forwarding_of_ipv6, IP),
    test!(settings::disable_ipv6_of_the_device, IP),
    test!(settings::ttl_of_the_device, IP),
    test!(settings::master_of_the_device, IP),
    test!(settings::arp_of_the_device, IP),
    test!(settings::multicast_of_the_device, IP),
    test!(settings::mtu_of_the_device, IP),
    test!(two_networks::vxlan_beside_vxlan, NFT),
    test!(two_networks::host_gw_beside_host_gw, NFT),
    test!(two_networks::vxlan_beside_host_gw, NFT),
    test!(two_networks::one_vni_for_two_is_refused),
    test!(two_networks::a_network_inside_anothers_is_refused),
    test!(udp_roll::go_takes_over_from_a_stopped_daemon, IP, Need::Tun),
    test!(udp_roll::go_takes_over_from_a_killed_daemon, IP, Need::Tun),
    test!(udp_roll::a_stopped_daemon_is_started, Need::Tun),
    test!(udp_roll::a_killed_daemon_is_started, Need::Tun),
    test!(udp_roll::a_killed_daemon_is_started_over_etcd, Need::Tun, ETCD, ETCDCTL),
    test!(udp_roll::go_is_followed_by_ours, IP, Need::Tun),
    test!(udp_roll::go_is_followed_by_ours_over_etcd, IP, Need::Tun, ETCD, ETCDCTL),
    test!(underlay_lost::a_link_that_is_down, IP),
    test!(underlay_lost::a_link_without_addresses, IP),
    test!(underlay_lost::a_link_that_is_deleted, IP),
    test!(underlay_lost::a_link_of_host_gw_that_is_down, IP),
    test!(beside::what_others_made_stays, IP, NFT),
    test!(managers::networkd_deletes_the_routes_of_host_gw, IP),
    test!(managers::networkd_deletes_the_routes_of_vxlan, IP),
    test!(managers::networkd_takes_every_link, IP),
    test!(managers::udev_gives_links_other_macs, IP),
    test!(managers::udev_gives_a_new_device_another_mac, IP),
    test!(managers::networkmanager_activates_the_uplink, IP),
    test!(managers::networkmanager_takes_the_devices, IP),
    test!(vandal::vxlan, IP, BRIDGE, NFT, TC),
    test!(vandal::a_host, IP, BRIDGE, NFT, TC),
    test!(vandal::pods, IP, BRIDGE, NFT, TC),
    test!(vandal::rules, IP, BRIDGE, NFT, TC, IPTABLES),
    test!(vandal::ipv6, IP, BRIDGE, NFT, TC),
    test!(vandal::host_gw, IP, BRIDGE, NFT, TC),
    test!(vandal::udp, IP, BRIDGE, NFT, TC, Need::Tun),
    test!(workers::a_udp_receiver_without_memory, STRACE, Need::Tun),
    test!(workers::a_udp_sender_whose_device_fails, STRACE, Need::Tun),
    test!(workers::a_store_follower_that_panics, STRACE),
    test!(workers::a_reader_of_announcements_that_has_ended),
];

/// What a helper of a test fails with.
type Failure = Box<dyn std::error::Error>;

/// A cluster that works.
fn up(topology: Topology, mode: Mode, dual_stack: bool) -> Result<Cluster, Box<dyn std::error::Error>> {
    let spec = Spec { topology, mode, dual_stack, outlive: false };
    Ok(Cluster::up(spec, &harness::executables()?)?)
}

/// Every pod gets an echo from every other that `mode` reaches, by the path that `mode` wants.
fn all_pairs_answer(cluster: &Cluster, mode: Mode) -> Outcome {
    cluster.wait_paths(mode)?;
    for (from, to) in cluster.pairs() {
        if mode.path(cluster.spec.topology.on_one_segment(from, to)) == Path::None {
            continue;
        }
        for family in cluster.families() {
            let echo = cluster.pinger(from, to, *family)?.echo(Duration::from_secs(2));
            echo.map_err(|error| format!("pod{from} to pod{to} {family:?}: {error}"))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let environment = Environment {
        tier: "t2",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO").filter(|_| std::env::var_os("PREBUILT").is_none()),
        drills: std::env::var_os("DRILLS").is_some_and(|value| value == "all"),
        in_vm: false,
    };
    harness::main(TESTS, &environment)
}
