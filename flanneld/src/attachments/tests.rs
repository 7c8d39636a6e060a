//! No object belongs to two controllers.

use std::collections::BTreeSet;

use kernel::state::{Bridge, Link, LinkKind, Scope, State};
use kernel::types::IfName;
use overlay::backend::{Host, Identity};
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::ownership::Owner;
use overlay::peers::{self, Own};
use overlay::render::{Ours, Renderer};
use overlay::underlay::Underlay;
use overlay::{rules, settings};

use super::plan::{Facts, History, plan};
use super::records::{Records, Stale};
use super::*;
use attachment::Key;
use attachment::record::{HostLink, Locked, PodLink, Record, RuleRecord, SharedLink};
use attachment::rules::{macspoof, masquerade};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// The keys of what is desired, and of what may be changed or deleted besides.
fn keys(state: &State, scope: &Scope) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut add = |kind: &str, key: &dyn std::fmt::Display| {
        keys.insert(format!("{kind} {key}"));
    };
    state.links.keys().chain(&scope.links).for_each(|dev| add("link", dev));
    state.ports.keys().for_each(|dev| add("port", dev));
    state.vlans.keys().map(|key| &key.dev).chain(&scope.vlans).for_each(|dev| add("vlans of", dev));
    state.addresses.keys().map(|key| &key.dev).chain(&scope.addresses).for_each(|dev| add("addresses of", dev));
    state.neighbours.keys().map(|key| &key.dev).chain(&scope.neighbours).for_each(|dev| add("neighbours of", dev));
    state.fdb.keys().for_each(|key| add("neighbours of", &key.dev));
    state.wireguard.keys().chain(&scope.wireguard).for_each(|dev| add("wireguard", dev));
    state.sysctls.keys().chain(&scope.sysctls).for_each(|path| add("sysctl", path));
    state.routes.keys().for_each(|key| add("route", &key.dst));
    state.nft.keys().chain(scope.nft.keys()).for_each(|table| add("table", table));
    keys
}

/// The objects of the overlay controller on a dual-stack host.
fn of_overlay() -> BTreeSet<String> {
    let conf = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan"}}"#;
    let conf = NetConf::parse(conf.as_bytes()).unwrap().conf;
    let host = Host {
        networks: conf.network_by_family(),
        own: "10.5.1.0-24&fd05:0:0:1::-64".parse().unwrap(),
        identity: Identity::default(),
        underlay: Underlay {
            dev: name("eth0"),
            mtu: kernel::types::Mtu(1500),
            addresses: ByFamily { v4: "192.0.2.1".parse().ok(), v6: "2001:db8::1".parse().ok() },
            connected: vec!["192.0.2.0/24".parse().unwrap()],
        },
    };
    let lease =
        r#"{"PublicIP":"192.0.2.2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}"#;
    let peers = peers::check(&conf, &Own::default(), [("10.5.2.0-24", lease)]).good;
    let owner = Owner::new(conf.networks(), Vec::new());
    let ours = Ours { devices: &[], owner: &owner, complete: true };
    let wanted = Renderer::new(&host, &conf.backend, &[]).desired(&peers, ours);
    let (mut state, scope) = (wanted.state, wanted.scope);
    state.sysctls.extend(settings::wanted(&conf.backend, &host, &[name("eth0")], &state));
    let mut keys = keys(&state, &scope);
    keys.extend(of_rules(&host));
    keys
}

/// The overlay controller's packet rules, those that it only removes among them.
fn of_rules(host: &Host) -> BTreeSet<String> {
    let networks: BTreeSet<_> = [host.networks.v4, host.networks.v6].into_iter().flatten().collect();
    let options = rules::Options { masquerade: Some(rules::Masquerade::default()), forward: true };
    let (found, former) = (State::default(), BTreeSet::new());
    let planned = rules::plan(&rules::Facts {
        options: &options,
        nftables: true,
        networks: host.networks,
        own: host.own,
        former: &former,
        flows: &[],
        found: &found,
    });
    let reads = rules::reads(networks.iter(), &[]);
    let planned = keys(&planned.state, &reads);
    assert!(planned.contains("table ip flannel-ipv4") && planned.contains("table ip6 filter"), "{planned:?}");
    planned
}

/// The objects of the attachments controller, for one attachment with everything.
fn of_attachments() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let rule = |table: kernel::nft::TableKey| RuleRecord {
        family: table.family.to_string(),
        table: table.name,
        chain: "c".into(),
        handle: 1,
    };
    let mac = "02:00:00:00:00:01";
    let host = HostLink {
        name: "veth1".into(),
        mac: mac.into(),
        index: 7,
        master: Some("cni0".into()),
        ..HostLink::default()
    };
    let record = Record {
        committed: true,
        host: Some(HostLink { only_vlans: true, ..host }),
        pod: Some(PodLink { mac: mac.into(), addresses: vec!["10.5.1.2/24".into()], ..PodLink::default() }),
        shared: vec![SharedLink {
            name: "cni0".into(),
            kind: "bridge".into(),
            made: true,
            addresses: vec!["10.5.1.1/24".into(), "fd05:0:0:1::1/64".into()],
            ..SharedLink::default()
        }],
        rules: vec![rule(masquerade::table()), rule(macspoof::table())],
        ..Record::begun().unwrap()
    };
    let key = Key { network: "net", container: "c1", ifname: "eth0" };
    Locked::make(dir.path(), key).unwrap().write(&record).unwrap();
    let mut records = Records::new(dir.path());
    records.read(&Stale::All);
    let link = |dev: &str, kind: LinkKind| SeenLink {
        index: kernel::types::IfIndex(7),
        name: name(dev),
        link: Link { mac: mac.parse().ok(), ..Link::up(kind) },
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate: String::new(),
        queue: String::new(),
        ipv6: Some(Default::default()),
    };
    let links = [
        link("cni0", LinkKind::Bridge(Bridge { vlan_filtering: true, ..Bridge::default() })),
        link("veth1", LinkKind::Veth(kernel::state::Veth { peer: None })),
    ];
    let links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
    let subnets = "10.5.1.0-24&fd05:0:0:1::-64".parse().unwrap();
    let facts = Facts {
        records: &records,
        links: &links,
        arp: &std::collections::BTreeMap::new(),
        fixed: &crate::events::facts::Fixed::default(),
        subnets,
        now: Instant::now(),
    };
    let plan = plan(&facts, &mut History::default());
    assert_eq!((plan.shared.len(), plan.ports.len(), plan.rules.len()), (1, 1, 2));
    let objects = plan.shared.values().chain(plan.ports.values());
    let mut all: BTreeSet<String> = objects.flat_map(|object| keys(&object.state, &object.scope)).collect();
    for ruled in &plan.rules {
        let (state, scope) = ruled.rules.desired();
        all.extend(keys(&state, &scope));
    }
    all
}

#[test]
fn the_controllers_share_no_object() {
    let (overlay, attachments) = (of_overlay(), of_attachments());
    for part in ["link flannel.1", "sysctl net/ipv4/ip_forward", "route 10.5.2.0/24", "neighbours of flannel.1"] {
        assert!(overlay.contains(part), "{part}: {overlay:#?}");
    }
    for part in ["link cni0", "port veth1", "addresses of cni0", "vlans of veth1", "table bridge nat"] {
        assert!(attachments.contains(part), "{part}: {attachments:#?}");
    }
    assert_eq!(overlay.intersection(&attachments).collect::<Vec<_>>(), Vec::<&String>::new());
}
