//! Checks a lease by itself, and against what belongs to this host.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::PublicKey;
use kernel::types::{Family, Mac};

use super::{Own, Reason};
use crate::backend::Data;
use crate::lease::{AttrsError, BackendData, StoredAttrs, StoredLease, VxlanData};
use crate::net::{ByFamily, overlap, within};
use crate::netconf::NetConf;

/// The parts of the configuration that verdicts depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// Each family's network and subnet length; `None`: the family is disabled.
    pub(super) families: ByFamily<Option<(IpNetwork, u8)>>,
    /// Whether WireGuard keys matter. Other backends ignore a peer's key, so a bad one does no harm.
    encrypted: bool,
    /// Whether texts for commands matter.
    commands: bool,
}

impl Rules {
    pub(super) fn of(conf: &NetConf) -> Self {
        let family = |family| conf.family(family).map(|conf| (conf.network, conf.allocation.len));
        Self {
            families: ByFamily { v4: family(Family::V4), v6: family(Family::V6) },
            encrypted: conf.backend.needs_key(),
            commands: conf.backend.kind().data == Data::Text,
        }
    }

    /// Whether `subnet` has the configured length of its family.
    pub(super) fn is_regular(&self, subnet: IpNetwork) -> bool {
        self.families.get(subnet.into()).is_some_and(|(_, len)| subnet.prefix() == len)
    }
}

/// What an accepted half claims besides its subnet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) mac: Option<Mac>,
    pub(super) key: Option<PublicKey>,
}

/// A lease, and what it is judged by.
#[derive(Clone, Copy)]
pub(super) struct Alone<'a> {
    pub(super) rules: &'a Rules,
    pub(super) own: &'a Own,
    pub(super) lease: &'a StoredLease,
}

impl Alone<'_> {
    /// Checks the whole lease. Returns false for this host's own lease.
    pub(super) fn whole(&self) -> Result<bool, Reason> {
        let StoredLease { subnets, attrs, .. } = self.lease;
        if *subnets == self.own.subnets {
            return Ok(false);
        }
        if !subnets.iter().any(|subnet| self.rules.families.get(subnet.into()).is_some()) {
            return Err(Reason::FamilyOff);
        }
        match (&attrs.data.v4, attrs.backend_type.says()) {
            (BackendData::Unreadable(error), Some(Data::Text)) if self.rules.commands => {
                Err(Reason::Extension((**error).clone()))
            }
            _ => Ok(true),
        }
    }

    /// Checks one family, and returns what it claims. `None`: the half does not exist, or belongs to a former lease
    /// of this host.
    pub(super) fn half(&self, family: Family) -> Result<Option<Claimed>, Reason> {
        let attrs = &self.lease.attrs;
        let network = self.rules.families.get(family).map(|(network, _)| network);
        let Some((subnet, network)) = self.lease.subnets.get(family).zip(network) else { return Ok(None) };
        let public = attrs.public(family);
        if self.own.subnets.get(family) == Some(subnet)
            && public.is_some_and(|public| self.own.addresses.contains(&public))
        {
            return Ok(None);
        }
        shape(subnet, network)?;
        self.subnet(subnet)?;
        self.public(subnet, public.ok_or(Reason::NoAddress)?)?;
        Ok(Some(Claimed { mac: self.vtep(attrs, family)?.map(|vtep| vtep.vtep_mac), key: self.key(attrs, family)? }))
    }

    /// The subnet must contain nothing that belongs to this host, and no host that it needs.
    fn subnet(&self, subnet: IpNetwork) -> Result<(), Reason> {
        if let Some(own) = self.own.subnets.get(subnet.into()).filter(|own| overlap(*own, subnet)) {
            Err(Reason::OverlapsOwn { subnet, own })
        } else if let Some(address) = self.own.address_in(subnet) {
            Err(Reason::ContainsOwn { subnet, address })
        } else if let Some((address, service)) = self.own.host_in(subnet) {
            Err(Reason::ContainsHost { subnet, address, service })
        } else {
            Ok(())
        }
    }

    /// The address must belong to another host, and be one that packets can be sent to.
    fn public(&self, subnet: IpNetwork, address: IpAddr) -> Result<(), Reason> {
        if let Some(what) = not_a_hosts(address) {
            return Err(Reason::Address { address, what });
        }
        if let Some((prefix, what)) = self.own.edge_of_underlay(address) {
            return Err(Reason::EdgeOfUnderlay { address, prefix, what });
        }
        if self.own.addresses.contains(&address) {
            return Err(Reason::OwnAddress(address));
        }
        let own = self.own.subnets.get(subnet.into());
        match [Some(subnet), own].into_iter().flatten().find(|net| net.contains(address)) {
            Some(subnet) => Err(Reason::AddressInSubnet { address, subnet }),
            None => Ok(()),
        }
    }

    fn key(&self, attrs: &StoredAttrs, family: Family) -> Result<Option<PublicKey>, Reason> {
        if !self.rules.encrypted || attrs.backend_type.says() != Some(Data::Key) {
            return Ok(None);
        }
        match attrs.data.get(family) {
            BackendData::Wireguard(data) if self.own.key == Some(data.public_key) => {
                Err(Reason::OwnKey(data.public_key))
            }
            BackendData::Wireguard(data) => Ok(Some(data.public_key)),
            BackendData::Unreadable(error) => Err(Reason::Wireguard((**error).clone())),
            _ => Err(Reason::NoKey),
        }
    }

    /// Ignores an optional VTEP that is invalid, and reports a required one.
    fn vtep(&self, attrs: &StoredAttrs, family: Family) -> Result<Option<VxlanData>, Reason> {
        let vtep = match attrs.data.get(family) {
            BackendData::Vxlan(vtep) => self.check_vtep(*vtep),
            BackendData::Unreadable(error) => Err(Reason::Vtep(AttrsError::clone(error))),
            _ => Err(Reason::NoVtep),
        };
        match attrs.backend_type.says() {
            Some(Data::Vtep) => vtep.map(Some),
            Some(Data::KeptVtep) => Ok(vtep.ok()),
            _ => Ok(None),
        }
    }

    fn check_vtep(&self, vtep: VxlanData) -> Result<VxlanData, Reason> {
        match vtep.vtep_mac {
            mac if !mac.is_unicast() => Err(Reason::MacNotUnicast(mac)),
            mac if self.own.macs.contains(&mac) => Err(Reason::OwnMac(mac)),
            _ => Ok(vtep),
        }
    }
}

/// Checks whether a lease may claim this subnet of `network` at all, without regard to other leases.
///
/// # Errors
/// The subnet is outside the network, covers all of it, or has host bits.
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

/// The kind of an address that no single host on the underlay can have; `None` for any other address.
fn not_a_hosts(addr: IpAddr) -> Option<&'static str> {
    match addr {
        _ if addr.is_unspecified() => Some("the unspecified address"),
        _ if addr.is_loopback() => Some("a loopback address"),
        _ if addr.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        //  RFC 1122 §3.2.1.3: 0.0.0.0/8 is this network; RFC 1112 §4: 240.0.0.0/4 is reserved.
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        _ => None,
    }
}
