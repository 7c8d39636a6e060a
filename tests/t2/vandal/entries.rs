//! Addresses, neighbours and forwarding entries.

use super::Object::{Address, Fdb, Neighbour};
use super::{Row, healed};

/// What can be done to the addresses of the device of any backend.
pub const ADDRESSES: &[Row] = &[
    healed(Address, "removed", "ip addr del $ADDR dev $DEV"),
    healed(Address, "flushed", "ip -4 addr flush dev $DEV"),
    healed(
        Address,
        "another prefix length",
        "kill -STOP $PID; ip addr del $ADDR dev $DEV; ip addr add ${ADDR%/*}/24 dev $DEV; kill -CONT $PID",
    ),
    healed(Address, "one more", "ip addr add 192.0.2.7/24 dev $DEV"),
    healed(Address, "one more of the pods' network", "ip addr add 10.244.0.1/24 dev $DEV"),
    healed(
        Address,
        "another scope",
        "kill -STOP $PID; ip addr del $ADDR dev $DEV; ip addr add $ADDR dev $DEV scope link; kill -CONT $PID",
    )
    .harmless("its packets are the devices' own", "ip addr del $ADDR dev $DEV"),
    healed(Address, "it ends", "ip addr change $ADDR dev $DEV valid_lft 3600 preferred_lft 3600").harmless(
        "when it ends it is made again",
        "ip addr change $ADDR dev $DEV valid_lft forever preferred_lft forever",
    ),
    healed(Address, "it is deprecated", "ip addr change $ADDR dev $DEV preferred_lft 0")
        .harmless("pods do not send from it", "ip addr change $ADDR dev $DEV valid_lft forever preferred_lft forever"),
    healed(Address, "it is on another link, too", "ip addr add $ADDR dev lo")
        .harmless("it leads to this host", "ip addr del $ADDR dev lo"),
];

/// The same of the IPv6 device.
pub const ADDRESSES_V6: &[Row] = &[
    healed(Address, "IPv6: removed", "ip addr del $ADDR6 dev $DEV6"),
    healed(Address, "IPv6: flushed", "ip -6 addr flush dev $DEV6"),
    healed(Address, "IPv6: one more", "ip addr add 2001:db8::7/64 dev $DEV6"),
    healed(Address, "IPv6: it is deprecated", "ip -6 addr change $ADDR6 dev $DEV6 preferred_lft 0")
        .harmless("pods do not send from it", "ip addr del $ADDR6 dev $DEV6"),
];

/// What can be done to a peer's neighbour and forwarding entry of a VXLAN device. IPV is `-4` or `-6`.
pub const VXLAN: &[Row] = &[
    healed(Neighbour, "deleted", "ip neigh del $PEER_ADDR dev $DEV"),
    healed(Neighbour, "all are flushed", "ip neigh flush dev $DEV nud all"),
    healed(Neighbour, "another MAC", "ip neigh replace $PEER_ADDR lladdr 02:00:00:00:00:99 dev $DEV nud permanent"),
    healed(Neighbour, "reachable, with another MAC", "ip neigh replace $PEER_ADDR lladdr 02:00:00:00:00:99 dev $DEV nud reachable"),
    healed(Neighbour, "stale", "ip neigh replace $PEER_ADDR lladdr $PEER_MAC dev $DEV nud stale"),
    healed(Neighbour, "failed", "ip neigh replace $PEER_ADDR dev $DEV nud failed"),
    healed(Neighbour, "noarp", "ip neigh replace $PEER_ADDR lladdr 02:00:00:00:00:99 dev $DEV nud noarp"),
    healed(Neighbour, "one more", "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev $DEV nud permanent"),
    healed(Neighbour, "learned elsewhere", "ip neigh replace $PEER_ADDR lladdr $PEER_MAC dev $DEV nud permanent extern_learn")
        .harmless("the same entry", "ip neigh replace $PEER_ADDR lladdr $PEER_MAC dev $DEV nud permanent"),
    healed(Neighbour, "a router", "ip neigh replace $PEER_ADDR lladdr $PEER_MAC dev $DEV nud permanent router")
        .harmless("the same entry", "ip neigh replace $PEER_ADDR lladdr $PEER_MAC dev $DEV nud permanent"),
    healed(Fdb, "deleted", "bridge fdb del $PEER_MAC dev $DEV self"),
    healed(Fdb, "to elsewhere", "bridge fdb replace $PEER_MAC dev $DEV dst 192.0.2.77 self permanent"),
    healed(Fdb, "to elsewhere, and it ages", "bridge fdb replace $PEER_MAC dev $DEV dst 192.0.2.77 self dynamic"),
    healed(Fdb, "it ages", "bridge fdb replace $PEER_MAC dev $DEV dst $PEER_IP self dynamic"),
    healed(Fdb, "to another port", "bridge fdb replace $PEER_MAC dev $DEV dst $PEER_IP port 9999 self permanent"),
    healed(Fdb, "to another VNI", "bridge fdb replace $PEER_MAC dev $DEV dst $PEER_IP vni 7 self permanent"),
    healed(Fdb, "by another link", "bridge fdb replace $PEER_MAC dev $DEV dst $PEER_IP via lo self permanent"),
    healed(Fdb, "one more destination", "bridge fdb append 00:00:00:00:00:00 dev $DEV dst 192.0.2.77 self permanent"),
    healed(Fdb, "one more entry", "bridge fdb add 02:00:00:00:00:98 dev $DEV dst 192.0.2.77 self permanent"),
    healed(Fdb, "one more entry that ages", "bridge fdb add 02:00:00:00:00:98 dev $DEV dst 192.0.2.77 self dynamic")
        .harmless("no neighbour has that MAC", "bridge fdb del 02:00:00:00:00:98 dev $DEV self"),
    healed(Fdb, "by a next-hop object", "kill -STOP $PID; ip nexthop add id 9 via 192.0.2.77 fdb; ip nexthop add id 10 group 9 fdb; bridge fdb del $PEER_MAC dev $DEV self; bridge fdb add $PEER_MAC dev $DEV nhid 10 self permanent; kill -CONT $PID")
        .then("ip nexthop flush"),
];
