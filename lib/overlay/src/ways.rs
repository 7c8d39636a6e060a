//! Whether the kernel sends pods' packets the way that is planned, when another program has its say in that. Pure.
//!
//! Rules of the routing policy can lead packets past every route of ours. What they select by is many things, so the kernel
//! itself is asked, for some peers: one question for what pods send there, and one for what comes from there.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::{KERNEL_VXLAN_PORT, LinkKind, Route, State};
use kernel::survey::{SeenLink, SeenRule};
use kernel::types::{Family, IfName, TableId, host_net};

use crate::lease::Subnets;
use crate::rules::{Flow, Packet, What};
use crate::taken::Way;
use crate::underlay::{Found, Survey};

/// How the words begin for a rule of the kernel's own that is missing.
pub const MISSING: &str = "no rule asks";

/// How many peers of a family are asked for: rules are for networks, and rarely for a host.
const PEERS: usize = 16;

/// A packet that the kernel is asked for, and where it must leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where it is from.
    pub src: IpAddr,
    /// Where it is to.
    pub dst: IpAddr,
    /// The link that it comes by.
    pub iif: IfName,
    /// The link that it must leave by.
    pub dev: IfName,
    /// The gateway that it must be sent to; `None`: whichever.
    pub via: Option<IpAddr>,
}

impl Question {
    /// What is wrong with the kernel's answer; `None`: nothing.
    pub fn judge(&self, answer: Result<Option<Route>, String>) -> Option<String> {
        let Self { src, dst, iif, dev, via } = self;
        let how = match answer {
            Ok(Some(route)) if route.dev.as_ref() == Some(dev) && (via.is_none() || route.via == *via) => return None,
            Ok(Some(Route { dev: Some(dev), via: Some(via), .. })) => format!("leaves by {dev} to {via}"),
            Ok(Some(Route { dev: Some(dev), .. })) => format!("leaves by {dev}"),
            Ok(_) => "stays on this host".to_owned(),
            Err(error) => format!("does not leave ({error})"),
        };
        Some(format!("what comes by {iif} from {src} to {dst} {how}, not by {dev}"))
    }
}

/// The rules that are not the usual ones, and the usual ones that are missing, in words. Empty: the main table decides.
pub fn strange(rules: &[SeenRule]) -> Vec<String> {
    let mut words: Vec<String> = rules.iter().filter(|rule| !rule.is_usual()).map(ToString::to_string).collect();
    for family in Family::ALL {
        let of_family = || rules.iter().filter(|rule| rule.family == family);
        for table in [TableId::LOCAL, TableId::MAIN] {
            let asked = of_family().any(|rule| rule.is_usual() && rule.table == Some(table));
            if of_family().next().is_some() && !asked {
                let name = if table == TableId::MAIN { "main" } else { "local" };
                words.push(format!("{MISSING} table {name}"));
            }
        }
    }
    words
}

/// Queueing disciplines that a link may have of itself, or by the host's choice (`net.core.default_qdisc`), and that drop only
/// what is too much.
const QUEUES: [&str; 15] = [
    "",
    "noop",
    "noqueue",
    "pfifo_fast",
    "pfifo",
    "bfifo",
    "mq",
    "multiq",
    "fq",
    "fq_codel",
    "fq_pie",
    "codel",
    "sfq",
    "cake",
    "clsact",
];

/// What a person should know of the queueing discipline of a link that pods' packets leave by.
pub fn queue(link: &SeenLink) -> Option<String> {
    let SeenLink { name, queue, .. } = link;
    (!QUEUES.contains(&queue.as_str())).then(|| {
        format!(
            "{name} has the queueing discipline {queue}, which may drop what pods send: `tc -s qdisc show dev {name}`; if it \
             is not yours: `tc qdisc del dev {name} root`"
        )
    })
}

/// What to ask: for peers, while a link has an address of this host's `own` subnets.
pub fn questions<'a>(
    desired: &State,
    ways: impl Iterator<Item = Way<'a>> + Clone,
    survey: &Survey,
    own: Subnets,
) -> Vec<Question> {
    let mut questions = Vec::new();
    for subnet in own.iter() {
        let ours = |dev: &IfName| desired.links.contains_key(dev);
        let place = survey.addresses.iter().find(|seen| subnet.contains(seen.key.net.ip()) && !ours(&seen.key.dev));
        let Some((bridge, pod)) = place.map(|seen| &seen.key.dev).zip(second(subnet)) else { continue };
        let place = |way: Way<'_>| Some((second(way.subnet)?, (way.route.dev.clone()?, way.route.via)));
        for (dst, (dev, via)) in to_family(&ways, subnet).filter_map(place).take(PEERS) {
            let (src, iif) = (pod, bridge.clone());
            questions.push(Question { src, dst, iif, dev: dev.clone(), via });
            questions.push(Question { src: dst, dst: pod, iif: dev, dev: bridge.clone(), via: None });
        }
    }
    questions
}

/// How many peers of a family stand for all: rules are for networks.
const SAMPLES: usize = 4;

/// UDP and IPv4 in IPv4 (IANA's protocol numbers).
const UDP: u8 = 17;
const IPIP: u8 = 4;

/// The packets that must pass this host's packet rules: those of pods, and those between hosts that carry them. `udp_port` is
/// that of the udp backend.
pub fn flows<'a>(
    desired: &State,
    ways: impl Iterator<Item = Way<'a>> + Clone,
    survey: &Survey,
    own: Subnets,
    underlay: Option<&Found>,
    udp_port: Option<u16>,
) -> Vec<Flow> {
    let mut flows = Vec::new();
    for subnet in own.iter() {
        pods(desired, to_family(&ways, subnet), (survey, subnet), &mut flows);
    }
    if let Some(found) = underlay {
        tunnels(desired, found, udp_port, &mut flows);
    }
    flows
}

/// The ways to the subnets of the family of `subnet`.
fn to_family<'a>(ways: &(impl Iterator<Item = Way<'a>> + Clone), subnet: IpNetwork) -> impl Iterator<Item = Way<'a>> {
    ways.clone().filter(move |way| Family::from(way.subnet) == Family::from(subnet))
}

/// Those between pods of this host's `subnet` and pods of peers.
fn pods<'a>(
    desired: &State,
    ways: impl Iterator<Item = Way<'a>>,
    (survey, subnet): (&Survey, IpNetwork),
    flows: &mut Vec<Flow>,
) {
    let ours = |dev: &IfName| desired.links.contains_key(dev);
    let bridge = survey.addresses.iter().find(|seen| subnet.contains(seen.key.net.ip()) && !ours(&seen.key.dev));
    let bridge = bridge.map(|seen| &seen.key.dev);
    for Way { subnet: theirs, route, .. } in ways.take(SAMPLES) {
        let mut add = |(src, dst), (iif, oif): (Option<&IfName>, Option<&IfName>)| {
            let packet = Packet { src, dst, iif: iif.cloned(), oif: oif.cloned(), protocol: None, port: None };
            flows.push(Flow { what: What::Pods(subnet), packet });
        };
        add((subnet, theirs), (bridge, route.dev.as_ref()));
        add((theirs, subnet), (route.dev.as_ref(), bridge));
    }
}

/// Those between this host and others, by the devices that it has.
fn tunnels(desired: &State, found: &Found, udp_port: Option<u16>, flows: &mut Vec<Flow>) {
    let any = |family: Family| (family, family.default_net());
    for (name, link) in &desired.links {
        let listens = || desired.wireguard.get(name).and_then(|device| device.listen_port);
        let hosts: Vec<(Family, IpNetwork)> = match &link.kind {
            LinkKind::Vxlan(_) => {
                let entries = desired.fdb.iter().filter(|(key, _)| key.dev == *name);
                entries.map(|(_, entry)| (entry.dst.into(), host_net(entry.dst))).take(SAMPLES).collect()
            }
            _ => Vec::new(),
        };
        let (protocol, port) = match &link.kind {
            LinkKind::Vxlan(vxlan) => (UDP, Some(vxlan.port.unwrap_or(KERNEL_VXLAN_PORT))),
            LinkKind::Wireguard => (UDP, listens()),
            LinkKind::Ipip(_) => (IPIP, None),
            LinkKind::TunTap(_) => (UDP, udp_port),
            _ => continue,
        };
        let hosts = if hosts.is_empty() { Family::ALL.map(any).to_vec() } else { hosts };
        for (family, theirs) in hosts {
            let Some(own) = *found.underlay.addresses.get(family) else { continue };
            between(host_net(own), theirs, (protocol, port), &found.underlay.dev, flows);
        }
    }
}

fn between(
    own: IpNetwork,
    theirs: IpNetwork,
    (protocol, port): (u8, Option<u16>),
    dev: &IfName,
    flows: &mut Vec<Flow>,
) {
    let words = match port {
        Some(port) => format!("udp dport {port}"),
        None => format!("meta l4proto {protocol}"),
    };
    let packet = |src, dst| Packet { src, dst, iif: None, oif: None, protocol: Some(protocol), port };
    let here = Packet { iif: Some(dev.clone()), ..packet(theirs, own) };
    let there = Packet { oif: Some(dev.clone()), ..packet(own, theirs) };
    flows.push(Flow { what: What::FromHosts(words.clone()), packet: here });
    flows.push(Flow { what: What::ToHosts(words), packet: there });
}

/// The address of a subnet that its first pod has, behind the gateway's.
fn second(net: IpNetwork) -> Option<IpAddr> {
    net.iter().nth(2).filter(|addr| net.contains(*addr))
}

#[cfg(test)]
mod tests {
    use kernel::state::{Address, AddressKey, RouteKey};
    use kernel::survey::SeenAddress;

    use super::*;

    fn rule(family: Family, priority: u32, table: u32) -> SeenRule {
        let table = Some(TableId(table));
        SeenRule { family, priority, from: None, to: None, iif: None, table, further: false }
    }

    #[test]
    fn what_is_not_usual_is_strange() {
        let usual = [(0, 255), (32766, 254), (32767, 253)].map(|(priority, table)| rule(Family::V4, priority, table));
        assert_eq!(strange(&usual), Vec::<String>::new());
        assert_eq!(strange(&usual[..1]), ["no rule asks table main"]);
        assert_eq!(strange(&[&usual[..], &[rule(Family::V4, 100, 99)]].concat()), ["100: from all lookup 99"]);
    }

    #[test]
    fn answers_are_judged_by_link_and_gateway() {
        let name = |text: &str| IfName::new(text).unwrap();
        let via = Some([10, 5, 2, 0].into());
        let (src, dst) = ([10, 5, 1, 2].into(), [10, 5, 2, 2].into());
        let question = Question { src, dst, iif: name("cni0"), dev: name("flannel.1"), via };
        let by = |dev: &str, via| Ok(Some(Route { via, ..Route::by(&name(dev)) }));
        assert_eq!(question.judge(by("flannel.1", via)), None);
        let wrong = question.judge(by("eth0", None)).unwrap();
        assert_eq!(wrong, "what comes by cni0 from 10.5.1.2 to 10.5.2.2 leaves by eth0, not by flannel.1");
        assert!(question.judge(by("flannel.1", None)).is_some() && question.judge(Ok(None)).is_some());
        assert!(question.judge(Err("EINVAL".into())).unwrap().contains("does not leave (EINVAL)"));
    }

    /// Host 10.5.1.0/24 with a bridge, a peer with a route of its own, and one that the network's route leads to.
    fn asked(survey: &Survey) -> (Vec<Question>, Vec<Flow>) {
        let net = |text: &str| text.parse().unwrap();
        let mut desired = State::default();
        let (vxlan, wireguard) = (IfName::new("flannel.1").unwrap(), IfName::new("flannel-wg").unwrap());
        desired.routes.insert(RouteKey::main(net("10.5.2.0/24")), Route::by(&vxlan));
        desired.routes.insert(RouteKey::main(net("10.5.0.0/16")), Route::by(&wireguard));
        let ways = crate::taken::ways(&desired, ["10.5.2.0/24", "10.5.3.0/24"].map(net).into_iter());
        let own = "10.5.1.0-24".parse().unwrap();
        (questions(&desired, ways.clone(), survey, own), flows(&desired, ways, survey, own, None, None))
    }

    fn with_bridge() -> Survey {
        let key = AddressKey { dev: IfName::new("cni0").unwrap(), net: "10.5.1.1/24".parse().unwrap() };
        let seen = SeenAddress {
            key,
            address: Address::default(),
            tentative: false,
            dad_failed: false,
            permanent: true,
            secondary: false,
            deprecated: false,
            global: true,
        };
        Survey { addresses: vec![seen], ..Survey::default() }
    }

    #[test]
    fn the_peers_of_any_backend_are_asked_for() {
        let (questions, flows) = asked(&with_bridge());
        let asked: Vec<_> = questions.iter().map(|q| format!("{} {} {} {}", q.src, q.dst, q.iif, q.dev)).collect();
        assert_eq!(
            asked,
            [
                "10.5.1.2 10.5.2.2 cni0 flannel.1",
                "10.5.2.2 10.5.1.2 flannel.1 cni0",
                "10.5.1.2 10.5.3.2 cni0 flannel-wg",
                "10.5.3.2 10.5.1.2 flannel-wg cni0"
            ]
        );
        let to = |flow: &Flow| (flow.packet.dst.to_string(), flow.packet.oif.as_ref().map(ToString::to_string));
        assert!(flows.iter().map(to).any(|to| to == ("10.5.3.0/24".to_owned(), Some("flannel-wg".to_owned()))));
    }

    #[test]
    fn without_a_bridge_nothing_is_asked() {
        assert_eq!(asked(&Survey::default()).0, []);
    }
}
