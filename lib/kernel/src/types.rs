//! A type for each quantity whose mix-up would cause an outage.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// A value that is not valid for its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {what}")]
pub struct InvalidValue {
    what: &'static str,
    value: String,
}

impl InvalidValue {
    fn new(what: &'static str, value: impl fmt::Display) -> Self {
        Self { what, value: value.to_string() }
    }
}

/// The index of a link; unique in one network namespace, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a link: 1 to 15 bytes without `/`, `:` or white space, and not `.` or `..` (`dev_valid_name`,
/// net/core/dev.c; `:` marked alias interfaces, and the CNI specification forbids it).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName {
    /// The name, padded with zeros, so that the byte order is that of the text. It is stored in place, because there
    /// are thousands.
    bytes: [u8; IFNAMSIZ - 1],
}

/// From linux/if.h, including the terminating zero.
const IFNAMSIZ: usize = 16;

impl IfName {
    /// Checks `name` by the rules above.
    pub fn new(name: &str) -> Result<Self, InvalidValue> {
        let good = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.contains(['/', ':', '\0'])
            && !name.contains(char::is_whitespace);
        if !good {
            return Err(InvalidValue::new("an interface name", name));
        }
        let mut bytes = [0; IFNAMSIZ - 1];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self { bytes })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        // They were copied from text.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IfName {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        Self::new(s)
    }
}

/// An Ethernet address (EUI-48), printed as six lower-case pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made from `bytes` (IEEE 802c), as the kernel's `eth_random_addr` does.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & 0xfe) | 0x02;
        Self(bytes)
    }

    /// Whether a single station can have the address: it is neither a group address nor zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidValue;

    /// Parses six hexadecimal pairs, all separated by `:` or all by `-`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new("a MAC address", text);
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

/// The size of the largest packet on a link in bytes, without the link's own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mtu(pub u32);

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VXLAN network identifier: 24 bits (RFC 7348 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The smallest VNI, which the kernel accepts like any other.
    pub const ZERO: Self = Self(0);

    /// Accepts 0 to 2^24 - 1.
    pub fn new(vni: u32) -> Result<Self, InvalidValue> {
        if vni < 1 << 24 { Ok(Self(vni)) } else { Err(InvalidValue::new("a VNI (0 to 16777215)", vni)) }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An 802.1Q VLAN number: 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// Accepts 1 to 4094; 0 and 4095 are reserved (IEEE 802.1Q table 9-2).
    pub fn new(id: u16) -> Result<Self, InvalidValue> {
        if (1..=4094).contains(&id) { Ok(Self(id)) } else { Err(InvalidValue::new("a VLAN id (1 to 4094)", id)) }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a routing table (`ip route show table N`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

impl TableId {
    /// The table that `ip route` shows (RT_TABLE_MAIN, linux/rtnetlink.h).
    pub const MAIN: Self = Self(254);
    /// The one that is asked first, with this host's own addresses (RT_TABLE_LOCAL).
    pub const LOCAL: Self = Self(255);
}

/// Who installed a route (`proto` of `ip route`; RTPROT_* in linux/rtnetlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// Connected routes, from the kernel.
    pub const KERNEL: Self = Self(2);
    /// The default of tools, including Go flannel and the CNI plugins.
    pub const BOOT: Self = Self(3);
    /// Static routes of an administrator or a network manager.
    pub const STATIC: Self = Self(4);
    /// Routes from a DHCP client.
    pub const DHCP: Self = Self(16);
    /// Routes from router advertisements, by the kernel.
    pub const ROUTER: Self = Self(9);
    /// flanneld's own routes. 70 ('F') is unassigned in iproute2's rt_protos and in FRR, bird and systemd.
    pub const FLANNEL: Self = Self(70);
    /// Routes of networks that the CNI plugins keep without a daemon; also unassigned.
    pub const FLANNEL_CNI: Self = Self(71);
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both families, IPv4 first, as in upstream's output.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The bits of an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// `0.0.0.0/0` or `::/0`.
    #[expect(clippy::expect_used, reason = "a prefix length of 0 is valid for every address")]
    pub fn default_net(self) -> IpNetwork {
        let any: IpAddr = match self {
            Self::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        IpNetwork::new(any, 0).expect("a /0")
    }
}

impl From<IpAddr> for Family {
    fn from(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<IpNetwork> for Family {
    fn from(net: IpNetwork) -> Self {
        Self::from(net.ip())
    }
}

/// `net` with its host bits cleared: `10.1.2.3/24` gives `10.1.2.0/24`.
pub fn masked(net: IpNetwork) -> IpNetwork {
    // the prefix came from a valid network of the same family
    IpNetwork::new(net.network(), net.prefix()).unwrap_or(net)
}

/// The network that contains only `addr`: /32 or /128.
pub fn host_net(addr: IpAddr) -> IpNetwork {
    IpNetwork::from(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernel() {
        for good in ["eth0", "a", "veth0123456789a", "flannel-v6.1"] {
            assert!(IfName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-bytes-xx"] {
            assert!(IfName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_parse_and_print() {
        let mac: Mac = "4A:ed:0f:9b:24:90".parse().unwrap();
        assert_eq!(mac.to_string(), "4a:ed:0f:9b:24:90");
        assert_eq!("4a-ed-0f-9b-24-90".parse::<Mac>().unwrap(), mac);
        for bad in
            ["", "4a:ed:0f:9b:24", "4a:ed:0f:9b:24:90:00", "4a:ed:0f:9b:24:9", "4a:ed-0f:9b:24:90", "+a:ed:0f:9b:24:90"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert!(!Mac([0; 6]).is_unicast());
        assert!(!Mac([1, 0, 0, 0, 0, 1]).is_unicast());
        assert!(Mac::local([0xff; 6]).is_unicast());
    }

    #[test]
    fn ranges_are_held() {
        assert!(Vni::new((1 << 24) - 1).is_ok());
        assert!(Vni::new(1 << 24).is_err());
        assert!(VlanId::new(0).is_err() && VlanId::new(4095).is_err() && VlanId::new(4094).is_ok());
        assert_eq!(masked("10.1.2.3/24".parse().unwrap()).to_string(), "10.1.2.0/24");
    }
}
