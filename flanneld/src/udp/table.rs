//! Which host leases which subnet: where to send packets, and which packets to accept.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::counters::Loss;

/// The peers as the data path needs them. Workers never see one that changes: they get a copy of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    network: Option<Ipv4Network>,
    own: Option<Ipv4Network>,
    /// The subnets by first address, longest prefixes first. A look-up costs one access per length; usually there is
    /// one length.
    lengths: Vec<(u8, HashMap<u32, Ipv4Addr>)>,
    /// The hosts, with how many subnets each has.
    members: HashMap<Ipv4Addr, usize>,
}

impl Table {
    /// `network` is the whole network, `own` is this host's subnet, `routes` are the peers' subnets with their
    /// addresses.
    pub fn new(
        network: Ipv4Network,
        own: Ipv4Network,
        routes: impl IntoIterator<Item = (Ipv4Network, Ipv4Addr)>,
    ) -> Self {
        let mut table = Self { network: Some(network), own: Some(own), ..Self::default() };
        routes.into_iter().for_each(|(subnet, host)| table.set(subnet, Some(host)));
        table
    }

    /// The host of a subnet is this one from now on; `None`: nobody is.
    pub fn set(&mut self, subnet: Ipv4Network, host: Option<Ipv4Addr>) {
        let (length, first) = (subnet.prefix(), u32::from(subnet.network()));
        let at = self.lengths.partition_point(|(known, _)| *known > length);
        if self.lengths.get(at).is_none_or(|(known, _)| *known != length) {
            self.lengths.insert(at, (length, HashMap::new()));
        }
        let subnets = &mut self.lengths[at].1;
        let before = match host {
            Some(host) => subnets.insert(first, host),
            None => subnets.remove(&first),
        };
        if subnets.is_empty() {
            self.lengths.remove(at);
        }
        host.into_iter().for_each(|host| *self.members.entry(host).or_default() += 1);
        if let Some(before) = before
            && let Some(count) = self.members.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&before);
            }
        }
    }

    /// The address of this host's TUN device, which is also the source of its ICMP messages.
    pub fn device(&self) -> Option<Ipv4Addr> {
        self.own.map(|own| own.network())
    }

    /// The host that leases `addr`.
    pub fn host_of(&self, addr: Ipv4Addr) -> Option<Ipv4Addr> {
        let addr = u32::from(addr);
        self.lengths.iter().find_map(|(length, subnets)| subnets.get(&(addr & mask(*length))).copied())
    }

    /// Whether `sender` is a host of the network. Datagrams of others are dropped.
    pub fn is_member(&self, sender: Ipv4Addr) -> bool {
        self.members.contains_key(&sender)
    }

    /// Checks whether a packet may come from `sender`, which must be a member.
    ///
    /// A source inside the network must be in the sender's own subnet, so that no host can send in the name of
    /// another's pods. A source outside it is accepted, because it is the sending host's own traffic. Go's hosts send
    /// with their device's address, which is in their subnet. But a program that is bound to the host's own address
    /// uses that one, and so does a service that keeps its clients' addresses. The destination must be in this host's
    /// subnet: no host sends anything else here, and this host must not forward for others. Upstream checks none of
    /// this.
    pub fn admits(&self, sender: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), Loss> {
        let within = |net: Option<Ipv4Network>, addr| net.is_some_and(|net| net.contains(addr));
        if !within(self.own, destination) {
            Err(Loss::ForeignDestination)
        } else if within(self.network, source) && self.host_of(source) != Some(sender) {
            Err(Loss::ForeignSource)
        } else {
            Ok(())
        }
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, &str)]) -> Table {
        let routes = routes.iter().map(|(subnet, host)| (subnet.parse().unwrap(), host.parse().unwrap()));
        Table::new("10.5.0.0/16".parse().unwrap(), "10.5.1.0/24".parse().unwrap(), routes)
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_table_that_is_changed_is_as_a_new_one() {
        let mut changed =
            table(&[("10.5.2.0/24", "192.0.2.2"), ("10.5.3.0/24", "192.0.2.2"), ("10.5.4.7/32", "192.0.2.4")]);
        let mut set = |subnet: &str, host: Option<&str>| changed.set(subnet.parse().unwrap(), host.map(ip));
        set("10.5.2.0/24", None);
        set("10.5.4.7/32", None);
        set("10.5.9.0/24", None);
        set("10.5.3.0/24", Some("192.0.2.2"));
        set("10.5.5.0/25", Some("192.0.2.5"));
        assert_eq!(changed, table(&[("10.5.3.0/24", "192.0.2.2"), ("10.5.5.0/25", "192.0.2.5")]));
        changed.set("10.5.3.0/24".parse().unwrap(), Some(ip("192.0.2.6")));
        assert!(!changed.is_member(ip("192.0.2.2")) && changed.is_member(ip("192.0.2.6")));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table =
            table(&[("10.5.2.0/24", "192.0.2.2"), ("10.5.2.128/25", "192.0.2.3"), ("10.5.4.7/32", "192.0.2.4")]);
        for (addr, host) in [
            ("10.5.2.1", Some("192.0.2.2")),
            ("10.5.2.129", Some("192.0.2.3")),
            ("10.5.4.7", Some("192.0.2.4")),
            ("10.5.4.8", None),
            ("10.5.1.1", None),
            ("8.8.8.8", None),
        ] {
            assert_eq!(table.host_of(ip(addr)), host.map(ip), "{addr}");
        }
        assert_eq!(mask(0), 0);
        assert_eq!(table.device(), Some(ip("10.5.1.0")));
    }

    #[test]
    fn a_peer_speaks_for_itself_only() {
        let table = table(&[("10.5.2.0/24", "192.0.2.2"), ("10.5.3.0/24", "192.0.2.3")]);
        let (peer, here) = (ip("192.0.2.2"), ip("10.5.1.9"));
        assert!(table.is_member(peer) && !table.is_member(ip("192.0.2.9")));
        for (source, destination, verdict) in [
            (ip("10.5.2.9"), here, Ok(())),
            // the host itself, through its device and from its own address
            (ip("10.5.2.0"), here, Ok(())),
            (peer, here, Ok(())),
            (ip("203.0.113.1"), here, Ok(())),
            (ip("10.5.3.9"), here, Err(Loss::ForeignSource)),
            (here, here, Err(Loss::ForeignSource)),
            (ip("10.5.77.1"), here, Err(Loss::ForeignSource)),
            (ip("10.5.2.9"), ip("10.5.3.9"), Err(Loss::ForeignDestination)),
            (ip("10.5.2.9"), ip("192.0.2.1"), Err(Loss::ForeignDestination)),
        ] {
            assert_eq!(table.admits(peer, source, destination), verdict, "{source} {destination}");
        }
        assert!(!Table::default().is_member(peer));
    }

    #[test]
    fn a_host_with_two_leases_has_both() {
        let table = table(&[("10.5.2.0/24", "192.0.2.2"), ("10.5.3.0/24", "192.0.2.2")]);
        assert_eq!(table.admits(ip("192.0.2.2"), ip("10.5.3.1"), ip("10.5.1.1")), Ok(()));
    }
}
