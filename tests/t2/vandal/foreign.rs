//! What other programs do beside ours.

use super::Object::{Policy, Rules};
use super::{Row, healed};

/// Beside ours, and nothing of ours is changed.
pub const BESIDE: &[Row] = &[
    healed(
        Rules,
        "a table that accepts",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; policy accept; }; }'",
    )
    .harmless("", "nft delete table inet other"),
    healed(Policy, "another link", "ip link add br8 up type bridge; ip addr add 198.51.100.1/24 dev br8")
        .harmless("", "ip link del br8"),
];

/// Packet rules of others that drop.
pub const RULES: &[Row] = &[
    healed(Rules, "iptables: FORWARD drops", "iptables -P FORWARD DROP")
        .harmless("an accept is put there", "nft delete table ip filter"),
    healed(Rules, "iptables: a rule of FORWARD drops", "iptables -A FORWARD -s 10.244.0.0/16 -j DROP")
        .unready("FORWARD", "nft delete table ip filter"),
    healed(Rules, "iptables: a rule of FORWARD drops what leaves by the device", "iptables -A FORWARD -o $DEV -j DROP")
        .unready("FORWARD", "nft delete table ip filter"),
    healed(
        Rules,
        "iptables: a rule of INPUT drops the tunnel's packets",
        "iptables -A INPUT -p udp --dport 8472 -j DROP",
    )
    .unready("INPUT", "nft delete table ip filter"),
    healed(Rules, "iptables: INPUT drops", "iptables -A INPUT -i lo -j ACCEPT; iptables -P INPUT DROP")
        .unready("INPUT", "nft delete table ip filter"),
    healed(Rules, "iptables: a rule of PREROUTING drops", "iptables -t raw -A PREROUTING -i cni0 -j DROP")
        .unready("PREROUTING", "nft delete table ip raw"),
    healed(Rules, "iptables: a rule of POSTROUTING drops", "iptables -t mangle -A POSTROUTING -o cni0 -j DROP")
        .unready("POSTROUTING", "nft delete table ip mangle"),
    healed(
        Rules,
        "a chain at forward drops",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; policy drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a rule at forward drops",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; ip daddr 10.244.0.0/16 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a rule at forward rejects",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; iifname cni0 reject; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a chain at prerouting drops",
        "nft add table inet other '{ chain c { type filter hook prerouting priority 0; iifname cni0 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a chain at postrouting drops",
        "nft add table inet other '{ chain c { type filter hook postrouting priority 0; oifname cni0 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a chain at input drops the tunnel's packets",
        "nft add table inet other '{ chain c { type filter hook input priority 0; udp dport 8472 drop; }; }'",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a chain at output drops the tunnel's packets",
        "nft add table inet other \"{ chain c { type filter hook output priority 0; ip daddr $PEER_IP drop; }; }\"",
    )
    .unready("chain c", "nft delete table inet other"),
    healed(
        Rules,
        "a chain of bridges drops",
        "nft add table bridge other '{ chain c { type filter hook prerouting priority 0; policy drop; }; }'",
    )
    .unready("chain c", "nft delete table bridge other"),
    healed(
        Rules,
        "a chain at a device's ingress drops",
        "nft add table netdev other \"{ chain c { type filter hook ingress device eth0 priority 0; policy drop; }; }\"",
    )
    .unready("chain c", "nft delete table netdev other"),
    healed(
        Rules,
        "a rule drops another protocol's",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; tcp dport 25 drop; }; }'",
    )
    .harmless("pods reach each other", "nft delete table inet other"),
    healed(
        Rules,
        "a rule drops another network's",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; ip saddr 10.9.0.0/16 drop; }; }'",
    )
    .harmless("pods reach each other", "nft delete table inet other"),
];

/// flanneld's own packet rules (`--ip-masq`).
pub const OWN: &[Row] = &[
    healed(Rules, "the ruleset is flushed", "nft flush ruleset"),
    healed(Rules, "the table is deleted", "nft delete table ip flannel-ipv4"),
    healed(Rules, "the table is flushed", "nft flush table ip flannel-ipv4"),
    healed(Rules, "the table is dormant", "nft add table ip flannel-ipv4 '{ flags dormant; }'"),
    healed(Rules, "the chain is flushed", "nft flush chain ip flannel-ipv4 postrtg"),
    healed(
        Rules,
        "the chain is deleted",
        "nft flush chain ip flannel-ipv4 postrtg; nft delete chain ip flannel-ipv4 postrtg",
    ),
    healed(Rules, "the chain drops what no rule takes", "nft chain ip flannel-ipv4 postrtg '{ policy drop; }'"),
    healed(
        Rules,
        "a rule is deleted",
        "nft delete rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 postrtg | sed -n 's/.*224.0.0.0.*handle //p')",
    ),
    healed(Rules, "a rule more at the top", "nft insert rule ip flannel-ipv4 postrtg return"),
    healed(Rules, "a rule more at the end", "nft add rule ip flannel-ipv4 postrtg drop"),
    healed(
        Rules,
        "a rule is replaced",
        "nft replace rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 postrtg | sed -n 's/.*224.0.0.0.*handle //p') drop",
    ),
    healed(
        Rules,
        "a chain more",
        "nft add chain ip flannel-ipv4 more '{ type filter hook forward priority 0; policy drop; }'",
    ),
    healed(Rules, "a set more", "nft add set ip flannel-ipv4 more '{ type ipv4_addr; }'"),
];
