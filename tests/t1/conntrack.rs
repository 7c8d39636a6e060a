//! The kernel's table of connections, read and cleared.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use kernel::conntrack::{Conntrack, Entry, Filter, Tuple, UDP};
use kernel::nft::{
    Base, Batch, Chain, ChainKind, Hook, Is, NatKind, Nft, NftError, NftFamily, RuleBuilder, Side, Table, TableKey, ct,
};
use kernel::state::{Link, LinkKind, State, VethPeer};
use kernel::types::{Family, IfName};
use lab::netns::Room;
use lab::ping::Pinger;
use lab::wait::eventually;
use lab::world::establish;
use tests::harness::Outcome;

/// Ample on a machine whose cores are all busy.
const LIMIT: Duration = Duration::from_secs(10);

/// A host that tracks connections, and a pod that is wired to it.
struct Pair {
    host: Room,
    pod: Room,
}

impl Pair {
    fn create() -> Result<Self, Box<dyn std::error::Error>> {
        let (host, pod) = (Room::create("host")?, Room::create("pod")?);
        let eth0 = IfName::new("eth0")?;
        let veth = IfName::new("veth0")?;
        let netns = Some(pod.netns().as_raw_fd());
        let peer = Some(Box::new(VethPeer { name: eth0.clone(), mac: None, mtu: None, netns }));
        for (room, name, peer, last) in [(&host, &veth, peer, 1), (&pod, &eth0, None, 2)] {
            let mut state = State::default();
            state.links.insert(name.clone(), Link::up(LinkKind::Veth(kernel::state::Veth { peer })));
            state.conf("ipv6", name, "accept_dad", "0");
            state.address(name, format!("10.9.0.{last}/24").parse()?, true);
            state.address(name, format!("fd09::{last}/64").parse()?, true);
            establish(room, &state)?;
        }
        let mut kernel = pod.kernel()?;
        assert!(kernel.wait_running(&eth0, LIMIT)?.is_some_and(|link| link.running), "the pod's link does not run");
        let pair = Self { host, pod };
        pair.host.enter(track)??;
        Ok(pair)
    }

    /// A socket of the host, which the pod sends to.
    fn receiver(&self, family: Family, port: u16) -> UdpSocket {
        let socket = self.host.enter(|| UdpSocket::bind((host(family), port))).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// A socket of the pod; port 0 is any.
    fn sender(&self, family: Family, port: u16) -> UdpSocket {
        self.pod.enter(|| UdpSocket::bind((pod(family), port))).unwrap().unwrap()
    }

    fn conntrack(&self) -> Conntrack {
        self.host.enter(Conntrack::open).unwrap().unwrap()
    }
}

fn host(family: Family) -> IpAddr {
    if family == Family::V4 { [10, 9, 0, 1].into() } else { "fd09::1".parse().unwrap() }
}

fn pod(family: Family) -> IpAddr {
    if family == Family::V4 { [10, 9, 0, 2].into() } else { "fd09::2".parse().unwrap() }
}

fn table() -> TableKey {
    TableKey::new(NftFamily::Inet, "t")
}

/// A rule that asks for a connection's state makes the kernel track connections, and an empty chain of NAT says of each
/// that it is not translated.
fn track() -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.add_table(&Table { key: table(), comment: None, dormant: false });
    batch.add_chain(&table(), &Chain::base("c", Base::new(ChainKind::Nat, Hook::Prerouting, Base::DSTNAT)));
    batch.add_chain(&table(), &Chain::base("in", Base::new(ChainKind::Filter, Hook::Input, Base::FILTER)));
    batch.add_rule(&table(), "in", &RuleBuilder::new(NftFamily::Inet).ct_state(Is::Eq, ct::INVALID).drop().done());
    Nft::open()?.commit(&batch).map(drop)
}

fn to_port(dport: u16) -> Filter {
    Filter { proto: Some(UDP), dport: Some(dport), ..Filter::default() }
}

/// Sends one datagram and says which of the sockets got it.
fn sent(from: &UdpSocket, to: SocketAddr, receivers: &[&UdpSocket]) -> usize {
    from.send_to(b"x", to).unwrap();
    eventually(format_args!("a datagram to {to}"), LIMIT, || {
        receivers.iter().position(|socket| socket.recv(&mut [0; 8]).is_ok()).ok_or("nothing was received")
    })
    .unwrap()
}

/// `count` entries, waited for: a datagram is on its way when it is sent.
fn listed(conntrack: &mut Conntrack, family: Family, filter: &Filter, count: usize) -> Vec<Entry> {
    eventually(format_args!("{count} entries of {filter:?}"), LIMIT, || {
        let entries = conntrack.list(family, filter).map_err(|error| error.to_string())?;
        if entries.len() == count { Ok(entries) } else { Err(format!("{entries:?}")) }
    })
    .unwrap()
}

/// The sender keeps its port: until its entry goes, what the host publishes since is not for it (portmap's fault).
pub fn a_published_port_is_for_those_too_who_sent_before() -> Outcome {
    let pair = Pair::create()?;
    let mut conntrack = pair.conntrack();
    for family in Family::ALL {
        let receivers = [5353, 5300, 5354].map(|port| pair.receiver(family, port));
        let [old, new, other] = &receivers;
        let sender = pair.sender(family, 4000);
        let to = |port| SocketAddr::new(host(family), port);
        assert_eq!(sent(&sender, to(5354), &[old, new, other]), 2);
        assert_eq!(sent(&sender, to(5353), &[old, new]), 0);
        let rule = RuleBuilder::new(NftFamily::Inet).l4proto(Is::Eq, UDP).port(Side::Destination, Is::Eq, 5353);
        let mut batch = Batch::new();
        batch.add_rule(&table(), "c", &rule.nat(NatKind::Destination, host(family), Some(5300)).done());
        pair.host.enter(|| Nft::open()?.commit(&batch))??;
        assert_eq!(sent(&sender, to(5353), &[old, new]), 0, "the entry says that nothing is translated");

        let stale = listed(&mut conntrack, family, &to_port(5353), 1).remove(0);
        let original = Tuple { src: pod(family), dst: host(family), sport: 4000, dport: 5353 };
        assert_eq!((stale.family, stale.proto, stale.original), (family, UDP, original));
        assert_eq!(stale.reply, Tuple { src: host(family), dst: pod(family), sport: 5353, dport: 4000 });
        assert!(!stale.is_answered());
        assert_eq!(conntrack.delete_where(family, &to_port(5353), |_| true)?, 1);
        assert_eq!(conntrack.delete_where(family, &to_port(5353), |_| true)?, 0);

        assert_eq!(sent(&sender, to(5353), &[old, new]), 1, "a new entry has what the rule says");
        let fresh = listed(&mut conntrack, family, &to_port(5353), 1).remove(0);
        assert_eq!((fresh.original, fresh.reply.sport), (original, 5300));
        let mut another = fresh.clone();
        another.id ^= 1;
        assert!(!conntrack.delete(&another)?, "another entry of the same addresses");
        new.send_to(b"x", SocketAddr::new(pod(family), 4000))?;
        let answered = listed(&mut conntrack, family, &to_port(5353), 1).remove(0);
        assert!(answered.is_answered());
        assert!(conntrack.delete(&answered)?, "it is the same entry with another status");
        let left = conntrack.list(family, &Filter { dst: Some(host(family)), ..Filter::default() })?;
        assert!(matches!(&left[..], [Entry { original: Tuple { dport: 5354, .. }, .. }]), "{left:?}");
    }
    Ok(())
}

/// More than one page of deletions, of which some are no longer there.
pub fn hundreds_of_entries_are_deleted_at_once() -> Outcome {
    let pair = Pair::create()?;
    let mut conntrack = pair.conntrack();
    let family = Family::V4;
    let senders: Vec<_> = (0..250).map(|_| pair.sender(family, 0)).collect();
    senders.iter().try_for_each(|socket| socket.send_to(b"x", (host(family), 53)).map(drop))?;
    senders[..5].iter().try_for_each(|socket| socket.send_to(b"x", (host(family), 54)).map(drop))?;
    listed(&mut conntrack, family, &to_port(54), 5);
    let all = listed(&mut conntrack, family, &to_port(53), 250);
    assert!(conntrack.list(Family::V6, &to_port(53))?.is_empty());
    let chosen: Vec<u16> = all.iter().take(10).map(|entry| entry.original.sport).collect();
    let deleted = conntrack.delete_where(family, &to_port(53), |entry| chosen.contains(&entry.original.sport))?;
    assert_eq!(deleted, 10);
    assert_eq!(conntrack.delete_all(&all)?, 240, "ten are gone already");
    assert!(conntrack.list(family, &to_port(53))?.is_empty());
    assert_eq!(conntrack.delete_where(family, &Filter::default(), |entry| entry.proto == UDP)?, 5);
    Ok(())
}

/// What names an entry is more than addresses and ports.
pub fn entries_of_a_zone_and_without_ports_are_deleted() -> Outcome {
    let pair = Pair::create()?;
    let zones = "add chain inet t raw { type filter hook prerouting priority raw; }
        add rule inet t raw udp dport 7000 ct zone set 7
        add rule inet t raw udp dport 7001 ct original zone set 8
        add rule inet t in udp dport 7001 ct mark set 0x2a";
    let output = pair.host.enter(|| Command::new("nft").args(["-f", "/dev/stdin"]).stdin(script(zones)).output())??;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut conntrack = pair.conntrack();
    for family in Family::ALL {
        let sender = pair.sender(family, 0);
        for port in [7000, 7001] {
            sender.send_to(b"x", (host(family), port))?;
            let entry = listed(&mut conntrack, family, &to_port(port), 1).remove(0);
            assert_eq!(entry.mark, if port == 7001 { 0x2a } else { 0 });
            assert!(conntrack.delete(&entry)?, "{entry:?}");
            assert!(conntrack.list(family, &to_port(port))?.is_empty());
        }
        pair.pod.enter(|| Pinger::open(host(family), 9)?.echo(LIMIT))??;
        let icmp = if family == Family::V4 { 1 } else { 58 };
        let filter = Filter { proto: Some(icmp), dst: Some(host(family)), ..Filter::default() };
        // neighbour discovery is not tracked
        let entry = listed(&mut conntrack, family, &filter, 1).remove(0);
        assert_eq!((entry.original.sport, entry.original.dport, entry.is_answered()), (0, 0, true));
        assert!(conntrack.delete(&entry)? && !conntrack.delete(&entry)?);
    }
    Ok(())
}

/// A file without a name that holds `text`.
fn script(text: &str) -> std::fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}
