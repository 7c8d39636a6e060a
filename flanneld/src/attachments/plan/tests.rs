use super::*;
use attachment::bandwidth::{Egress, Limit};
use attachment::record::{Locked, PodLink, RuleRecord, VlanRecord};
use attachment::rules::masquerade;
use attachment::section::{Kept, PodNetns, Section};
use kernel::types::IfIndex;
use std::path::Path;

const MAC: &str = "02:00:00:00:00:01";
const BRIDGE_MAC: &str = "02:00:00:00:00:11";

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn who(container: &str) -> Name {
    Name { network: "net".into(), container: container.into(), ifname: "eth0".into() }
}

fn bridge() -> SharedLink {
    SharedLink {
        name: "cni0".into(),
        kind: "bridge".into(),
        mac: BRIDGE_MAC.into(),
        made: true,
        mtu: 1450,
        addresses: vec!["10.5.1.1/24".into()],
        ..SharedLink::default()
    }
}

/// A pod's record: a port of cni0, with masquerade.
fn record(address: &str) -> Record {
    let host = HostLink {
        name: "veth1".into(),
        mac: MAC.into(),
        index: 7,
        kind: "veth".into(),
        master: Some("cni0".into()),
        hairpin: true,
        ..HostLink::default()
    };
    let pod = PodLink {
        name: "eth0".into(),
        mac: "02:00:00:00:00:02".into(),
        addresses: vec![address.into()],
        ..PodLink::default()
    };
    let table = masquerade::table();
    let rule =
        RuleRecord { family: table.family.to_string(), table: table.name, chain: "masq_checks".into(), handle: 4 };
    Record {
        committed: true,
        host: Some(host),
        pod: Some(pod),
        shared: vec![bridge()],
        rules: vec![rule],
        ..Record::begun().unwrap()
    }
}

fn seen(dev: &str, index: u32, link: Link) -> SeenLink {
    SeenLink {
        index: IfIndex(index),
        name: name(dev),
        link,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate: String::new(),
        queue: String::new(),
        ipv6: Some(kernel::message::link::Ipv6Conf::default()),
    }
}

fn cni0() -> SeenLink {
    let link = Link { mac: BRIDGE_MAC.parse().ok(), ..Link::up(LinkKind::Bridge(Bridge::default())) };
    seen("cni0", 3, link)
}

fn veth(index: u32, mac: &str) -> SeenLink {
    seen("veth1", index, Link { mac: mac.parse().ok(), ..Link::up(LinkKind::Veth(kernel::state::Veth { peer: None })) })
}

/// The plan of these records on a host with these links.
fn planned(records: &[(Name, Record)], links: &[SeenLink], exempted: &[&Name]) -> Plan {
    planned_after(records, links, exempted, &mut History::default(), Instant::now())
}

fn planned_after(
    records: &[(Name, Record)],
    links: &[SeenLink],
    exempted: &[&Name],
    history: &mut History,
    now: Instant,
) -> Plan {
    planned_beside(records, links, &Fixed::default(), exempted, (history, now))
}

fn planned_beside(
    records: &[(Name, Record)],
    links: &[SeenLink],
    fixed: &Fixed,
    exempted: &[&Name],
    (history, now): (&mut History, Instant),
) -> Plan {
    let dir = tempfile::tempdir().unwrap();
    for (name, record) in records {
        Locked::make(dir.path(), name.key()).unwrap().write(record).unwrap();
    }
    for name in exempted {
        let folder = dir.path().join(&name.network).join("quarantine");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}@{}", name.container, name.ifname)), "").unwrap();
    }
    let records = read(dir.path());
    let links = links.iter().map(|link| (link.name.clone(), link.clone())).collect();
    plan(
        &Facts {
            records: &records,
            links: &links,
            arp: &std::collections::BTreeMap::new(),
            fixed,
            subnets: "10.5.1.0-24".parse().unwrap(),
            now,
        },
        history,
    )
}

fn read(dir: &Path) -> Records {
    let mut records = Records::new(dir);
    assert_eq!(records.read(&super::super::records::Stale::All), Vec::<String>::new());
    records
}

/// The desired objects, one per line.
fn lines(object: &Object) -> Vec<String> {
    let Object { state, scope, owners } = object;
    let link = |(name, link): (&IfName, &Link)| {
        format!(
            "{name} up {} mac {:?} mtu {:?} master {:?} alias {:?}",
            link.up, link.mac, link.mtu, link.master, link.alias
        )
    };
    let mut lines: Vec<String> = state.links.iter().map(link).collect();
    let passes = |port: &Port| port.passing == Some(Passing::default());
    lines.extend(state.ports.iter().map(|(name, port)| {
        format!("{name} hairpin {} isolated {} passes {}", port.hairpin, port.isolated, passes(port))
    }));
    lines.extend(state.vlans.keys().map(|key| format!("{} vlan {}", key.dev, key.id)));
    lines.extend(state.addresses.keys().map(|key| format!("{} on {}", key.net, key.dev)));
    lines.extend(state.routes.iter().map(|(key, route)| format!("{} proto {}", key.dst, route.protocol.0)));
    lines.extend(state.sysctls.iter().map(|(path, value)| format!("{path}={value}")));
    lines.push(format!("keep {} vlans {:?} owners {}", scope.keep, scope.vlans, owners.len()));
    lines
}

#[test]
fn a_record_says_what_bridge_port_and_rules_must_be() {
    let plan = planned(&[(who("a"), record("10.5.1.2/24"))], &[cni0(), veth(7, MAC)], &[]);
    assert_eq!(
        lines(&plan.shared[&name("cni0")]),
        [
            "cni0 up true mac Some(02:00:00:00:00:11) mtu None master None alias Some(\"made by the CNI bridge plugin\")",
            "10.5.1.1/24 on cni0",
            "10.5.1.0/24 proto 2",
            "net/ipv4/conf/cni0/forwarding=1",
            "net/ipv6/conf/cni0/accept_ra=0",
            "keep true vlans [] owners 1",
        ]
    );
    assert_eq!(
        lines(&plan.ports[&name("veth1")]),
        [
            "veth1 up true mac Some(02:00:00:00:00:01) mtu Some(Mtu(1450)) master Some(Some(cni0)) alias None",
            "veth1 hairpin true isolated false passes true",
            "net/ipv6/conf/veth1/accept_ra=0",
            "keep false vlans [] owners 1",
        ]
    );
    let rules: Vec<String> = plan.rules.iter().map(Ruled::label).collect();
    assert_eq!(rules, ["rules of net/a@eth0 in table inet cni_plugins_masquerade"]);
    assert_eq!((plan.count, plan.findings.len(), plan.look_again), (1, 0, None));
}

#[test]
fn a_bridge_that_a_plugin_made_is_made_again_as_it_was() {
    let plan = planned(&[(who("a"), record("10.5.1.2/24"))], &[veth(7, MAC)], &[]);
    let made = "cni0 up true mac Some(02:00:00:00:00:11) mtu Some(1450) master None alias Some(\"made by the CNI bridge plugin\")";
    assert_eq!(lines(&plan.shared[&name("cni0")])[0].replace("Mtu(1450)", "1450"), made);
    assert!(plan.ports.contains_key(&name("veth1")), "it is plugged in again");
    // A bridge that no plugin made stays away.
    let theirs = Record { shared: vec![SharedLink { made: false, ..bridge() }], ..record("10.5.1.2/24") };
    let plan = planned(&[(who("a"), theirs.clone())], &[veth(7, MAC)], &[]);
    assert_eq!(plan.findings, [Finding::NoBridge("cni0".into())].into());
    assert!(plan.shared.is_empty() && plan.ports.is_empty());
    // An existing one is not changed, except for the gateway's address, which ADD added.
    let plan = planned(&[(who("a"), theirs)], &[cni0(), veth(7, MAC)], &[]);
    assert_eq!(
        lines(&plan.shared[&name("cni0")]),
        [
            "10.5.1.1/24 on cni0",
            "10.5.1.0/24 proto 2",
            "net/ipv4/conf/cni0/forwarding=1",
            "keep true vlans [] owners 1"
        ]
    );
}

#[test]
fn a_bridge_that_a_plugin_made_gets_its_name_back() {
    let marked = |mac: &str| {
        let link = Link {
            mac: mac.parse().ok(),
            alias: Some(MADE.to_owned()),
            ..Link::up(LinkKind::Bridge(Bridge::default()))
        };
        seen("br0", 3, link)
    };
    let was = |link: SeenLink| {
        let plan = planned(&[(who("a"), record("10.5.1.2/24"))], &[link, veth(7, MAC)], &[]);
        plan.shared[&name("cni0")].state.links[&name("cni0")].was.clone()
    };
    assert_eq!(was(marked(BRIDGE_MAC)), Some(name("br0")));
    assert_eq!(was(marked(MAC)), None, "another plugin's bridge");
}

/// On a bridge that nobody here made it keeps a new port from forwarding for a while.
#[test]
fn the_spanning_tree_of_others_is_left_alone() {
    let tree = Bridge { stp: Some(true), ..Bridge::default() };
    let bridge_with_tree = seen("cni0", 3, Link { mac: BRIDGE_MAC.parse().ok(), ..Link::up(LinkKind::Bridge(tree)) });
    let of = |made: bool| {
        let shared = vec![SharedLink { made, addresses: vec![], ..bridge() }];
        let record = Record { shared, ..record("10.5.1.2/24") };
        let plan = planned(&[(who("a"), record)], &[bridge_with_tree.clone(), veth(7, MAC)], &[]);
        let stp = plan.shared.get(&name("cni0")).and_then(|object| object.state.links.get(&name("cni0")).cloned());
        (stp.map(|link| link.kind), plan.ports[&name("veth1")].state.ports[&name("veth1")].passing)
    };
    let without = Bridge { stp: Some(false), ..Bridge::default() };
    assert_eq!(of(true), (Some(LinkKind::Bridge(without)), Some(Passing::default())));
    assert_eq!(of(false), (None, None));
}

#[test]
fn attachments_share_a_bridge() {
    let with = |container: &str, dev: &str, shared: SharedLink| {
        let mut record = record("10.5.1.2/24");
        record.host.as_mut().unwrap().name = dev.into();
        record.shared = vec![shared];
        (who(container), record)
    };
    let other = SharedLink { addresses: vec!["10.5.1.254/24".into()], vlan_filtering: true, mtu: 0, ..bridge() };
    let plan =
        planned(&[with("a", "veth1", bridge()), with("b", "veth2", other.clone())], &[cni0(), veth(7, MAC)], &[]);
    let shared = &plan.shared[&name("cni0")];
    assert_eq!((shared.owners.len(), shared.state.addresses.len(), plan.count), (2, 2, 2));
    assert_eq!(
        shared.state.links[&name("cni0")].kind,
        LinkKind::Bridge(Bridge { vlan_filtering: true, stp: Some(false) })
    );
    // Records that disagree about the MAC address: another program changed it while nobody repaired it.
    let changed = SharedLink { mac: "02:00:00:00:00:99".into(), ..other };
    let plan = planned(&[with("a", "veth1", bridge()), with("b", "veth2", changed)], &[cni0()], &[]);
    assert_eq!(plan.shared[&name("cni0")].state.links[&name("cni0")].mac, None);
}

#[test]
fn vlans_are_the_records_alone_where_it_says_so() {
    let mut record = record("10.5.1.2/24");
    let host = record.host.as_mut().unwrap();
    host.vlans = vec![VlanRecord { id: 5, pvid: true, untagged: true }];
    let port = |record: &Record| {
        lines(&planned(&[(who("a"), record.clone())], &[cni0(), veth(7, MAC)], &[]).ports[&name("veth1")])[2..].to_vec()
    };
    assert_eq!(port(&record), ["veth1 vlan 5", "net/ipv6/conf/veth1/accept_ra=0", "keep false vlans [] owners 1"]);
    record.host.as_mut().unwrap().only_vlans = true;
    assert_eq!(port(&record), ["veth1 vlan 5", "net/ipv6/conf/veth1/accept_ra=0", "keep false vlans [veth1] owners 1"]);
}

#[test]
fn a_pair_without_a_bridge_has_its_addresses_and_routes() {
    let mut record = record("10.5.1.2/24");
    let host = record.host.as_mut().unwrap();
    host.master = None;
    host.addresses = ["10.5.1.1/32", "fd05:0:0:1::1/128"].map(|net| net.parse().unwrap()).into();
    host.routes = vec!["10.5.1.2/32".parse().unwrap()];
    record.shared.clear();
    let of = |record: &Record| planned(&[(who("a"), record.clone())], &[veth(7, MAC)], &[]);
    let plan = of(&record);
    let object = &plan.ends[&name("veth1")];
    assert_eq!(
        lines(object),
        [
            "veth1 up true mac Some(02:00:00:00:00:01) mtu None master Some(None) alias None",
            "10.5.1.1/32 on veth1",
            "fd05:0:0:1::1/128 on veth1",
            "10.5.1.2/32 proto 3",
            "net/ipv4/conf/veth1/forwarding=1",
            "net/ipv6/conf/veth1/accept_ra=0",
            "keep true vlans [] owners 1",
        ]
    );
    assert_eq!(plan.links().scope.routes.unwrap().within, record.host.as_ref().unwrap().routes);
    assert!(plan.ports.is_empty() && plan.findings.is_empty(), "{:?}", plan.findings);
    record.host.as_mut().unwrap().routes.clear();
    assert!(of(&record).ends.is_empty(), "a link of which nothing is recorded");
}

#[test]
fn limits_are_desired_while_their_link_is_there() {
    let limit = Limit { rate: 8000, burst: 80_000 };
    let egress = Egress { limit, device: "bwp1".into(), mac: MAC.into(), mtu: 1450 };
    let made = Bandwidth { link: "veth1".into(), ingress: Some(limit), egress: Some(egress) };
    let with = |committed: bool, record: Record| {
        let mut record = record;
        record.put_section(Kept { committed, netns: PodNetns::default(), section: Section::Bandwidth(made.clone()) });
        (who("a"), record)
    };
    let of = |record, link: SeenLink| planned(&[record], &[cni0(), link], &[]);
    let plan = of(with(true, record("10.5.1.2/24")), veth(7, MAC));
    let object = &plan.limits[&name("veth1")];
    assert_eq!((object.state.clone(), object.scope.clone()), made.host());
    assert_eq!(plan.links().scope.queues, [name("bwp1"), name("veth1")]);
    // its ADD or DEL is at work
    assert!(of(with(false, record("10.5.1.2/24")), veth(7, MAC)).limits.is_empty());
    let plan = of(with(true, record("10.5.1.2/24")), veth(8, "02:00:00:00:00:77"));
    assert_eq!((plan.limits.len(), plan.findings.len()), (0, 1), "another link has its name");
}

/// By now another link may have the name.
#[test]
fn a_link_that_leads_to_a_pod_is_known_by_more_than_its_name() {
    let of = |link: SeenLink| planned(&[(who("a"), record("10.5.1.2/24"))], &[cni0(), link], &[]);
    let gone = [Finding::Gone(who("a"), "veth1".into())].into();
    assert_eq!(of(veth(8, "02:00:00:00:00:77")).findings, gone);
    assert!(of(veth(8, "02:00:00:00:00:77")).ports.is_empty());
    assert_eq!(of(veth(8, MAC)).ports.len(), 1, "by its MAC");
    assert_eq!(of(veth(7, "02:00:00:00:00:77")).ports.len(), 1, "by its number");
    let bridge = Link { mac: MAC.parse().ok(), ..Link::up(LinkKind::Bridge(Bridge::default())) };
    assert_eq!(of(seen("veth1", 7, bridge)).findings, gone, "another kind");
    let text = Finding::Gone(who("a"), "veth1".into()).to_string();
    assert_eq!(text, "veth1, which leads to the pod of net/a@eth0, is gone: recreate the pod");
}

#[test]
fn what_is_not_this_hosts_is_left_alone() {
    let here = (who("a"), record("10.5.1.2/24"));
    for other in [
        Record { committed: false, ..record("10.5.1.3/24") },
        record("10.5.2.2/24"),
        Record { pod: None, ..record("10.5.1.3/24") },
        Record { boot: "another".into(), ..record("10.5.1.3/24") },
    ] {
        let plan = planned(&[here.clone(), (who("b"), other.clone())], &[cni0(), veth(7, MAC)], &[]);
        assert_eq!((plan.count, plan.ports.len(), plan.rules.len()), (1, 1, 1), "{other:?}");
    }
}

#[test]
fn an_exempted_attachment_is_named_and_left_alone() {
    let plan = planned(&[(who("a"), record("10.5.1.2/24"))], &[], &[&who("a")]);
    assert_eq!((plan.count, plan.exempted.clone(), plan.findings.len()), (0, vec![who("a")], 0));
    assert!(plan.shared.is_empty() && plan.ports.is_empty() && plan.rules.is_empty());
}

#[test]
fn what_is_repaired_again_and_again_rests() {
    let (mut history, now) = (History::default(), Instant::now());
    (0..5).for_each(|_| history.entry("veth1".into()).or_default().done(now));
    history.entry("long ago".into()).or_default();
    let records = [(who("a"), record("10.5.1.2/24"))];
    let after = |seconds, history: &mut History| {
        let now = now + std::time::Duration::from_secs(seconds);
        planned_after(&records, &[cni0(), veth(7, MAC)], &[], history, now)
    };
    let plan = after(1, &mut history);
    assert_eq!((plan.ports.len(), plan.shared.len()), (0, 1));
    assert_eq!(plan.findings, [Finding::Rests("veth1".into())].into());
    assert_eq!(plan.look_again, Some(now + std::time::Duration::from_secs(60)));
    assert_eq!(history.keys().collect::<Vec<_>>(), ["veth1"], "what rests no more is forgotten");
    assert_eq!(after(60, &mut history).ports.len(), 1);
    assert!(history.is_empty());
}

#[test]
fn what_sends_a_pods_packets_elsewhere_is_named() {
    let records = [(who("a"), record("10.5.1.2/24"))];
    let found = |neighbour: (&str, &str), entry: (&str, &str)| {
        let key = NeighbourKey { dev: name("cni0"), addr: neighbour.0.parse().unwrap() };
        let fixed = Fixed {
            neighbours: [(key, neighbour.1.parse().unwrap())].into(),
            forwarding: [Forwarding { port: name(entry.0), mac: entry.1.parse().unwrap() }].into(),
            ..Fixed::default()
        };
        let mut history = History::default();
        let links = [cni0(), veth(7, MAC)];
        let plan = planned_beside(&records, &links, &fixed, &[], (&mut history, Instant::now()));
        plan.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (pod, other) = ("02:00:00:00:00:02", "02:00:00:00:00:99");
    assert!(found(("10.5.1.2", pod), ("veth1", pod)).is_empty(), "as they are");
    assert!(found(("10.5.1.9", other), ("veth9", other)).is_empty(), "about others");
    assert_eq!(
        found(("10.5.1.2", other), ("veth9", pod)),
        [
            "cni0 has the permanent neighbour 10.5.1.2 with 02:00:00:00:00:99, which is not the MAC of the pod of net/a@eth0: \
             ip neigh del 10.5.1.2 dev cni0",
            "cni0 sends the frames for the pod of net/a@eth0 to veth9: bridge fdb del 02:00:00:00:00:02 dev veth9 master",
        ]
    );
}
