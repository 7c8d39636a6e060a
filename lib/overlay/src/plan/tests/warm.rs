//! A plan by what was planned before is the plan without it, and a change costs what it changes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::diff::diff;
use kernel::state::State;
use proptest::prelude::*;

use super::host::{Host, nth_key, nth_value};
use crate::lease::LeaseChanges;
use crate::peers::Rejected;
use crate::plan::{Memory, PeerView, Plan, Work};

const KEYS: [&str; 3] = [
    "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
];

/// Configurations of which hosts go from one to the other.
const CONFS: [&str; 12] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":4789}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":4789,"GBP":true}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"extension"}}"#,
    r#"{"Network":"10.5.0.0/17","Backend":{"Type":"alloc"}}"#,
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan"}}"#,
];

#[derive(Debug, Clone)]
enum Event {
    Put(String, String),
    Gone(String),
    Junk(bool),
    Conf(usize),
    Link(u8),
    Address(u8),
    Read,
    Own(u8),
    Published(bool),
    Complete(bool),
    Time(u64),
    Sends(usize, u8),
    Service(u8),
    Blackhole(bool),
    Others(u8),
}

/// Few subnets, addresses, MACs and keys, so that leases contradict each other often.
fn key() -> impl Strategy<Value = String> {
    let len = prop_oneof![6 => Just(24_u8), 1 => Just(23), 1 => Just(25)];
    (1_u8..7, len, prop::option::weighted(0.3, 1_u8..4)).prop_map(|(third, len, group)| {
        let third = if len == 23 { third & !1 } else { third };
        let six = group.map(|group| format!("&fd05:0:0:{group}::-64")).unwrap_or_default();
        format!("10.5.{third}.0-{len}{six}")
    })
}

fn value() -> impl Strategy<Value = String> {
    let kinds = ["vxlan", "vxlan", "host-gw", "wireguard", "ipip", "extension", ""];
    (0..kinds.len(), 3_u8..8, prop::sample::select(&["99", "98"][..]), 0_u8..4, prop::sample::select(&[1, 7][..]), 0..3_usize)
        .prop_map(move |(kind, host, segment, mac, vni, key)| {
            let data = match (kinds[kind], mac) {
                ("vxlan" | "host-gw" | "", 1..) => format!(r#"{{"VNI":{vni},"VtepMAC":"02:00:00:00:01:0{mac}"}}"#),
                ("wireguard", port) => format!(r#"{{"PublicKey":"{}","Port":{}}}"#, KEYS[key], 4000 + u16::from(port)),
                ("extension", _) => r#""text""#.to_owned(),
                _ => "null".to_owned(),
            };
            format!(
                r#"{{"PublicIP":"10.{segment}.0.{host}","PublicIPv6":"fd{segment}::{host}","BackendType":"{}","BackendData":{data},"BackendV6Data":{data}}}"#,
                kinds[kind]
            )
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (key(), value()).prop_map(|(key, value)| Event::Put(key, value)),
        4 => key().prop_map(Event::Gone),
        1 => any::<bool>().prop_map(Event::Junk),
        3 => (0..CONFS.len()).prop_map(Event::Conf),
        1 => (0_u8..3).prop_map(Event::Link),
        1 => (0_u8..4).prop_map(Event::Address),
        1 => Just(Event::Read),
        2 => (0_u8..3).prop_map(Event::Own),
        3 => any::<bool>().prop_map(Event::Published),
        1 => any::<bool>().prop_map(Event::Complete),
        3 => prop::sample::select(&[0, 400, 1_000, 3_000][..]).prop_map(Event::Time),
        1 => (0..3_usize, 3_u8..8).prop_map(|(key, host)| Event::Sends(key, host)),
        1 => (0_u8..3).prop_map(Event::Service),
        1 => any::<bool>().prop_map(Event::Blackhole),
        1 => (0_u8..5).prop_map(Event::Others),
    ]
}

/// A host, and what others have read of its plans so far.
struct World {
    host: Host,
    peers: BTreeMap<IpNetwork, PeerView>,
    rejected: Vec<Rejected>,
    /// The state of the last plan, when it was carried out.
    before: Option<State>,
    attrs: Option<crate::lease::LeaseAttrs>,
}

impl World {
    fn new() -> Self {
        let mut host = Host::default();
        for line in [
            "link eth0 index 2 mtu 1500",
            "link eth1 index 3 mtu 1400",
            "address eth0 10.99.0.2/24",
            "address eth0 fd99::2/64",
            "address eth1 10.98.0.2/24",
            "route default via 10.99.0.1 dev eth0",
            "route default6 via fe80::1 dev eth0",
            "route 10.99.0.0/24 dev eth0",
            "route fd99::/64 dev eth0",
            "wireguard-keys xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
            "limits 1 2 3",
        ] {
            host.learn(line);
        }
        Self { host, peers: BTreeMap::new(), rejected: Vec::new(), before: None, attrs: None }
    }

    fn happen(&mut self, event: Event) {
        let host = &mut self.host;
        match event {
            Event::Put(key, value) => host.lease(&key, &value),
            Event::Gone(key) => host.learn(&format!("gone {key}")),
            Event::Junk(there) => {
                let refused = vec![("junk".to_owned(), there.then_some(crate::lease::Refusal::TooLarge))];
                host.memory.apply(LeaseChanges { refused, ..LeaseChanges::default() });
            }
            Event::Conf(n) => host.learn(&format!("conf {}", CONFS[n])),
            Event::Link(n) => {
                host.learn("no link eth0");
                host.learn(
                    ["link eth0 index 2 mtu 1500", "link eth0 index 2 mtu 1400", "link eth0 index 2 down"]
                        [usize::from(n)],
                );
            }
            Event::Address(n) => {
                let address = ["10.5.3.9/32", "10.99.0.3/32", "fd99::2/64", "10.5.1.1/24"][usize::from(n)];
                let there = host.survey.addresses.iter().any(|seen| seen.key.net.to_string() == address);
                host.learn(&if there { format!("no address {address}") } else { format!("address eth0 {address}") });
            }
            // the kernel was read, and nothing is new
            Event::Read => host.survey = Arc::new((*host.survey).clone()),
            Event::Own(n) => {
                host.own =
                    [None, "10.5.1.0-24".parse().ok(), "10.5.2.0-24&fd05:0:0:2::-64".parse().ok()][usize::from(n)];
            }
            Event::Published(written) => host.published = self.attrs.clone().filter(|_| written),
            Event::Complete(complete) => host.complete = complete,
            Event::Time(more) => host.millis += more,
            Event::Sends(key, at) => host.learn(&format!("endpoint {} 10.98.0.{at}", KEYS[key])),
            Event::Service(n) => {
                host.services.clear();
                host.learn(&format!("service 10.5.{n}.7"));
            }
            Event::Blackhole(on) => host.options.blackhole = on,
            Event::Others(n) => {
                host.served = None;
                host.learn(
                    ["served 10.5.0.0/20", "served", "no link flannel.1", "no link flannel.1", "no link flannel.1"]
                        [usize::from(n)],
                );
                match n {
                    3 => host.learn("link flannel.1 vxlan 1 mac 02:00:00:00:00:04 mtu 1450 ours"),
                    4 => host.learn("link flannel.1 vxlan 1 mac 02:00:00:00:00:04 mtu 1450 theirs 10.7.0.0/16"),
                    _ => {}
                }
            }
        }
    }

    /// Plans, and carries the plan out or not.
    fn plan(&mut self, settles: bool) -> Result<(), TestCaseError> {
        let mut memory = self.host.memory.cold();
        let warm = self.host.plan();
        let cold = self.host.plan_by(&mut memory);
        self.attrs = warm.attrs.clone().ok().or(self.attrs.take());
        same(&warm, &cold)?;
        let (Some(now), Some(whole)) = (&warm.leased, &cold.leased) else { return Ok(()) };
        prop_assert_eq!(self.host.memory.desired(), memory.desired());
        prop_assert_eq!(self.host.memory.scope(), memory.scope());
        prop_assert!(now.delta.is_none() || self.before.is_some(), "a plan before was not carried out");
        prop_assert!(whole.delta.is_none() && whole.peers.whole);
        if now.peers.whole {
            self.peers.clear();
        }
        for subnet in &now.peers.gone {
            prop_assert!(self.peers.remove(subnet).is_some(), "{subnet} was no peer");
        }
        self.peers.extend(now.peers.put.iter().map(|peer| (peer.subnet, *peer)));
        let all: Vec<PeerView> = self.peers.values().copied().collect();
        let mut put = whole.peers.put.clone();
        put.sort_by_key(|peer| peer.subnet);
        prop_assert_eq!(all, put);
        self.rejected = now.rejected.clone().unwrap_or(std::mem::take(&mut self.rejected));
        prop_assert_eq!(&self.rejected, whole.rejected.as_ref().unwrap());
        let state = (**memory.desired().unwrap()).clone();
        if let (Some(delta), Some(before)) = (&now.delta, &self.before) {
            let steps = |desired: &State, assumed: &State| -> BTreeSet<String> {
                diff(desired, assumed, &now.scope).steps.iter().map(|step| format!("{step:?}")).collect()
            };
            prop_assert_eq!(steps(&delta.desired, &delta.assumed), steps(&state, before));
        }
        self.before = Some(state).filter(|_| settles);
        if settles {
            self.host.memory.settle();
        }
        Ok(())
    }
}

/// What the two plans say, but for what is said as a change.
fn same(warm: &Plan, cold: &Plan) -> Result<(), TestCaseError> {
    prop_assert_eq!(&warm.underlay, &cold.underlay);
    prop_assert_eq!((&warm.attrs, &warm.notes, warm.look_again), (&cold.attrs, &cold.notes, cold.look_again));
    prop_assert_eq!(warm.leased.is_some(), cold.leased.is_some());
    if let (Some(warm), Some(cold)) = (&warm.leased, &cold.leased) {
        prop_assert_eq!((&warm.scope, warm.data_path, &warm.commands), (&cold.scope, cold.data_path, &cold.commands));
        prop_assert_eq!((&warm.subnet_env, warm.contested), (&cold.subnet_env, cold.contested));
    }
    Ok(())
}

/// At least 500 cases; PROPTEST_CASES asks for more.
fn many() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(500), ..config }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn warm_is_cold(events in prop::collection::vec((event(), prop::bool::weighted(0.8), prop::bool::weighted(0.9)), 1..30)) {
        let mut world = World::new();
        for (event, plans, settles) in events {
            world.happen(event);
            if plans {
                world.plan(settles)?;
            }
        }
        world.plan(true)?;
    }
}

fn with_peers(count: u32) -> Host {
    let mut host = Host::default();
    for line in ["link eth0 index 2 mtu 1500", "address eth0 192.0.2.1/24", "route default via 192.0.2.254 dev eth0"] {
        host.learn(line);
    }
    host.learn(r#"conf {"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#);
    host.learn("own 10.5.1.0-24");
    host.learn("limits 128 512 1024");
    host.learn(&format!("leases {count}"));
    host.plan();
    host.memory.settle();
    host
}

/// What the plans for one more lease, its change and its end cost.
fn costs(host: &mut Host, n: u32) -> Vec<Work> {
    let mut all = Vec::new();
    for line in [
        format!("lease {} {}", nth_key(n), nth_value(n)),
        format!("lease {} {}", nth_key(n), nth_value(n + 1)),
        format!("gone {}", nth_key(n)),
    ] {
        host.learn(&line);
        let before = Arc::as_ptr(host.memory.desired().unwrap());
        let leased = host.plan().leased.unwrap();
        host.memory.settle();
        assert!(leased.delta.is_some() && !leased.peers.whole && leased.rejected.is_none());
        assert_eq!(Arc::as_ptr(host.memory.desired().unwrap()), before, "it is changed in place");
        all.push(leased.work);
    }
    all
}

#[test]
fn a_change_costs_the_same_among_many() {
    let [few, many] = [100, 4_000].map(|count| costs(&mut with_peers(count), count));
    assert_eq!(few, many);
    let work = |judged, rendered, compared| Work { judged, rendered, compared };
    assert_eq!(few, [work(1, 1, 3), work(1, 2, 4), work(0, 1, 3)]);
}

/// At some sizes every route and the limits of the neighbour table are others than before.
#[test]
fn flips_are_made_whole() {
    for size in [512, 1024] {
        let mut host = with_peers(size);
        for line in [format!("lease {} {}", nth_key(size), nth_value(size)), format!("gone {}", nth_key(size))] {
            host.learn(&line);
            let mut memory: Memory = host.memory.cold();
            let warm = host.plan().leased.unwrap();
            host.memory.settle();
            host.plan_by(&mut memory);
            assert!(warm.delta.is_none() && warm.peers.whole, "{size}");
            assert_eq!(host.memory.desired(), memory.desired(), "{size}");
        }
    }
}

/// What was planned and not done is in the next plan, too.
#[test]
fn a_plan_that_was_not_carried_out_is_no_base_for_a_change() {
    let mut host = with_peers(3);
    host.learn(&format!("lease {} {}", nth_key(5), nth_value(5)));
    assert!(host.plan().leased.unwrap().delta.is_some());
    host.learn(&format!("gone {}", nth_key(5)));
    assert!(host.plan().leased.unwrap().delta.is_none());
    host.memory.settle();
    assert!(host.plan().leased.unwrap().delta.unwrap().is_empty());
}

#[test]
fn many_that_cannot_be_reached_are_one_warning() {
    let mut host = with_peers(300);
    host.learn(r#"conf {"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}"#);
    let warnings = host.plan().leased.unwrap().warnings;
    let of_new = |host: &mut Host| host.plan().leased.unwrap().warnings;
    assert_eq!(warnings.len(), 0, "the VTEP is kept");
    // who has left vxlan is reached no more
    for n in 0..300 {
        host.lease(&nth_key(n), &nth_value(n).replace(r#""vxlan","BackendData""#, r#""host-gw","Other""#));
    }
    let warnings = of_new(&mut host);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("300 peers cannot be reached, for example 10.16.0.0/24 at 172.16.0.1"),
        "{warnings:?}"
    );
    assert_eq!(of_new(&mut host), Vec::<String>::new(), "once");
    host.lease(&nth_key(7), &nth_value(7));
    assert_eq!(of_new(&mut host), Vec::<String>::new());
    host.lease(
        &nth_key(7),
        &nth_value(7).replace("172.16", "172.17").replace(r#""vxlan","BackendData""#, r#""host-gw","O""#),
    );
    assert_eq!(of_new(&mut host).len(), 1, "it was reached in between");
}
