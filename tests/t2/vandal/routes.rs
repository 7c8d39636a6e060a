//! Routes, and the policy by which tables are asked.

use super::Object::{Bridge, Policy, Route};
use super::{Row, healed};

/// What can be done to the route to a peer. ROUTE is its destination, the peer's subnet or the network, and BY how it leads there.
pub const PEER: &[Row] = &[
    healed(Route, "deleted", "ip route del $ROUTE"),
    healed(Route, "all are flushed", "ip route flush proto 70"),
    healed(Route, "by another gateway", "ip route replace $ROUTE via 192.168.1.77 dev eth0 proto 70"),
    healed(Route, "by another link", "ip route replace $ROUTE dev lo proto 70"),
    healed(Route, "with another metric", "ip route del $ROUTE; ip route add $ROUTE $BY proto 70 metric 50"),
    healed(Route, "one more with another metric", "ip route add $ROUTE via 192.168.1.77 dev eth0 metric 50")
        .harmless("ours comes first", "ip route del $ROUTE metric 50"),
    healed(Route, "with an MTU", "ip route replace $ROUTE $BY proto 70 mtu 600"),
    healed(Route, "with a locked MTU", "ip route replace $ROUTE $BY proto 70 mtu lock 600"),
    healed(Route, "with a hop limit", "ip route replace $ROUTE $BY proto 70 hoplimit 1"),
    healed(Route, "with a source address", "ip route replace $ROUTE $BY proto 70 src $PUBLIC")
        .harmless("pods' packets have their own", "ip route del $ROUTE proto 70 || :"),
    healed(Route, "of another protocol", "ip route replace $ROUTE $BY proto static")
        .harmless("ours comes before it", "ip route del $ROUTE proto static || :"),
    healed(Route, "a blackhole", "ip route replace blackhole $ROUTE")
        .harmless("ours comes before it", "ip route del blackhole $ROUTE || :"),
    healed(Route, "unreachable", "ip route replace unreachable $ROUTE")
        .harmless("ours comes before it", "ip route del unreachable $ROUTE || :"),
    healed(Route, "prohibited", "ip route replace prohibit $ROUTE")
        .harmless("ours comes before it", "ip route del prohibit $ROUTE || :"),
    healed(Route, "thrown", "ip route replace throw $ROUTE")
        .harmless("ours comes before it", "ip route del throw $ROUTE || :"),
    healed(Route, "a blackhole before it", "ip route prepend blackhole $ROUTE")
        .harmless("ours is put before it", "ip route del blackhole $ROUTE"),
    healed(Route, "another before it", "ip route prepend $ROUTE via 192.168.1.77 dev eth0")
        .harmless("ours is put before it", "ip route del $ROUTE via 192.168.1.77"),
    healed(
        Route,
        "with two next hops",
        "ip route replace $ROUTE proto 70 nexthop via 192.168.1.77 nexthop via 192.168.1.78",
    ),
    healed(
        Route,
        "by a next-hop object",
        "ip nexthop add id 7 via 192.168.1.77 dev eth0; ip route replace $ROUTE nhid 7 proto 70",
    )
    .then("ip nexthop flush"),
    healed(Route, "one more of ours", "ip route add 10.244.0.0/24 via 192.168.1.77 proto 70"),
    healed(Route, "another for a part of it", "ip route add ${PEER_NET%.0/24}.0/25 via 192.168.1.77")
        .said("via 192.168.1.77", "ip route del ${PEER_NET%.0/24}.0/25"),
    healed(Route, "a blackhole for a part of it", "ip route add blackhole ${PEER_NET%.0/24}.0/25")
        .said("blackhole", "ip route del blackhole ${PEER_NET%.0/24}.0/25"),
    healed(Route, "another for a type of service", "ip route add $ROUTE tos 0x10 via 192.168.1.77")
        .said("via 192.168.1.77", "ip route del $ROUTE tos 0x10"),
    healed(Route, "another in another table", "ip route add $PEER_NET via 192.168.1.77 table 99")
        .harmless("no rule asks that table", "ip route del $PEER_NET table 99"),
    healed(Route, "another for all of it, in the local table", "ip route add blackhole $PEER_NET table local")
        .unready("blackhole", "ip route del blackhole $PEER_NET table local"),
    healed(Route, "another around the network, in the local table", "ip route add blackhole 10.0.0.0/8 table local")
        .unready("blackhole", "ip route del blackhole 10.0.0.0/8 table local"),
    healed(
        Route,
        "another for a part of it, in the local table",
        "ip route add blackhole ${PEER_NET%.0/24}.0/25 table local",
    )
    .said("blackhole", "ip route del ${PEER_NET%.0/24}.0/25 table local"),
    healed(Route, "the other host's pod is local", "ip route add local $PEER_POD dev lo table local")
        .said("local", "ip route del local $PEER_POD dev lo table local"),
];

/// What can be done beside the one route of a backend that has no others.
pub const ONE: &[Row] = &[
    healed(Route, "a blackhole for all of a peer", "ip route add blackhole $PEER_NET")
        .unready("blackhole", "ip route del blackhole $PEER_NET"),
    healed(Route, "another for all of a peer", "ip route add $PEER_NET via 192.168.1.77 metric 7")
        .unready("via 192.168.1.77", "ip route del $PEER_NET via 192.168.1.77 metric 7"),
];

/// The routes to this host's own pods: the kernel makes them with cni0's address.
pub const OWN: &[Row] = &[
    healed(Route, "of the own subnet, deleted", "ip route del $OWN_NET dev cni0"),
    healed(Route, "of the own subnet, a blackhole before it", "ip route prepend blackhole $OWN_NET")
        .said("blackhole", "ip route del blackhole $OWN_NET"),
    healed(Route, "to one own pod, a blackhole", "ip route add blackhole $POD")
        .said("blackhole", "ip route del blackhole $POD"),
    healed(Route, "to one own pod, by the underlay", "ip route add $POD via 192.168.1.77")
        .said("192.168.1.77", "ip route del $POD"),
    healed(Bridge, "the gateway's address is not local", "ip route del local $GATEWAY dev cni0 table local"),
    healed(Route, "the device's address is not local", "ip route del local ${ADDR%/*} dev $DEV table local"),
];

/// Rules that ask other tables before the main one.
pub const POLICY: &[Row] = &[
    healed(
        Policy,
        "a rule to a table with a blackhole",
        "ip route add blackhole default table 99; ip rule add priority 100 to $PEER_NET lookup 99",
    )
    .unready("ip rule", "ip rule del priority 100; ip route flush table 99"),
    healed(
        Policy,
        "a rule for what pods send",
        "ip route add blackhole default table 99; ip rule add priority 100 from $OWN_NET lookup 99",
    )
    .unready("ip rule", "ip rule del priority 100; ip route flush table 99"),
    healed(
        Policy,
        "a rule for what comes by cni0",
        "ip route add blackhole default table 99; ip rule add priority 100 iif cni0 lookup 99",
    )
    .unready("ip rule", "ip rule del priority 100; ip route flush table 99"),
    healed(Policy, "a rule that drops", "ip rule add priority 100 to $PEER_NET blackhole")
        .unready("ip rule", "ip rule del priority 100"),
    healed(Policy, "a rule that drops all", "ip rule add priority 100 prohibit")
        .unready("ip rule", "ip rule del priority 100"),
    healed(Policy, "no rule for the main table", "ip rule del priority 32766")
        .unready("ip rule", "ip rule add priority 32766 lookup main"),
    healed(Policy, "no rule for the local table", "ip rule del priority 0")
        .unready("ip rule", "ip rule add priority 0 lookup local"),
    healed(
        Policy,
        "the main table's default routes are left out",
        "ip rule add priority 100 lookup main suppress_prefixlength 0",
    )
    .harmless("ours are longer", "ip rule del priority 100"),
    healed(Policy, "a rule to an empty table", "ip rule add priority 100 lookup 98")
        .harmless("the next rule decides", "ip rule del priority 100"),
    healed(
        Policy,
        "a rule for marked packets",
        "ip route add blackhole default table 99; ip rule add priority 100 fwmark 7 lookup 99",
    )
    .harmless("no packet has the mark", "ip rule del priority 100; ip route flush table 99"),
];
