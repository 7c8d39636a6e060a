//! cni0 and the pods' ports.

use super::Object::{Bridge, Fdb, Neighbour, Port, Rules};
use super::{Row, healed};

/// What can be done to cni0.
pub const BRIDGE: &[Row] = &[
    healed(Bridge, "deleted", "ip link del cni0"),
    healed(Bridge, "down", "ip link set cni0 down"),
    healed(Bridge, "down and up", "ip link set cni0 down; ip link set cni0 up"),
    healed(Bridge, "renamed", "ip link set cni0 name gone0"),
    healed(Bridge, "another MAC", "ip link set cni0 address 02:00:00:00:00:99"),
    healed(Bridge, "a smaller MTU", "ip link set cni0 mtu 576").harmless("senders are told", "ip link set cni0 mtu 1450"),
    healed(Bridge, "its address is removed", "ip addr del $GATEWAY/24 dev cni0"),
    healed(
        Bridge,
        "its address has another prefix length",
        "ip addr del $GATEWAY/24 dev cni0; ip addr add $GATEWAY/32 dev cni0",
    ).harmless("the other is there, too", "ip addr del $GATEWAY/32 dev cni0"),
    healed(Bridge, "its address is deprecated", "ip addr change $GATEWAY/24 dev cni0 preferred_lft 0").harmless("pods reach it", "ip addr change $GATEWAY/24 dev cni0 valid_lft forever preferred_lft forever"),
    healed(Bridge, "its address ends", "ip addr change $GATEWAY/24 dev cni0 valid_lft 3600 preferred_lft 3600").harmless("when it ends it is made again", "ip addr change $GATEWAY/24 dev cni0 valid_lft forever preferred_lft forever"),
    healed(
        Bridge,
        "its address adds no route",
        "ip addr change $GATEWAY/24 dev cni0 noprefixroute; ip route del $OWN_NET dev cni0 || :",
    ),
    healed(Bridge, "one more address", "ip addr add 192.0.2.7/24 dev cni0")
        .harmless("", "ip addr del 192.0.2.7/24 dev cni0"),
    healed(Bridge, "the alias is empty", "ip link set cni0 alias ''"),
    healed(Bridge, "no resolution of neighbours", "ip link set cni0 arp off"),
    healed(Bridge, "multicast is off", "ip link set cni0 multicast off"),
    healed(Bridge, "dormant", "ip link set cni0 mode dormant").harmless("", "ip link set cni0 mode default"),
    healed(Bridge, "spanning tree", "ip link set cni0 type bridge stp_state 1"),
    healed(
        Bridge,
        "spanning tree with a long delay",
        "ip link set cni0 type bridge stp_state 1 forward_delay 3000; ip link set $VETH nomaster; ip link set $VETH master cni0",
    )
    .harmless("without spanning tree nothing waits", "ip link set cni0 type bridge forward_delay 1500"),
    healed(Bridge, "a forward delay", "ip link set cni0 type bridge forward_delay 3000")
        .harmless("without spanning tree nothing waits", "ip link set cni0 type bridge forward_delay 1500"),
    healed(Bridge, "entries do not age", "ip link set cni0 type bridge ageing_time 0")
        .harmless("what is not known is flooded", "ip link set cni0 type bridge ageing_time 30000"),
    healed(Bridge, "another priority", "ip link set cni0 type bridge priority 7")
        .harmless("without spanning tree it decides nothing", "ip link set cni0 type bridge priority 32768"),
    healed(Bridge, "no learning of local addresses", "ip link set cni0 type bridge no_linklocal_learn 1")
        .harmless("", "ip link set cni0 type bridge no_linklocal_learn 0 || :"),
    healed(Bridge, "multicast snooping", "ip link set cni0 type bridge mcast_snooping 0")
        .harmless("multicast is flooded", "ip link set cni0 type bridge mcast_snooping 1"),
    healed(Bridge, "group_fwd_mask", "ip link set cni0 type bridge group_fwd_mask 8")
        .harmless("", "ip link set cni0 type bridge group_fwd_mask 0"),
    healed(Bridge, "nf_call_iptables", "ip link set cni0 type bridge nf_call_iptables 1")
        .harmless("", "ip link set cni0 type bridge nf_call_iptables 0"),
    healed(
        Bridge,
        "a port of another bridge's device",
        "ip link add vx9 type vxlan id 99 dstport 9; ip link set vx9 up; ip link set vx9 master cni0",
    )
    .harmless("one more port", "ip link del vx9"),
    healed(
        Bridge,
        "a queue that drops everything",
        "tc qdisc replace dev cni0 root tbf rate 8bit burst 10b latency 1us",
    )
    .said("tbf", "tc qdisc del dev cni0 root"),
    healed(
        Bridge,
        "another kind of link has its name",
        "kill -STOP $PID; ip link del cni0; ip link add cni0 up type vxlan id 99 dstport 9; kill -CONT $PID",
    )
    .said("cni0", "ip link del cni0"),
    healed(
        Neighbour,
        "a pod's neighbour has another MAC",
        "ip neigh replace $POD lladdr 02:00:00:00:00:99 dev cni0 nud permanent",
    )
    .said("02:00:00:00:00:99", "ip neigh del $POD dev cni0"),
    healed(
        Neighbour,
        "a pod's neighbour is reachable with another MAC",
        "ip neigh replace $POD lladdr 02:00:00:00:00:99 dev cni0 nud reachable",
    )
    .harmless("the kernel asks again", "ip neigh del $POD dev cni0"),
    healed(
        Neighbour,
        "a pod's neighbour is permanent",
        "ip neigh replace $POD lladdr $POD_MAC dev cni0 nud permanent",
    )
    .harmless("it is the pod's MAC", "ip neigh del $POD dev cni0"),
    healed(Fdb, "a pod's MAC is at another port", "bridge fdb replace $POD_MAC dev $MATE master static").harmless(
        "the bridge learns where it is",
        "bridge fdb del $POD_MAC dev $VETH master || bridge fdb del $POD_MAC dev $MATE master",
    ),
    healed(Fdb, "a pod's MAC stays at another port", "bridge fdb replace $POD_MAC dev $MATE master static sticky")
        .said("bridge fdb del", "bridge fdb del $POD_MAC dev $MATE master"),
    healed(Fdb, "a pod's MAC is the bridge's own", "bridge fdb replace $POD_MAC dev cni0 self local")
        .said("bridge fdb del", "bridge fdb del $POD_MAC dev cni0 self local"),
    healed(Fdb, "a pod's MAC is at its own port", "bridge fdb replace $POD_MAC dev $VETH master static")
        .harmless("it is there", "bridge fdb del $POD_MAC dev $VETH master"),
    healed(Bridge, "promiscuous", "ip link set cni0 promisc on").harmless("", "ip link set cni0 promisc off"),
];

/// What can be done to a pod's port, VETH.
pub const PORT: &[Row] = &[
    healed(Port, "down", "ip link set $VETH down"),
    healed(Port, "unplugged", "ip link set $VETH nomaster"),
    healed(Port, "at another bridge", "ip link add br9 up type bridge; ip link set $VETH master br9")
        .then("ip link del br9"),
    healed(Port, "a smaller MTU", "ip link set $VETH mtu 576"),
    healed(Port, "another MAC", "ip link set $VETH address 02:00:00:00:00:99"),
    healed(Port, "renamed", "ip link set $VETH name gone0").said("is gone", "ip link set gone0 name $VETH"),
    healed(Port, "dormant", "ip link set $VETH mode dormant").harmless("", "ip link set $VETH mode default"),
    healed(Port, "no resolution of neighbours", "ip link set $VETH arp off")
        .harmless("a port has no neighbours", "ip link set $VETH arp on"),
    healed(Port, "multicast is off", "ip link set $VETH multicast off").harmless("", "ip link set $VETH multicast on"),
    healed(Port, "an alias", "ip link set $VETH alias mine")
        .harmless("a text for people", "ip link set $VETH alias ''"),
    healed(Port, "no hairpin", "bridge link set dev $VETH hairpin off"),
    healed(Port, "isolated", "bridge link set dev $VETH isolated on"),
    healed(
        Port,
        "isolated, as all are",
        "bridge link set dev $VETH isolated on; bridge link set dev $MATE isolated on",
    ),
    healed(Port, "guarded", "bridge link set dev $VETH guard on")
        .harmless("no pod sends BPDUs", "bridge link set dev $VETH guard off"),
    healed(Port, "root block", "bridge link set dev $VETH root_block on")
        .harmless("no spanning tree", "bridge link set dev $VETH root_block off"),
    healed(Port, "no flooding", "bridge link set dev $VETH flood off"),
    healed(Port, "no flooding of broadcasts", "bridge link set dev $VETH bcast_flood off"),
    healed(Port, "no flooding of multicast", "bridge link set dev $VETH mcast_flood off"),
    healed(Port, "no learning", "bridge link set dev $VETH learning off"),
    healed(Port, "neither learning nor flooding", "bridge link set dev $VETH learning off flood off"),
    healed(Port, "neighbours are suppressed", "bridge link set dev $VETH neigh_suppress on"),
    healed(Port, "locked", "bridge link set dev $VETH locked on"),
    healed(Port, "blocking", "bridge link set dev $VETH state 4"),
    healed(Port, "disabled", "bridge link set dev $VETH state 0"),
    healed(Port, "listening", "bridge link set dev $VETH state 1"),
    healed(Port, "another priority", "bridge link set dev $VETH priority 5")
        .harmless("no spanning tree", "bridge link set dev $VETH priority 32"),
    healed(Port, "another cost", "bridge link set dev $VETH cost 50")
        .harmless("no spanning tree", "bridge link set dev $VETH cost 2"),
    healed(Port, "multicast to unicast", "bridge link set dev $VETH mcast_to_unicast on")
        .harmless("", "bridge link set dev $VETH mcast_to_unicast off"),
];

/// What can be done to the packet rules of a pod that has masquerade and MAC check.
pub const RULES: &[Row] = &[
    healed(Rules, "the whole ruleset is flushed", "nft flush ruleset"),
    healed(Rules, "the masquerade table is deleted", "nft delete table inet cni_plugins_masquerade"),
    healed(Rules, "the masquerade chain is flushed", "nft flush chain inet cni_plugins_masquerade masq_checks"),
    healed(Rules, "the MAC check's table is deleted", "nft delete table bridge nat"),
    healed(Rules, "the MAC check's table is flushed", "nft flush table bridge nat"),
    healed(Rules, "the masquerade table is dormant", "nft add table inet cni_plugins_masquerade '{ flags dormant; }'"),
];
