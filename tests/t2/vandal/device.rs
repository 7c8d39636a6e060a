//! Devices of the overlay.

use super::Object::{Device, Neighbour, Route, Rules};
use super::{Row, healed};

/// Linux 6.1 renames no link that is up, and the daemon sets ours up at once.
const RENAMED: &str =
    "kill -STOP $PID; ip link set $DEV down; ip link set $DEV name gone0; ip link set gone0 up; kill -CONT $PID";

/// What can be done to any tunnel device of ours. DEV is its name.
pub const ANY: &[Row] = &[
    healed(Device, "deleted", "ip link del $DEV"),
    healed(Device, "down", "ip link set $DEV down"),
    healed(Device, "down and up", "ip link set $DEV down; ip link set $DEV up"),
    healed(Device, "a smaller MTU", "ip link set $DEV mtu 1300"),
    healed(Device, "the alias is another", "ip link set $DEV alias mine"),
    healed(Device, "the alias is empty", "ip link set $DEV alias ''"),
    healed(Device, "all multicast", "ip link set $DEV allmulticast on")
        .harmless("more is received, nothing less", "ip link set $DEV allmulticast off"),
    healed(Device, "promiscuous", "ip link set $DEV promisc on")
        .harmless("more is received, nothing less", "ip link set $DEV promisc off"),
    healed(Device, "a short queue", "ip link set $DEV txqlen 1").harmless("", "ip link set $DEV txqlen $QUEUE"),
    healed(Device, "another group", "ip link set $DEV group 7")
        .harmless("a number for people", "ip link set $DEV group 0"),
    healed(
        Device,
        "a queue that drops everything",
        "tc qdisc replace dev $DEV root tbf rate 8bit burst 10b latency 1us",
    )
    .said("tbf", "tc qdisc del dev $DEV root"),
    healed(Device, "a queue of one packet", "tc qdisc replace dev $DEV root pfifo limit 1")
        .harmless("a packet at a time passes", "tc qdisc del dev $DEV root"),
];

/// What can be done to a VXLAN device.
pub const VXLAN: &[Row] = &[
    healed(Device, "multicast is off", "ip link set $DEV multicast off"),
    healed(Device, "renamed", "ip link set $DEV name gone0"),
    healed(Device, "another MAC", "ip link set $DEV address 02:00:00:00:00:99"),
    healed(Device, "protodown", "ip link set $DEV protodown on"),
    healed(Device, "dormant", "ip link set $DEV mode dormant").harmless("", "ip link set $DEV mode default"),
    healed(Device, "no resolution of neighbours", "ip link set $DEV arp off"),
    healed(Device, "a port of a bridge", "ip link add br9 type bridge; ip link set $DEV master br9")
        .then("ip link del br9"),
    healed(Device, "moved to another namespace", "ip link set $DEV netns pod2")
        .unready("", "ip netns exec pod2 ip link del $DEV"),
    healed(Device, "TTL 1", "ip link set $DEV type vxlan ttl 1"),
    healed(Device, "another TOS", "ip link set $DEV type vxlan tos 0x10")
        .harmless("", "ip link set $DEV type vxlan tos 0"),
    healed(Device, "fragments are forbidden", "ip link set $DEV type vxlan df set"),
    healed(Device, "it learns", "ip link set $DEV type vxlan learning"),
    healed(Device, "another ageing time", "ip link set $DEV type vxlan ageing 5")
        .harmless("permanent entries do not age", "ip link set $DEV type vxlan ageing 300"),
    healed(Device, "another source address", "ip link set $DEV type vxlan local 192.0.2.7"),
    healed(Device, "another lower link", "ip link set $DEV type vxlan dev lo"),
    healed(Device, "a default destination", "ip link set $DEV type vxlan remote 192.0.2.77")
        .harmless("it has no frame for an unknown address", "ip link del $DEV"),
    healed(
        Device,
        "made again with another VNI",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 77 dstport 8472 dev eth0; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with another port",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 dstport 4789 dev eth0; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again without a lower link",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 dstport 8472; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again, and inherits the TTL",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 ttl inherit; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with GBP",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 gbp; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again as a proxy",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning proxy; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with short circuits",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning rsc; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with announcements of misses",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning l2miss l3miss; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again without checksums",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning noudpcsum; kill -CONT $PID",
    ).harmless("the packets inside have checksums", "ip link del $DEV"),
    healed(
        Device,
        "made again to be told by packets",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan external dstport 8472; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with a limit of entries",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning maxaddress 1; kill -CONT $PID",
    ),
    healed(
        Device,
        "made again with few source ports",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type vxlan id 1 local $PUBLIC dstport 8472 dev eth0 nolearning srcport 9 10; kill -CONT $PID",
    ).harmless("any port may be a source", "ip link del $DEV"),
    healed(
        Device,
        "another kind of link has its name",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type bridge; kill -CONT $PID",
    )
    .unready("kind", "ip link del $DEV"),
    healed(
        Device,
        "another device has its VNI",
        "kill -STOP $PID; ip link del $DEV && ip link add thief type vxlan id 1 dstport 8472 dev eth0; kill -CONT $PID",
    )
    .unready("", "ip link del thief"),
];

/// What can be done to the udp backend's device.
pub const TUN: &[Row] = &[
    healed(Device, "a larger MTU", "ip link set $DEV mtu 1500"),
    healed(Device, "renamed", "ip link set $DEV name gone0"),
    healed(Device, "resolution of neighbours", "ip link set $DEV arp on")
        .harmless("a point-to-point link", "ip link set $DEV arp off"),
    healed(Device, "moved to another namespace", "ip link set $DEV netns pod2")
        .unready("", "ip netns exec pod2 ip link del $DEV"),
];

/// What can be done to an IPIP device.
pub const IPIP: &[Row] = &[
    healed(Device, "renamed", RENAMED),
    healed(Device, "moved to another namespace", "ip link set $DEV netns pod2")
        .unready("", "ip netns exec pod2 ip link del $DEV"),
    healed(Device, "TTL 1", "ip link set $DEV type ipip ttl 1 pmtudisc"),
    healed(Device, "another source address", "ip link set $DEV type ipip local 192.0.2.7"),
    healed(
        Device,
        "made again with one destination for all",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type ipip local $PUBLIC remote 192.0.2.77; kill -CONT $PID",
    ),
    healed(
        Device,
        "another kind of link has its name",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type bridge; kill -CONT $PID",
    )
    .unready("kind", "ip link del $DEV"),
    healed(
        Rules,
        "a chain at input drops the tunnel's packets",
        "nft add table inet other '{ chain c { type filter hook input priority 0; meta l4proto 4 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
];

/// What can be done to a WireGuard device.
pub const WIREGUARD: &[Row] = &[
    healed(Device, "renamed", RENAMED),
    healed(
        Device,
        "another kind of link has its name",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type bridge; kill -CONT $PID",
    )
    .unready("kind", "ip link del $DEV"),
    healed(
        Device,
        "without a key",
        "kill -STOP $PID; ip link del $DEV; ip link add $DEV up type wireguard; kill -CONT $PID",
    ),
    healed(
        Rules,
        "a chain at input drops the tunnel's packets",
        "nft add table inet other '{ chain c { type filter hook input priority 0; udp dport 51820 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
];

/// What can be done to the underlay's link. It is not ours.
pub const UNDERLAY: &[Row] = &[
    healed(Device, "the underlay is down", "ip link set eth0 down")
        .unready("eth0", "ip link set eth0 up; ip addr add fd00:1::b/64 dev eth0 nodad"),
    healed(Device, "the underlay has no address", "ip addr del $PUBLIC/24 dev eth0")
        .unready("eth0", "ip addr add $PUBLIC/24 brd + dev eth0"),
    healed(Device, "the underlay resolves no neighbours", "ip link set eth0 arp off")
        .unready("eth0", "ip link set eth0 arp on"),
    healed(
        Device,
        "the underlay is a port of a bridge that is down",
        "ip link add br9 type bridge; ip link set eth0 master br9",
    )
    .unready("br9", "ip link set eth0 nomaster; ip link del br9"),
    healed(
        Device,
        "the underlay is a port of a bridge that is up",
        "ip link add br9 up type bridge; ip link set eth0 master br9",
    )
    .unready("br9", "ip link set eth0 nomaster; ip link del br9"),
    healed(Device, "the underlay has a smaller MTU", "ip link set eth0 mtu 1400")
        .harmless("the overlay's follows, and senders are told", "ip link set eth0 mtu 1500"),
    healed(Device, "the underlay has a larger MTU", "ip link set eth0 mtu 9000")
        .harmless("the overlay's follows", "ip link set eth0 mtu 1500"),
    healed(
        Device,
        "the underlay's queue drops everything",
        "tc qdisc replace dev eth0 root tbf rate 8bit burst 10b latency 1us",
    )
    .said("tbf", "tc qdisc del dev eth0 root"),
    healed(
        Neighbour,
        "the peer has another MAC on the underlay",
        "ip neigh replace $PEER_IP lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
    )
    .said("02:00:00:00:00:99", "ip neigh del $PEER_IP dev eth0"),
    healed(Route, "the underlay's address is not local", "ip route del local $PUBLIC dev eth0 table local")
        .unready("local", "ip addr del $PUBLIC/24 dev eth0; ip addr add $PUBLIC/24 brd + dev eth0"),
];
