//! A book that has seen many changes says what a new one says, and a change costs what depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kernel::types::{Family, Mac};
use proptest::prelude::*;

use super::{Book, Half, Own, Peer, Rejected, Service, Shared, Touched};
use crate::lease::{LeaseChanges, LeaseType, Refusal, StoredAttrs, StoredLease, Subnets};
use crate::netconf::NetConf;

const KEYS: [&str; 3] = [
    "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
];

fn confs() -> Vec<NetConf> {
    let dual = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56""#;
    let texts = [
        format!(r#"{{{dual},"Backend":{{"Type":"vxlan"}}}}"#),
        format!(r#"{{{dual},"SubnetLen":23,"Backend":{{"Type":"vxlan","VNI":7}}}}"#),
        format!(r#"{{{dual},"Backend":{{"Type":"wireguard"}}}}"#),
        r#"{"Network":"10.5.0.0/17","Backend":{"Type":"extension"}}"#.to_owned(),
    ];
    texts.iter().map(|text| NetConf::parse(text.as_bytes()).unwrap().conf).collect()
}

/// What the store says.
type Store = BTreeMap<Subnets, StoredLease>;

/// What a book says of a peer.
type Followed = ([Option<Half>; 2], Option<String>);

/// All that a book says.
#[derive(Debug, PartialEq)]
struct Said {
    peers: BTreeMap<Subnets, Followed>,
    rejected: Vec<Rejected>,
    shared: Vec<Shared>,
    counts: Vec<(LeaseType, usize)>,
    len: usize,
}

fn followed(peer: &Peer) -> Followed {
    (Family::ALL.map(|family| peer.half(family)), peer.extension().map(str::to_owned))
}

fn said(book: &Book) -> Said {
    Said {
        peers: book.peers().map(|peer| (peer.subnets(), followed(peer))).collect(),
        rejected: book.rejected().collect(),
        shared: book.shared().collect(),
        counts: book.counts().iter().map(|(kind, count)| (*kind, *count)).collect(),
        len: book.len(),
    }
}

fn cold(conf: &NetConf, own: &Own, store: &Store, refused: &BTreeMap<String, Refusal>) -> Said {
    let mut book = Book::default();
    let refused = refused.iter().map(|(text, refusal)| (text.clone(), Some(refusal.clone())));
    let put = store.values().cloned().collect();
    book.apply(LeaseChanges { snapshot: true, put, gone: vec![], refused: refused.collect() });
    book.judge(conf, own);
    said(&book)
}

#[derive(Debug, Clone)]
enum Event {
    Put(StoredLease),
    Gone(usize),
    Refused(u8, bool),
    Snapshot(Vec<StoredLease>),
    Conf(usize),
    Address(IpAddr),
    Host(IpAddr),
    Underlay(u8),
    Speaks(usize, u8),
    Own(u8),
}

/// Few subnets, addresses, MACs and keys, so that leases contradict each other often.
fn lease() -> impl Strategy<Value = StoredLease> {
    let v4 = (0_u8..8, 0_u8..4, prop_oneof![4 => Just(24_u8), 1 => Just(23), 1 => Just(25), 1 => 15_u8..27]);
    let shape = (v4, 0_u8..6, prop_oneof![3 => Just(64_u8), 1 => 56_u8..70], 0_u8..3);
    (shape, 0_u8..12, 0_u8..6, 0_usize..3, 0_u8..5, 0_u64..3).prop_map(
        |(((third, last, v4_len), group, v6_len, families), host, mac, key, kind, created)| {
            let v4 = format!("10.5.{third}.{}-{v4_len}", if v4_len > 24 { last * 64 } else { 0 });
            let v6 = format!("fd05:0:0:{group:x}::-{v6_len}");
            let name = match families {
                0 => v4,
                1 => format!("{v4}&{v6}"),
                _ => format!("0.0.0.0-0&{v6}"),
            };
            let public = match host {
                9 => "10.5.3.7".to_owned(),
                10 => "10.99.0.255".to_owned(),
                11 => "0.0.0.0".to_owned(),
                _ => format!("10.99.0.{}", host % 5),
            };
            let (name_of_kind, data) = match kind {
                0 | 1 => ("vxlan", format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{mac}"}}"#)),
                2 => ("host-gw", format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{mac}"}}"#)),
                3 => ("wireguard", format!(r#"{{"PublicKey":"{}"}}"#, KEYS[key])),
                _ => ("extension", ["7", r#""text""#, "null"][key].to_owned()),
            };
            let value = format!(
                r#"{{"PublicIP":"{public}","PublicIPv6":"fd99::{}","BackendType":"{name_of_kind}","BackendData":{data},"BackendV6Data":{data}}}"#,
                host % 4
            );
            let subnets = name.parse().unwrap();
            StoredLease { subnets, attrs: StoredAttrs::parse(value.as_bytes()).unwrap(), created }
        },
    )
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..8).prop_map(|third| Ipv4Addr::new(10, 5, third, 9).into()),
        (0_u8..5).prop_map(|last| Ipv4Addr::new(10, 99, 0, last).into()),
        (0_u8..6).prop_map(|group| format!("fd05:0:0:{group:x}::9").parse().unwrap()),
        (0_u8..4).prop_map(|last| format!("fd99::{last}").parse().unwrap()),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => lease().prop_map(Event::Put),
        6 => any::<usize>().prop_map(Event::Gone),
        1 => (0_u8..3, any::<bool>()).prop_map(|(n, there)| Event::Refused(n, there)),
        1 => proptest::collection::vec(lease(), 0..12).prop_map(Event::Snapshot),
        1 => (0_usize..4).prop_map(Event::Conf),
        3 => address().prop_map(Event::Address),
        1 => address().prop_map(Event::Host),
        1 => (0_u8..3).prop_map(Event::Underlay),
        2 => (0_usize..3, 0_u8..5).prop_map(|(key, host)| Event::Speaks(key, host)),
        1 => (0_u8..4).prop_map(Event::Own),
    ]
}

/// A store, a host, and a book that gets every change.
struct World {
    store: Store,
    refused: BTreeMap<String, Refusal>,
    own: Own,
    conf: usize,
    book: Book,
    /// What it said when it judged last.
    said: BTreeMap<Subnets, Followed>,
    rejected: Vec<Rejected>,
}

impl World {
    fn new() -> Self {
        let own = Own { underlay: vec!["10.99.0.0/24".parse().unwrap()], ..Own::default() };
        Self {
            store: Store::new(),
            refused: BTreeMap::new(),
            own,
            conf: 0,
            book: Book::default(),
            said: BTreeMap::new(),
            rejected: Vec::new(),
        }
    }

    fn happen(&mut self, event: Event) {
        let mut changes = LeaseChanges::default();
        match event {
            Event::Put(lease) => {
                self.store.insert(lease.subnets, lease.clone());
                changes.put.push(lease);
            }
            Event::Gone(n) => {
                let Some(key) = self.store.keys().nth(n % self.store.len().max(1)).copied() else { return };
                self.store.remove(&key);
                changes.gone.push(key);
            }
            Event::Refused(n, there) => {
                let (text, refusal) = (format!("junk{n}"), there.then_some(Refusal::TooLarge));
                match refusal.clone() {
                    Some(refusal) => drop(self.refused.insert(text.clone(), refusal)),
                    None => drop(self.refused.remove(&text)),
                }
                changes.refused.push((text, refusal));
            }
            Event::Snapshot(leases) => {
                // most stay
                self.store.retain(|key, _| key.v4.is_none_or(|v4| v4.ip().octets()[2] % 4 != 0));
                self.store.extend(leases.into_iter().map(|lease| (lease.subnets, lease)));
                self.refused.clear();
                changes = LeaseChanges { snapshot: true, put: self.store.values().cloned().collect(), ..changes };
            }
            other => self.host_changes(other),
        }
        self.book.apply(changes);
    }

    fn host_changes(&mut self, event: Event) {
        match event {
            Event::Conf(conf) => self.conf = conf,
            Event::Address(address) => {
                let mut addresses = BTreeSet::clone(&self.own.addresses);
                if !addresses.remove(&address) {
                    addresses.insert(address);
                }
                self.own.addresses = addresses.into();
            }
            Event::Host(address) => match self.own.hosts.iter().position(|(host, _)| *host == address) {
                Some(at) => drop(self.own.hosts.remove(at)),
                None => self.own.hosts.push((address, Service::Gateway)),
            },
            Event::Underlay(n) => {
                let prefixes = [&["10.99.0.0/24"][..], &["10.99.0.0/30", "fd99::/64"], &[]];
                self.own.underlay = prefixes[usize::from(n)].iter().map(|net| net.parse().unwrap()).collect();
            }
            Event::Speaks(key, host) => {
                let key = KEYS[key].parse().unwrap();
                if self.own.endpoints.remove(&key).is_none() {
                    self.own.endpoints.insert(key, vec![Ipv4Addr::new(10, 99, 0, host).into()]);
                }
            }
            Event::Own(n) => {
                let own = [("10.5.1.0-24&fd05:0:0:1::-64", 1), ("10.5.2.0-24", 2), ("0.0.0.0-0&fd05:0:0:3::-64", 3)];
                let (subnets, mac) = own.get(usize::from(n)).map_or(("", 9), |own| *own);
                self.own.subnets = subnets.parse().unwrap_or_default();
                self.own.macs = vec![Mac([2, 0, 0, 0, 0, mac])];
                self.own.key = (n == 2).then(|| KEYS[2].parse().unwrap());
            }
            _ => {}
        }
    }

    /// What the book says is what a new one says, and what it says otherwise than before is what it named.
    fn judge(&mut self) -> Result<(), TestCaseError> {
        let conf = &confs()[self.conf];
        let touched = self.book.judge(conf, &self.own);
        let now = said(&self.book);
        prop_assert_eq!(&now, &cold(conf, &self.own, &self.store, &self.refused));
        prop_assert_eq!(self.book.judge(conf, &self.own), Touched::default(), "nothing has changed since");
        prop_assert!(touched.rejected || now.rejected == self.rejected, "they are others: {touched:?}");
        self.rejected = now.rejected;
        let before = std::mem::replace(&mut self.said, now.peers);
        for key in before.keys().chain(self.said.keys()).filter(|_| !touched.all) {
            let same = before.get(key) == self.said.get(key);
            prop_assert!(same || touched.peers.contains_key(key), "{key} has changed and is not named: {touched:?}");
        }
        for (key, was) in &touched.peers {
            prop_assert!(before.contains_key(key) || self.said.contains_key(key), "{key} was no peer and is none");
            prop_assert_eq!(was.as_ref().map(followed), before.get(key).cloned(), "as it was");
        }
        Ok(())
    }
}

fn sequence(events: Vec<(Event, bool)>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for (event, judge) in events {
        world.happen(event);
        if judge {
            world.judge()?;
        }
    }
    world.judge()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn warm_is_cold(events in proptest::collection::vec((event(), prop::bool::weighted(0.7)), 1..40)) {
        sequence(events)?;
    }
}

fn vxlan(n: u32) -> StoredLease {
    let [a, b, c, d] = n.to_be_bytes();
    let key = format!("{}-24", Ipv4Addr::from(0x0a00_0000 + (n << 8)));
    let value = format!(
        r#"{{"PublicIP":"172.16.{c}.{d}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"}}}}"#
    );
    StoredLease::read(&key, value.as_bytes(), n.into()).unwrap()
}

fn filled(conf: &NetConf, count: u32) -> Book {
    let mut book = Book::default();
    let put = (1..=count).map(vxlan).collect();
    book.apply(LeaseChanges { snapshot: true, put, ..LeaseChanges::default() });
    assert_eq!(book.judge(conf, &Own::default()).judged, count as usize);
    book
}

#[test]
fn a_change_costs_the_same_among_many() {
    let conf = NetConf::parse(br#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#).unwrap().conf;
    for count in [100, 4000] {
        let mut book = filled(&conf, count);
        let one = |book: &mut Book, changes: LeaseChanges, key: Subnets| {
            book.apply(changes);
            let touched = book.judge(&conf, &Own::default());
            assert_eq!((touched.all, touched.peers.keys().collect::<Vec<_>>()), (false, vec![&key]));
            touched.judged
        };
        let new = vxlan(count + 1);
        let key = new.subnets;
        let put = |lease: StoredLease| LeaseChanges { put: vec![lease], ..LeaseChanges::default() };
        assert_eq!(one(&mut book, put(new.clone()), key), 1, "{count}: one more");
        let moved = StoredLease { attrs: vxlan(count + 2).attrs, ..new };
        assert_eq!(one(&mut book, put(moved.clone()), key), 1, "{count}: another address and MAC");
        book.apply(put(moved));
        assert_eq!(book.judge(&conf, &Own::default()), Touched::default(), "{count}: it is as it was");
        let gone = LeaseChanges { gone: vec![key], ..LeaseChanges::default() };
        assert_eq!(one(&mut book, gone, key), 0, "{count}: it is gone");
        // an address comes to this host and goes, as those of container networks do
        let own =
            Own { addresses: BTreeSet::from([[10, 0, 7, 1].into(), [192, 0, 2, 1].into()]).into(), ..Own::default() };
        let there = book.judge(&conf, &own);
        assert_eq!((there.judged, there.peers.len(), book.len()), (1, 1, count as usize - 1), "{count}: an address");
        assert_eq!(book.judge(&conf, &Own::default()).judged, 1, "{count}: it goes");
    }
}

/// A claim to half the network is refused for each host in it, and costs each of them nothing.
#[test]
fn a_claim_to_many_subnets_does_not_make_changes_dear() {
    let conf = NetConf::parse(br#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#).unwrap().conf;
    let mut book = filled(&conf, 1000);
    let wide = StoredLease { subnets: "10.0.0.0-9".parse().unwrap(), ..vxlan(5000) };
    book.apply(LeaseChanges { put: vec![wide.clone()], ..LeaseChanges::default() });
    let touched = book.judge(&conf, &Own::default());
    assert_eq!((touched.judged, touched.peers.len(), book.len()), (1, 0, 1000));
    let new = vxlan(1001);
    book.apply(LeaseChanges { put: vec![new.clone()], ..LeaseChanges::default() });
    assert_eq!(book.judge(&conf, &Own::default()).judged, 1);
    book.apply(LeaseChanges { gone: vec![new.subnets], ..LeaseChanges::default() });
    assert_eq!(book.judge(&conf, &Own::default()).judged, 1, "the wide one may have its place now");
    assert_eq!(book.rejected().map(|rejected| rejected.key).collect::<Vec<_>>(), [wide.subnets.to_string()]);
}
