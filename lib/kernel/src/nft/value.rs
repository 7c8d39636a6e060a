//! The types (`ipv4_addr`, `inet_service`) and values of sets' keys, maps' data and comparisons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::wire::{align, text};
use crate::types::{Family, IfName, Mac};

/// Bits per type in the number of a concatenation (TYPE_BITS, nft's datatype.h).
const TYPE_BITS: u32 = 6;

/// A data type by its `nft` name. The numbers are nft's own (datatype.h); the kernel only stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `ether_addr`
    EtherAddr,
    /// `inet_proto`
    InetProto,
    /// `inet_service`: a port
    InetService,
    /// `mark`
    Mark,
    /// `ct_state`
    CtState,
    /// `ifname`
    IfName,
    /// A type that this module does not know: nft's number (of the whole concatenation) and the length in bytes. Only
    /// read.
    Other(u32, u32),
}

impl Type {
    const KNOWN: [Self; 8] = [
        Self::Ipv4Addr,
        Self::Ipv6Addr,
        Self::EtherAddr,
        Self::InetProto,
        Self::InetService,
        Self::Mark,
        Self::CtState,
        Self::IfName,
    ];

    /// The type of a family's addresses.
    pub fn addr(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4Addr,
            Family::V6 => Self::Ipv6Addr,
        }
    }

    /// nft's number.
    pub fn id(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::CtState => 26,
            Self::IfName => 41,
            Self::Other(id, _) => id,
        }
    }

    /// The length of a value in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark | Self::CtState => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::Other(_, len) => len as usize,
        }
    }

    /// Whether values are in host byte order, which `nft` must know to print them.
    pub(super) fn host_order(self) -> bool {
        matches!(self, Self::Mark | Self::CtState | Self::IfName)
    }

    /// The length of a value in a key, in bytes: fields of a concatenation fill whole registers.
    pub(super) fn padded(self) -> usize {
        align(self.size())
    }

    /// The number of a concatenation.
    pub(super) fn concat_id(types: &[Self]) -> u32 {
        types.iter().fold(0, |id, t| id << TYPE_BITS | t.id())
    }

    /// The length of a key of these types, in bytes. A single field is not padded.
    pub(super) fn concat_len(types: &[Self]) -> usize {
        match types {
            [one] => one.size(),
            many => many.iter().map(|t| t.padded()).sum(),
        }
    }

    /// The types of a concatenation that the kernel reports as `id` with `len` bytes.
    pub(super) fn split(id: u32, len: u32) -> Vec<Self> {
        let mut types = Vec::new();
        let mut rest = id;
        while rest != 0 {
            let one = rest & ((1 << TYPE_BITS) - 1);
            match Self::KNOWN.into_iter().find(|t| t.id() == one) {
                Some(known) => types.insert(0, known),
                None => return vec![Self::Other(id, len)],
            }
            rest >>= TYPE_BITS;
        }
        if Self::concat_len(&types) == len as usize { types } else { vec![Self::Other(id, len)] }
    }

    /// Decodes a value from `bytes`, which has at least [`Type::size`] bytes.
    fn value(self, bytes: &[u8]) -> Option<Value> {
        let bytes = bytes.get(..self.size())?;
        Some(match self {
            Self::Ipv4Addr => Value::Addr(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            Self::Ipv6Addr => Value::Addr(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
            Self::EtherAddr => Value::Mac(Mac(bytes.try_into().ok()?)),
            Self::InetProto => Value::Proto(bytes[0]),
            Self::InetService => Value::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
            Self::Mark | Self::CtState => Value::Word(u32::from_ne_bytes(bytes.try_into().ok()?)),
            Self::IfName => IfName::new(&text(bytes)).map_or_else(|_| Value::Bytes(bytes.into()), Value::IfName),
            Self::Other(..) => Value::Bytes(bytes.into()),
        })
    }

    /// Decodes the values of a key of these types.
    pub(super) fn values(types: &[Self], mut bytes: &[u8]) -> Option<Vec<Value>> {
        types
            .iter()
            .map(|t| {
                let value = t.value(bytes);
                bytes = bytes.get(t.padded()..).unwrap_or_default();
                value
            })
            .collect()
    }
}

/// A value. Its variant must match the [`Type`] that it is used for; otherwise the kernel refuses its length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// An address of either family.
    Addr(IpAddr),
    /// An Ethernet address.
    Mac(Mac),
    /// An IP protocol number: 6 is TCP, 17 UDP, 132 SCTP.
    Proto(u8),
    /// A port.
    Port(u16),
    /// A packet mark or a set of conntrack states, in host order.
    Word(u32),
    /// An interface's name.
    IfName(IfName),
    /// Bytes in the order of the packet.
    Bytes(Vec<u8>),
}

impl Value {
    /// The bytes that the kernel compares.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Addr(IpAddr::V4(addr)) => addr.octets().into(),
            Self::Addr(IpAddr::V6(addr)) => addr.octets().into(),
            Self::Mac(mac) => mac.0.into(),
            Self::Proto(proto) => vec![*proto],
            Self::Port(port) => port.to_be_bytes().into(),
            Self::Word(word) => word.to_ne_bytes().into(),
            Self::IfName(name) => {
                let mut bytes = name.as_str().as_bytes().to_vec();
                bytes.resize(Type::IfName.size(), 0);
                bytes
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }

    /// The bytes of a key: fields of a concatenation fill whole registers, a single field is not padded.
    pub(super) fn concat(values: &[Self]) -> Vec<u8> {
        if let [one] = values {
            return one.bytes();
        }
        let mut all = Vec::new();
        for value in values {
            all.extend(value.bytes());
            all.resize(align(all.len()), 0);
        }
        all
    }
}

impl From<IpAddr> for Value {
    fn from(addr: IpAddr) -> Self {
        Self::Addr(addr)
    }
}

impl From<Mac> for Value {
    fn from(mac: Mac) -> Self {
        Self::Mac(mac)
    }
}

impl From<IfName> for Value {
    fn from(name: IfName) -> Self {
        Self::IfName(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_split_into_what_they_were() {
        for types in [
            vec![Type::IfName],
            vec![Type::InetProto],
            vec![Type::InetProto, Type::InetService],
            vec![Type::Ipv6Addr, Type::InetService, Type::Mark],
        ] {
            let (id, len) = (Type::concat_id(&types), Type::concat_len(&types));
            assert_eq!(Type::split(id, len as u32), types);
        }
        // numbers seen in nft's own messages
        assert_eq!(Type::concat_id(&[Type::IfName, Type::InetService]), 0xa4d);
        assert_eq!(Type::concat_id(&[Type::Ipv4Addr, Type::InetService]), 0x1cd);
        // time (18) is not known here; and a wrong length means that the number is not a known concatenation
        assert_eq!(Type::split(18, 8), [Type::Other(18, 8)]);
        assert_eq!(Type::split(7, 8), [Type::Other(7, 8)]);
    }

    #[test]
    fn values_survive_the_wire() {
        let types = [Type::InetProto, Type::IfName, Type::EtherAddr, Type::Ipv6Addr, Type::InetService];
        let values = vec![
            Value::Proto(6),
            IfName::new("eth0").unwrap().into(),
            Mac([2, 0, 0, 0, 0, 1]).into(),
            IpAddr::from(Ipv6Addr::LOCALHOST).into(),
            Value::Port(80),
        ];
        let bytes = Value::concat(&values);
        assert_eq!(bytes.len(), 4 + 16 + 8 + 16 + 4);
        assert_eq!(Type::values(&types, &bytes), Some(values));
        assert_eq!(Type::values(&types, &bytes[..20]), None);
    }
}
