//! Host ports with the chains of the reference plugins' iptables backend (containernetworking/plugins,
//! plugins/meta/portmap/portmap_iptables.go):
//!
//! ```text
//! *nat
//! -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
//! -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
//! -A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
//! -A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
//! -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
//! -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 8080 -j CNI-DN-e8f6f419596f7f47b3468
//! -A CNI-DN-e8f6f419596f7f47b3468 -s 10.1.2.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-e8f6f419596f7f47b3468 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-e8f6f419596f7f47b3468 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.2.3:80
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

use super::masquerade::chain;
use super::plan::{Line, Part, Place, Removal};
use super::remove::Collection;
use super::rule::{Rule, clip_comment, host};
use crate::Key;
use crate::rules::portmap::{Backend, HostPort, Masquerade, Portmap, protocol_name};

const TABLE: &str = "nat";
const DNAT: &str = "CNI-HOSTPORT-DNAT";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
/// What older versions jumped from to a chain `CNI-SN-…`.
const SNAT: &str = "CNI-HOSTPORT-SNAT";
const PREFIX: &str = "CNI-DN-";
const OLD_PREFIX: &str = "CNI-SN-";
/// The most ports of one `multiport` match (XT_MULTI_PORTS, linux/netfilter/xt_multiport.h).
const MOST_PORTS: usize = 15;

/// The start of the comments of a network's rules.
fn network_mark(network: &str) -> String {
    format!("dnat name: \"{network}\" id: ")
}

fn comment(key: Key<'_>) -> String {
    clip_comment(&format!("{}\"{}\"", network_mark(key.network), key.container))
}

/// The rules of the attachment, one part per family that has a port.
pub fn parts(key: Key<'_>, portmap: &Portmap) -> Vec<Part> {
    Family::ALL.into_iter().filter_map(|family| part(key, portmap, family)).collect()
}

fn part(key: Key<'_>, portmap: &Portmap, family: Family) -> Option<Part> {
    let ports: Vec<&HostPort> = portmap.ports.iter().filter(|port| Family::from(port.pod) == family).collect();
    if ports.is_empty() {
        return None;
    }
    let own = chain(PREFIX, key);
    let rules = ports.iter().flat_map(|port| port_rules(portmap, port)).collect();
    let entries = entries(key, portmap, family, &own);
    let chains = vec![DNAT.to_owned()];
    Some(Part { chains, frame: frame(portmap), own: [(own, rules)].into(), entries, ..Part::new(family, TABLE) })
}

fn line(chain: &str, place: Place, words: &[&str]) -> Line {
    Line { chain: chain.to_owned(), place, rule: Rule::new(words.iter().copied()) }
}

/// The rules that all attachments share.
fn frame(portmap: &Portmap) -> Vec<Line> {
    let local = ["-m", "addrtype", "--dst-type", "LOCAL", "-j", DNAT];
    let mut lines = vec![line("PREROUTING", Place::Last, &local), line("OUTPUT", Place::Last, &local)];
    if let (Some(how), None) = (portmap.masquerade, external_chain(portmap)) {
        let mark = format!("{0:#x}/{0:#x}", how.mark());
        let marks = ["-m", "comment", "--comment", "CNI portfwd masquerade mark", "-j", "MARK", "--set-xmark", &mark];
        lines.push(line(SET_MARK, Place::Last, &marks));
        lines.push(line(MASQUERADE, Place::Last, &["-m", "mark", "--mark", &mark, "-j", "MASQUERADE"]));
        let jump = ["-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", MASQUERADE];
        lines.push(line("POSTROUTING", Place::First, &jump));
    }
    lines
}

fn external_chain(portmap: &Portmap) -> Option<&str> {
    match &portmap.backend {
        Backend::Iptables { set_mark_chain } => set_mark_chain.as_deref(),
        Backend::Nftables => None,
    }
}

/// The rules of one port: first whose packets are marked, then where they go.
fn port_rules(portmap: &Portmap, port: &HostPort) -> Vec<Rule> {
    let (protocol, number) = (protocol_name(port.protocol), port.port.to_string());
    let rule = |from: Option<String>, target: &[&str]| {
        let mut words = Vec::new();
        words.extend(from.into_iter().flat_map(|net| ["-s".to_owned(), net]));
        words.extend(port.address.into_iter().flat_map(|address| ["-d".to_owned(), host(address)]));
        let matches = ["-p", &protocol, "-m", &protocol, "--dport", &number, "-j"];
        words.extend(matches.iter().chain(target).map(|word| (*word).to_owned()));
        Rule::new(words)
    };
    let chain = external_chain(portmap).unwrap_or(SET_MARK);
    let mut rules: Vec<Rule> = match portmap.masquerade {
        None => Vec::new(),
        Some(Masquerade { all: true, .. }) => vec![rule(None, &[chain])],
        Some(_) => {
            let loopback = port.pod.is_ipv4().then(|| "127.0.0.1/32".to_owned());
            let net = masked(port.pod).to_string();
            std::iter::once(net).chain(loopback).map(|from| rule(Some(from), &[chain])).collect()
        }
    };
    let to = SocketAddr::new(port.pod.ip(), port.pod_port).to_string();
    rules.push(rule(None, &["DNAT", "--to-destination", &to]));
    rules
}

/// The rules that lead to the attachment's chain, per protocol. As upstream, they name the ports of both families.
fn entries(key: Key<'_>, portmap: &Portmap, family: Family, own: &str) -> Vec<Line> {
    let mut by_protocol: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for port in &portmap.ports {
        let ports = by_protocol.entry(protocol_name(port.protocol)).or_default();
        if !ports.contains(&port.port) {
            ports.push(port.port);
        }
    }
    let (before, behind) = arranged(portmap.conditions.of(family));
    let comment = comment(key);
    let entry = |protocol: &str, ports: &[u16]| {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let matches = ["-p", protocol, "-m", "comment", "--comment", &comment, "-m", "multiport", "--dports", &ports];
        let words = matches.map(str::to_owned).into_iter();
        let all = before.iter().cloned().chain(words).chain(behind.iter().cloned());
        let rule = Rule::new(all.chain(["-j".to_owned(), own.to_owned()]));
        Line { chain: DNAT.to_owned(), place: Place::Last, rule }
    };
    let chunks =
        by_protocol.iter().flat_map(|(protocol, ports)| ports.chunks(MOST_PORTS).map(move |ports| (protocol, ports)));
    chunks.map(|(protocol, ports)| entry(protocol, ports)).collect()
}

/// The options that `iptables-save` prints first, in its order.
const FIRST: [(&str, &str); 4] =
    [("-s", "--source"), ("-d", "--destination"), ("-i", "--in-interface"), ("-o", "--out-interface")];

/// The words of conditions in the order of `iptables-save`: those before the protocol, and those behind the other
/// matches.
fn arranged(words: &[String]) -> (Vec<String>, Vec<String>) {
    let mut first: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut rest: Vec<String> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let not = word == "!";
        let option = if not { words.next() } else { Some(word) };
        let place = FIRST.iter().position(|(short, long)| option.is_some_and(|word| word == short || word == long));
        let mut match_words: Vec<String> = if not { vec!["!".to_owned()] } else { Vec::new() };
        match (place, option) {
            (Some(place), _) => {
                match_words.push(FIRST[place].0.to_owned());
                match_words.extend(words.next().map(|value| with_prefix(value)));
                first.insert(place, match_words);
            }
            (None, option) => {
                match_words.extend(option.cloned());
                rest.extend(match_words);
            }
        }
    }
    (first.into_values().flatten().collect(), rest)
}

/// An address as `iptables-save` prints it; other words are unchanged.
fn with_prefix(word: &str) -> String {
    word.parse::<IpNetwork>().map_or_else(|_| word.to_owned(), |net| masked(net).to_string())
}

/// What DEL removes, from the attachment's names alone.
pub fn removal(key: Key<'_>) -> Removal {
    let own = [PREFIX, OLD_PREFIX].map(|prefix| chain(prefix, key));
    Removal { table: TABLE, own: own.into(), parents: vec![DNAT, SNAT], entries: Vec::new() }
}

/// What GC removes: the chains of the network's attachments that are not `valid`.
pub fn collection(network: &str, valid: &[Key<'_>]) -> Collection {
    let valid: BTreeSet<String> = valid.iter().map(|key| comment(*key)).collect();
    Collection { table: TABLE, parent: DNAT, prefix: PREFIX, network: network_mark(network), valid }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Saved, input};
    use super::*;
    use crate::rules::portmap::Conditions;

    const KEY: Key<'_> = Key { network: "net1", container: "cid1", ifname: "eth0" };

    /// Behind ADD of Debian's portmap plugin 1.1.1 (`iptables-save` of iptables 1.8.9).
    const IPV4: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-e8f6f419596f7f47b3468 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-DN-e8f6f419596f7f47b3468 -s 10.1.2.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.2.3:80
-A CNI-DN-e8f6f419596f7f47b3468 -s 10.1.2.0/24 -d 10.1.2.1/32 -p tcp -m tcp --dport 8081 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -s 127.0.0.1/32 -d 10.1.2.1/32 -p tcp -m tcp --dport 8081 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -d 10.1.2.1/32 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.1.2.3:81
-A CNI-DN-e8f6f419596f7f47b3468 -s 10.1.2.0/24 -p udp -m udp --dport 53 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -s 127.0.0.1/32 -p udp -m udp --dport 53 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.2.3:53
-A CNI-HOSTPORT-DNAT -s 1.2.3.4/32 -p sctp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 9 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-DNAT -s 1.2.3.4/32 -p tcp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 8080,8081 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-DNAT -s 1.2.3.4/32 -p udp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 53 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
COMMIT
"#;
    const IPV6: &str = r#"*nat
:CNI-DN-e8f6f419596f7f47b3468 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-DN-e8f6f419596f7f47b3468 -s fd00::/64 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00::3]:80
-A CNI-DN-e8f6f419596f7f47b3468 -s fd00::/64 -p udp -m udp --dport 53 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -p udp -m udp --dport 53 -j DNAT --to-destination [fd00::3]:53
-A CNI-DN-e8f6f419596f7f47b3468 -s fd00::/64 -d fd00::1/128 -p sctp -m sctp --dport 9 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-e8f6f419596f7f47b3468 -d fd00::1/128 -p sctp -m sctp --dport 9 -j DNAT --to-destination [fd00::3]:9
-A CNI-HOSTPORT-DNAT -p sctp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 9 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 8080,8081 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name: \"net1\" id: \"cid1\"" -m multiport --dports 53 -j CNI-DN-e8f6f419596f7f47b3468
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
COMMIT
"#;

    fn portmap() -> Portmap {
        let port = |protocol, address: Option<&str>, port, pod: &str, pod_port| HostPort {
            protocol,
            address: address.map(|address| address.parse().unwrap()),
            port,
            pod: pod.parse().unwrap(),
            pod_port,
        };
        Portmap {
            ports: vec![
                port(6, None, 8080, "10.1.2.3/24", 80),
                port(6, Some("10.1.2.1"), 8081, "10.1.2.3/24", 81),
                port(17, None, 53, "10.1.2.3/24", 53),
                port(6, None, 8080, "fd00::3/64", 80),
                port(17, None, 53, "fd00::3/64", 53),
                port(132, Some("fd00::1"), 9, "fd00::3/64", 9),
            ],
            standby: Vec::new(),
            masquerade: Some(Masquerade { mark_bit: 13, all: false }),
            conditions: Conditions { v4: vec!["-s".into(), "1.2.3.4".into()], v6: Vec::new() },
            backend: Backend::Iptables { set_mark_chain: None },
        }
    }

    #[test]
    fn the_rules_are_the_reference_plugins() {
        for (part, golden) in parts(KEY, &portmap()).iter().zip([IPV4, IPV6]) {
            assert_eq!(part.put(&Saved::parse(golden)), [], "{:?}", part.family);
            let text = input("nat", &part.put(&Saved::default())).unwrap();
            for rule in golden.lines().filter(|line| line.starts_with("-A ") && !line.contains("POSTROUTING")) {
                assert!(text.contains(&format!("{rule}\n")), "{rule}\n{text}");
            }
        }
    }

    #[test]
    fn what_add_made_is_removed() {
        let golden = Saved::parse(IPV4);
        let own = chain(PREFIX, KEY);
        let commands: Vec<String> = removal(KEY).take(Family::V4, &golden).iter().map(ToString::to_string).collect();
        assert_eq!(commands.first(), Some(&format!(":{own} - [0:0]")));
        assert_eq!(commands.iter().filter(|line| line.starts_with("-D CNI-HOSTPORT-DNAT")).count(), 3);
        assert_eq!(commands.last(), Some(&format!("-X {own}")));
        let stale = |valid: &[Key<'_>]| {
            let rules = golden.0["CNI-HOSTPORT-DNAT"].clone();
            rules.iter().filter_map(|rule| collection("net1", valid).stale(rule)).count()
        };
        assert_eq!((stale(&[]), stale(&[KEY])), (3, 0));
    }

    #[test]
    fn options_change_what_is_marked() {
        let rules = |portmap: Portmap| {
            parts(KEY, &portmap)[0].own[&chain(PREFIX, KEY)].iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let all = rules(Portmap { masquerade: Some(Masquerade { mark_bit: 5, all: true }), ..portmap() });
        assert_eq!(all[0], "-p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK");
        let external = Backend::Iptables { set_mark_chain: Some("KUBE-MARK-MASQ".into()) };
        let external = Portmap { backend: external, ..portmap() };
        assert!(parts(KEY, &external)[0].frame.iter().all(|line| !line.chain.starts_with("CNI-")));
        assert_eq!(rules(external)[0], "-s 10.1.2.0/24 -p tcp -m tcp --dport 8080 -j KUBE-MARK-MASQ");
        let none = rules(Portmap { masquerade: None, ..portmap() });
        assert!(none.len() == 3 && none.iter().all(|rule| rule.contains("-j DNAT")), "{none:?}");
    }

    #[test]
    fn conditions_are_put_in_the_order_of_iptables_save() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (before, behind) = arranged(&words("-m mark ! --mark 0x1 -i eth0 ! --source 10.0.0.0/8"));
        assert_eq!(before, words("! -s 10.0.0.0/8 -i eth0"));
        assert_eq!(behind, words("-m mark ! --mark 0x1"));
    }
}
