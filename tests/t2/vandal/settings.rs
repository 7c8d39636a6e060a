//! Settings below /proc/sys/net.

use super::Object::Setting;
use super::{Row, healed};

/// IPv4's, of a host with a device DEV and a bridge.
pub const V4: &[Row] = &[
    healed(Setting, "ip_forward", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
    healed(Setting, "all/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/all/forwarding"),
    healed(Setting, "eth0/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding"),
    healed(Setting, "cni0/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/cni0/forwarding"),
    healed(Setting, "default/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/default/forwarding")
        .harmless("for links that are made later", "echo 1 > /proc/sys/net/ipv4/conf/default/forwarding"),
    healed(Setting, "port/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/$VETH/forwarding")
        .harmless("a port routes nothing", "echo 1 > /proc/sys/net/ipv4/conf/$VETH/forwarding"),
    healed(Setting, "all/rp_filter", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
        .harmless("packets come the way they go", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter"),
    healed(Setting, "cni0/rp_filter", "echo 1 > /proc/sys/net/ipv4/conf/cni0/rp_filter")
        .harmless("packets come the way they go", "echo 0 > /proc/sys/net/ipv4/conf/cni0/rp_filter"),
    healed(Setting, "cni0/arp_ignore", "echo 8 > /proc/sys/net/ipv4/conf/cni0/arp_ignore"),
    healed(Setting, "all/arp_ignore", "echo 8 > /proc/sys/net/ipv4/conf/all/arp_ignore")
        .said("arp_ignore", "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore"),
    healed(Setting, "all/arp_ignore 1", "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore")
        .harmless("each address is asked for on its link", "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore"),
    healed(Setting, "cni0/arp_filter", "echo 1 > /proc/sys/net/ipv4/conf/cni0/arp_filter")
        .harmless("pods are routed by cni0", "echo 0 > /proc/sys/net/ipv4/conf/cni0/arp_filter"),
    healed(Setting, "cni0/arp_announce", "echo 2 > /proc/sys/net/ipv4/conf/cni0/arp_announce")
        .harmless("an address of the link itself is there", "echo 0 > /proc/sys/net/ipv4/conf/cni0/arp_announce"),
    healed(Setting, "cni0/proxy_arp", "echo 1 > /proc/sys/net/ipv4/conf/cni0/proxy_arp")
        .harmless("pods ask for what is on their segment alone", "echo 0 > /proc/sys/net/ipv4/conf/cni0/proxy_arp"),
    healed(Setting, "cni0/proxy_arp_pvlan", "echo 1 > /proc/sys/net/ipv4/conf/cni0/proxy_arp_pvlan").harmless(
        "the gateway answers for pods and routes to them",
        "echo 0 > /proc/sys/net/ipv4/conf/cni0/proxy_arp_pvlan",
    ),
    healed(
        Setting,
        "all/drop_unicast_in_l2_multicast",
        "echo 1 > /proc/sys/net/ipv4/conf/all/drop_unicast_in_l2_multicast",
    )
    .harmless("", "echo 0 > /proc/sys/net/ipv4/conf/all/drop_unicast_in_l2_multicast"),
    healed(
        Setting,
        "cni0/ignore_routes_with_linkdown",
        "echo 1 > /proc/sys/net/ipv4/conf/cni0/ignore_routes_with_linkdown",
    )
    .harmless("the link is up", "echo 0 > /proc/sys/net/ipv4/conf/cni0/ignore_routes_with_linkdown"),
    healed(Setting, "cni0/accept_local", "echo 1 > /proc/sys/net/ipv4/conf/cni0/accept_local")
        .harmless("", "echo 0 > /proc/sys/net/ipv4/conf/cni0/accept_local"),
    healed(Setting, "cni0/disable_policy", "echo 1 > /proc/sys/net/ipv4/conf/cni0/disable_policy")
        .harmless("no IPsec", "echo 0 > /proc/sys/net/ipv4/conf/cni0/disable_policy"),
    healed(Setting, "ip_default_ttl", "echo 5 > /proc/sys/net/ipv4/ip_default_ttl")
        .harmless("peers are one hop away", "echo 64 > /proc/sys/net/ipv4/ip_default_ttl"),
    healed(Setting, "ip_no_pmtu_disc", "echo 1 > /proc/sys/net/ipv4/ip_no_pmtu_disc")
        .harmless("", "echo 0 > /proc/sys/net/ipv4/ip_no_pmtu_disc"),
    healed(Setting, "cni0/send_redirects", "echo 0 > /proc/sys/net/ipv4/conf/cni0/send_redirects")
        .harmless("", "echo 1 > /proc/sys/net/ipv4/conf/cni0/send_redirects"),
];

/// Those of a tunnel device.
pub const DEVICE: &[Row] = &[
    healed(Setting, "device/forwarding", "echo 0 > /proc/sys/net/ipv4/conf/$DEV/forwarding"),
    healed(Setting, "device/rp_filter", "echo 1 > /proc/sys/net/ipv4/conf/$DEV/rp_filter")
        .harmless("packets come the way they go", "echo 0 > /proc/sys/net/ipv4/conf/$DEV/rp_filter"),
    healed(Setting, "device/disable_ipv6", "echo 1 > /proc/sys/net/ipv6/conf/$DEV/disable_ipv6")
        .harmless("an IPv4 device", "echo 0 > /proc/sys/net/ipv6/conf/$DEV/disable_ipv6"),
    healed(Setting, "device/arp_ignore", "echo 8 > /proc/sys/net/ipv4/conf/$DEV/arp_ignore")
        .harmless("nobody asks by this device", "echo 0 > /proc/sys/net/ipv4/conf/$DEV/arp_ignore"),
];

/// IPv6's, of a dual-stack host with VXLAN.
pub const V6: &[Row] = &[
    healed(Setting, "IPv6: all/forwarding", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"),
    healed(Setting, "IPv6: device/forwarding", "echo 0 > /proc/sys/net/ipv6/conf/$DEV6/forwarding")
        .harmless("the host's decides", "echo 1 > /proc/sys/net/ipv6/conf/$DEV6/forwarding"),
    healed(Setting, "IPv6: cni0/forwarding", "echo 0 > /proc/sys/net/ipv6/conf/cni0/forwarding")
        .harmless("the host's decides", "echo 1 > /proc/sys/net/ipv6/conf/cni0/forwarding"),
    healed(Setting, "IPv6: device/disable_ipv6", "echo 1 > /proc/sys/net/ipv6/conf/$DEV6/disable_ipv6"),
    healed(Setting, "IPv6: cni0/disable_ipv6", "echo 1 > /proc/sys/net/ipv6/conf/cni0/disable_ipv6"),
    healed(Setting, "IPv6: eth0/disable_ipv6", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        .said("eth0", "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip addr add $PUBLIC6/64 dev eth0 nodad"),
    healed(Setting, "IPv6: cni0/accept_ra", "echo 2 > /proc/sys/net/ipv6/conf/cni0/accept_ra"),
    healed(Setting, "IPv6: device/accept_ra", "echo 2 > /proc/sys/net/ipv6/conf/$DEV6/accept_ra"),
    healed(Setting, "IPv6: cni0/proxy_ndp", "echo 1 > /proc/sys/net/ipv6/conf/cni0/proxy_ndp")
        .harmless("no address is answered for", "echo 0 > /proc/sys/net/ipv6/conf/cni0/proxy_ndp"),
    healed(Setting, "IPv6: device/mtu", "echo 1280 > /proc/sys/net/ipv6/conf/$DEV6/mtu")
        .harmless("senders are told", "echo 1430 > /proc/sys/net/ipv6/conf/$DEV6/mtu"),
];

/// What else can be done to a dual-stack host.
pub const MORE_V6: &[Row] = &[
    healed(super::Object::Device, "IPv6: deleted", "ip link del $DEV6"),
    healed(super::Object::Device, "IPv6: down", "ip link set $DEV6 down"),
    healed(super::Object::Device, "IPv6: down and up", "ip link set $DEV6 down; ip link set $DEV6 up"),
    healed(super::Object::Device, "IPv6: no resolution of neighbours", "ip link set $DEV6 arp off"),
    healed(super::Object::Device, "IPv6: multicast is off", "ip link set $DEV6 multicast off"),
    healed(super::Object::Device, "IPv6: a small MTU", "ip link set $DEV6 mtu 1000"),
    healed(super::Object::Device, "IPv6: addresses from another source", "ip link set $DEV6 addrgenmode none")
        .harmless("", "ip link set $DEV6 addrgenmode eui64"),
    healed(super::Object::Route, "IPv6: deleted", "ip -6 route del $PEER_NET6"),
    healed(super::Object::Route, "IPv6: flushed", "ip -6 route flush proto 70"),
    healed(super::Object::Route, "IPv6: a blackhole", "ip -6 route replace blackhole $PEER_NET6")
        .unready("blackhole", "ip -6 route del blackhole $PEER_NET6"),
    healed(super::Object::Route, "IPv6: by another link", "ip -6 route replace $PEER_NET6 dev eth0 proto 70"),
    healed(super::Object::Route, "IPv6: another for a part of it", "ip -6 route add ${PEER_NET6%/64}/80 dev eth0")
        .said("dev eth0", "ip -6 route del ${PEER_NET6%/64}/80"),
    healed(super::Object::Route, "IPv6: one with a better metric", "ip -6 route add $PEER_NET6 dev eth0 metric 10")
        .said("dev eth0", "ip -6 route del $PEER_NET6 dev eth0 metric 10"),
    healed(super::Object::Route, "IPv6: of the own subnet, deleted", "ip -6 route del $OWN_NET6 dev cni0"),
    healed(super::Object::Neighbour, "IPv6: deleted", "ip neigh del $PEER_ADDR6 dev $DEV6"),
    healed(
        super::Object::Neighbour,
        "IPv6: another MAC",
        "ip -6 neigh replace $PEER_ADDR6 lladdr 02:00:00:00:00:99 dev $DEV6 nud permanent",
    ),
    healed(super::Object::Fdb, "IPv6: deleted", "bridge fdb del $PEER_MAC6 dev $DEV6 self"),
    healed(
        super::Object::Fdb,
        "IPv6: to elsewhere",
        "bridge fdb replace $PEER_MAC6 dev $DEV6 dst 2001:db8::77 self permanent",
    ),
    healed(super::Object::Bridge, "IPv6: its address is removed", "ip addr del $GATEWAY6/64 dev cni0"),
    healed(
        super::Object::Bridge,
        "IPv6: its address is deprecated",
        "ip -6 addr change $GATEWAY6/64 dev cni0 preferred_lft 0",
    )
    .harmless("pods reach it", "ip addr del $GATEWAY6/64 dev cni0; ip addr add $GATEWAY6/64 dev cni0 nodad || :"),
    healed(
        super::Object::Neighbour,
        "IPv6: a pod's neighbour has another MAC",
        "ip -6 neigh replace $POD6 lladdr 02:00:00:00:00:99 dev cni0 nud permanent",
    )
    .said("02:00:00:00:00:99", "ip -6 neigh del $POD6 dev cni0"),
    healed(
        super::Object::Bridge,
        "IPv6: the gateway's address is not local",
        "ip -6 route del local $GATEWAY6 dev cni0 table local",
    ),
    healed(
        super::Object::Route,
        "IPv6: the device's address is not local",
        "ip -6 route del local ${ADDR6%/*} dev $DEV6 table local",
    ),
    healed(super::Object::Policy, "IPv6: a rule that drops", "ip -6 rule add priority 100 to $PEER_NET6 blackhole")
        .unready("ip rule", "ip -6 rule del priority 100"),
];
