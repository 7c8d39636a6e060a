//! The check of all leases: one sort, then a look-up in ordered maps per lease.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use gojson::Json;
use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::{Family, Mac};

use super::leases::{Entry, Leases};
use super::{Half, Own, Peer, Peers, Reason, Rejected, Shared};
use crate::backend::{Data, data_of};
use crate::lease::{AttrsError, LeaseAttrs, Subnets, VxlanData, WireguardData};
use crate::net::{ByFamily, address, bounds, number, overlap, within};
use crate::netconf::{FamilyConf, NetConf};

/// Judges every lease of the store: [`judge`] of leases that are read for it.
pub fn check<K, V>(conf: &NetConf, own: &Own, leases: impl IntoIterator<Item = (K, V)>) -> Peers
where
    K: AsRef<str>,
    V: AsRef<[u8]>,
{
    judge(conf, own, &leases.into_iter().collect())
}

/// Judges every lease of the store.
///
/// Where leases contradict each other one wins: a subnet of the configured length before others, so that no claim to
/// half the network displaces the hosts in it; then the smaller key. A WireGuard key is its whose host speaks with it,
/// where that is known ([`Own::heard`]).
pub fn judge(conf: &NetConf, own: &Own, leases: &Leases) -> Peers {
    let mut rejected = Vec::new();
    let mut candidates = Vec::new();
    for (key, entry) in leases.iter() {
        match read(conf, own, key, entry) {
            Ok(candidate) => candidates.extend(candidate),
            Err(reason) => rejected.push(Rejected { key: key.to_owned(), family: None, reason }),
        }
    }
    let mut peers = Peers::default();
    let mut halves: Vec<ByFamily<Option<Half>>> = vec![ByFamily::default(); candidates.len()];
    let mut keys = Keys::new();
    let encrypted = conf.backend.needs_key();
    for (family, conf) in conf.families() {
        let of_family = own.addresses.iter().filter(|addr| Family::from(**addr) == family);
        let mut table = Table {
            family,
            conf,
            own,
            addresses: of_family.map(|addr| number(*addr)).collect(),
            candidates: &candidates,
            rejected: &mut rejected,
            keys: encrypted.then_some(&mut keys),
            shared: vec![],
        };
        for (index, half) in table.judge() {
            *halves[index].get_mut(family) = Some(half);
        }
        peers.shared.append(&mut table.shared);
    }
    for (candidate, halves) in candidates.into_iter().zip(halves) {
        if halves != ByFamily::default() {
            let Candidate { key, extension, attrs, .. } = candidate;
            let (key, backend_type) = (key.to_owned(), attrs.backend_type.clone());
            peers.good.push(Peer { key, backend_type, halves, extension });
        }
    }
    rejected.sort_by(|a, b| (&a.key, a.family).cmp(&(&b.key, b.family)));
    peers.rejected = rejected;
    peers
}

/// Whether a subnet is one that a lease in `network` may claim at all, whoever else is there.
///
/// # Errors
/// It is outside, or all of the network, or has host bits.
pub fn shape(subnet: IpNetwork, network: IpNetwork) -> Result<(), Reason> {
    if subnet.ip() != subnet.network() {
        Err(Reason::HostBits(subnet))
    } else if !within(subnet, network) {
        Err(Reason::OutsideNetwork { subnet, network })
    } else if subnet.prefix() == network.prefix() {
        Err(Reason::WholeNetwork(subnet))
    } else {
        Ok(())
    }
}

/// A lease that could be read.
struct Candidate<'a> {
    key: &'a str,
    subnets: Subnets,
    attrs: &'a LeaseAttrs,
    entry: &'a Entry,
    extension: Option<String>,
}

/// `None` for this host's own lease.
fn read<'a>(conf: &NetConf, own: &Own, key: &'a str, entry: &'a Entry) -> Result<Option<Candidate<'a>>, Reason> {
    let subnets = entry.subnets()?;
    if subnets == own.subnets {
        return Ok(None);
    }
    if !subnets.iter().any(|net| conf.family(net.into()).is_some()) {
        return Err(Reason::FamilyOff);
    }
    let attrs = entry.attrs()?;
    let extension = match conf.backend.kind().data {
        Data::Text => extension(attrs).map_err(Reason::Extension)?,
        _ => None,
    };
    Ok(Some(Candidate { key, subnets, attrs, entry, extension }))
}

/// No data is an empty text: the peer has no first command.
fn extension(attrs: &LeaseAttrs) -> Result<Option<String>, AttrsError> {
    match (data_of(&attrs.backend_type), &attrs.backend_data) {
        (Some(Data::Text), Some(Json::String(text))) => Ok(Some(text.clone())),
        (Some(Data::Text), Some(other)) => Err(AttrsError::NotText(other.to_string())),
        (Some(Data::Text), None) => Ok(Some(String::new())),
        _ => Ok(None),
    }
}

/// One family of all leases.
struct Table<'a> {
    family: Family,
    conf: &'a FamilyConf,
    own: &'a Own,
    /// This host's; there may be thousands, as where a proxy binds every service's (kube-ipvs0).
    addresses: BTreeSet<u128>,
    candidates: &'a [Candidate<'a>],
    rejected: &'a mut Vec<Rejected>,
    /// With backend wireguard. To others a peer's key means nothing, and one that is no good no harm.
    keys: Option<&'a mut Keys>,
    shared: Vec<Shared>,
}

/// The believed subnets by their first address, with the last one and whose they are.
type Claims = BTreeMap<u128, (u128, usize)>;

/// The WireGuard keys of both families, each with the lease that has it and its addresses.
type Keys = HashMap<PublicKey, (ByFamily<Option<IpAddr>>, usize)>;

impl Table<'_> {
    /// The halves that are believed, by the index of their candidates.
    fn judge(&mut self) -> BTreeMap<usize, Half> {
        let mut claims = Claims::new();
        let mut macs: HashMap<Mac, (IpAddr, usize)> = HashMap::new();
        let mut good = BTreeMap::new();
        for index in self.order() {
            let half = self.half(index);
            if let Some(loser) = half.as_ref().ok().and_then(|half| self.unproven_holder(half, index)) {
                self.evict(loser, index, &mut good, &mut claims);
            }
            match half.and_then(|half| self.place(half, index, &mut claims, &mut macs)) {
                Ok(half) => drop(good.insert(index, half)),
                Err(Some(reason)) => self.reject(index, reason),
                Err(None) => {}
            }
        }
        let lost: Vec<(usize, Reason)> =
            good.iter().filter_map(|(index, half)| Some((*index, self.loops(half, &claims)?))).collect();
        for (index, reason) in lost {
            good.remove(&index);
            self.reject(index, reason);
        }
        self.note_shared(&good);
        good
    }

    fn reject(&mut self, index: usize, reason: Reason) {
        let key = self.candidates[index].key.to_owned();
        self.rejected.push(Rejected { key, family: Some(self.family), reason });
    }

    /// The candidates with a subnet of the family, in the order in which they get what they claim.
    fn order(&self) -> Vec<usize> {
        let len = |index: usize| self.candidates[index].subnets.get(self.family).map(|net| net.prefix());
        let mut order: Vec<usize> = (0..self.candidates.len()).filter(|index| len(*index).is_some()).collect();
        // stable: the candidates are in the order of their keys
        order.sort_by_key(|index| len(*index) != Some(self.conf.allocation.len));
        order
    }

    /// What a candidate says of the family, if it makes sense by itself. `Err(None)` is a former lease of this host.
    fn half(&self, index: usize) -> Result<Half, Option<Reason>> {
        let Candidate { subnets, attrs, entry, .. } = &self.candidates[index];
        let subnet = subnets.get(self.family).ok_or(None)?;
        let public = attrs.public(self.family);
        let own_subnet = self.own.subnets.get(self.family);
        if own_subnet == Some(subnet) && public.is_some_and(|addr| self.addresses.contains(&number(addr))) {
            return Err(None);
        }
        shape(subnet, self.conf.network)?;
        if let Some(own) = own_subnet.filter(|own| overlap(*own, subnet)) {
            return Err(Some(Reason::OverlapsOwn { subnet, own }));
        }
        let (first, last) = bounds(subnet);
        if let Some(inside) = self.addresses.range(first..=last).next() {
            let address = address(self.family, *inside);
            return Err(Some(Reason::ContainsOwn { subnet, address }));
        }
        let public = public.ok_or(Reason::NoAddress)?;
        if let Some(what) = not_a_hosts(public) {
            return Err(Some(Reason::Address { address: public, what }));
        }
        if self.addresses.contains(&number(public)) {
            return Err(Some(Reason::OwnAddress(public)));
        }
        if let Some(subnet) = [Some(subnet), own_subnet].into_iter().flatten().find(|net| net.contains(public)) {
            return Err(Some(Reason::AddressInSubnet { address: public, subnet }));
        }
        Ok(Half { subnet, public, vtep: self.vtep(attrs, entry)?, wireguard: self.wireguard(attrs)? })
    }

    fn wireguard(&self, attrs: &LeaseAttrs) -> Result<Option<WireguardData>, Reason> {
        if data_of(&attrs.backend_type) != Some(Data::Key) || self.keys.is_none() {
            return Ok(None);
        }
        let data = WireguardData::parse(attrs.data(self.family).ok_or(Reason::NoKey)?).map_err(Reason::Wireguard)?;
        match data.public_key {
            key if self.own.key == Some(key) => Err(Reason::OwnKey(key)),
            _ => Ok(Some(data)),
        }
    }

    /// A host that has left vxlan may still publish its VTEP while it keeps it. There it is an offer, and one that is
    /// no good is no VTEP; for vxlan itself it is a must.
    fn vtep(&self, attrs: &LeaseAttrs, entry: &Entry) -> Result<Option<VxlanData>, Reason> {
        match (data_of(&attrs.backend_type), entry.vtep(self.family)) {
            (Some(Data::Vtep), None) => Err(Reason::NoVtep),
            (Some(Data::Vtep), Some(data)) => self.check_vtep(data).map(Some),
            (Some(Data::KeptVtep), Some(data)) => Ok(self.check_vtep(data).ok()),
            _ => Ok(None),
        }
    }

    fn check_vtep(&self, data: &Result<VxlanData, AttrsError>) -> Result<VxlanData, Reason> {
        let vtep = *data.as_ref().map_err(|error| Reason::Vtep(error.clone()))?;
        let mac = vtep.vtep_mac;
        if !mac.is_unicast() {
            Err(Reason::MacNotUnicast(mac))
        } else if self.own.macs.contains(&mac) {
            Err(Reason::OwnMac(mac))
        } else {
            Ok(vtep)
        }
    }

    /// Gives the half its place beside those that came before.
    fn place(
        &mut self,
        half: Half,
        index: usize,
        claims: &mut Claims,
        macs: &mut HashMap<Mac, (IpAddr, usize)>,
    ) -> Result<Half, Option<Reason>> {
        let (first, last) = bounds(half.subnet);
        // claims do not overlap each other, so only the last one that starts before our end can overlap us
        if let Some((_, (_, winner))) = claims.range(..=last).next_back().filter(|(_, (end, _))| *end >= first) {
            let winner = self.candidates[*winner].key.to_owned();
            return Err(Some(Reason::Overlaps { subnet: half.subnet, winner }));
        }
        if let Some(VxlanData { vtep_mac: mac, .. }) = half.vtep {
            let (public, winner) = macs.entry(mac).or_insert((half.public, index));
            // one MAC behind one address is one host with a left-over lease: its entries do not contradict each other
            if *public != half.public {
                let winner = self.candidates[*winner].key.to_owned();
                return Err(Some(Reason::SameMac { mac, winner }));
            }
        }
        if let Some(data) = half.wireguard {
            self.take_key(data.public_key, half.public, index)?;
        }
        claims.insert(first, (last, index));
        Ok(half)
    }

    /// One key is one host: another lease has it only if it is that host's left-over.
    fn take_key(&mut self, key: PublicKey, public: IpAddr, index: usize) -> Result<(), Reason> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        let (addresses, winner) = keys.entry(key).or_insert((ByFamily::default(), index));
        let known = addresses.get_mut(self.family);
        if *winner != index && *known != Some(public) {
            return Err(Reason::SameKey { key, winner: self.candidates[*winner].key.to_owned() });
        }
        *known = Some(public);
        Ok(())
    }

    /// Who has the key of `half` by coming first, when it is this lease's host that spoke with it.
    fn unproven_holder(&self, half: &Half, index: usize) -> Option<usize> {
        let key = half.wireguard?.public_key;
        let (_, holder) = self.keys.as_ref()?.get(&key)?;
        let proven = |index: usize| {
            let addresses = Family::ALL.into_iter().filter_map(|family| self.candidates[index].attrs.public(family));
            self.own.heard.get(&key).is_some_and(|heard| addresses.into_iter().any(|addr| heard.contains(&addr)))
        };
        (*holder != index && proven(index) && !proven(*holder)).then_some(*holder)
    }

    fn evict(&mut self, loser: usize, winner: usize, good: &mut BTreeMap<usize, Half>, claims: &mut Claims) {
        let Some(half) = good.remove(&loser) else { return };
        claims.remove(&bounds(half.subnet).0);
        let Some(key) = half.wireguard.map(|data| data.public_key) else { return };
        if let Some(keys) = &mut self.keys {
            keys.remove(&key);
        }
        self.reject(loser, Reason::SameKey { key, winner: self.candidates[winner].key.to_owned() });
    }

    /// A peer whose address is among the pods: packets to it would go to whoever claims these.
    fn loops(&self, half: &Half, claims: &Claims) -> Option<Reason> {
        let address = number(half.public);
        let (_, (last, owner)) = claims.range(..=address).next_back()?;
        let subnet = self.candidates[*owner].subnets.get(self.family)?;
        (address <= *last).then_some(Reason::AddressInSubnet { address: half.public, subnet })
    }

    fn note_shared(&mut self, good: &BTreeMap<usize, Half>) {
        let mut first: HashMap<IpAddr, usize> = HashMap::new();
        for (index, Half { public, .. }) in good {
            let holder = *first.entry(*public).or_insert(*index);
            if holder != *index {
                let [key, with] = [*index, holder].map(|i| self.candidates[i].key.to_owned());
                self.shared.push(Shared { key, with, public: *public });
            }
        }
    }
}

/// What the address is, when it is not one that a single host on the underlay can have.
fn not_a_hosts(addr: IpAddr) -> Option<&'static str> {
    match addr {
        _ if addr.is_unspecified() => Some("the unspecified address"),
        _ if addr.is_loopback() => Some("a loopback address"),
        _ if addr.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        // RFC 1122 §3.2.1.3: 0.0.0.0/8 is this network; RFC 1112 §4: 240.0.0.0/4 is reserved
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        _ => None,
    }
}
