//! The backends and their own keys.

use gojson::{Json, Reader};
use kernel::types::{Family, IfName, InvalidValue, Mtu, Vni};

use super::commands::{self, ExtensionConf};
use super::wireguard::{self, WireguardConf};
use super::{Mistake, Notes, Warning};

/// How packets reach another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// In VXLAN packets, or with `DirectRouting` without them where no router is between.
    Vxlan(VxlanConf),
    /// By plain routes: all hosts are on one segment.
    HostGw,
    /// In UDP datagrams that a program of ours packs. IPv4 only.
    Udp(UdpConf),
    /// In IPIP packets, or with `DirectRouting` without them where no router is between. IPv4 only.
    Ipip(IpipConf),
    /// In WireGuard packets, encrypted.
    Wireguard(WireguardConf),
    /// By commands of the operator's.
    Extension(ExtensionConf),
    /// Not at all: subnets are leased, and something else moves the packets.
    Alloc,
}

impl Backend {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp(_) => "udp",
            Self::Ipip(_) => "ipip",
            Self::Wireguard(_) => "wireguard",
            Self::Extension(_) => "extension",
            Self::Alloc => "alloc",
        }
    }

    /// The `BackendType` of its leases: its name, but empty for alloc and udp, as upstream publishes it.
    pub fn lease_type(&self) -> &'static str {
        match self {
            Self::Alloc | Self::Udp(_) => "",
            other => other.name(),
        }
    }

    /// The backend moves IPv4 only.
    fn is_v4_only(&self) -> bool {
        matches!(self, Self::Udp(_) | Self::Ipip(_))
    }
}

/// The udp backend's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConf {
    /// `Port`, default 8285: where this host listens and where it sends to. All hosts must agree.
    pub port: u16,
}

/// The ipip backend's keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpipConf {
    /// `DirectRouting`, default false: plain routes to the hosts on the same segment.
    pub direct_routing: bool,
}

/// The vxlan backend's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanConf {
    /// `VNI`, default 1. Its digits are part of the device names.
    pub vni: Vni,
    /// `Port`, UDP; `None` (0, the default) is the kernel's 8472.
    pub port: Option<u16>,
    /// `MTU` of the *underlay*, of which VXLAN's own 50 bytes are taken; `None` is the underlay interface's.
    pub mtu: Option<Mtu>,
    /// `GBP`, default false: the group policy extension.
    pub gbp: bool,
    /// `Learning`, default false: the device learns from packets it receives.
    pub learning: bool,
    /// `DirectRouting`, default false: plain routes to the hosts on the same segment.
    pub direct_routing: bool,
}

impl Default for VxlanConf {
    #[expect(clippy::expect_used, reason = "1 is a VNI")]
    fn default() -> Self {
        let vni = Vni::new(1).expect("1 fits 24 bits");
        Self { vni, port: None, mtu: None, gbp: false, learning: false, direct_routing: false }
    }
}

/// The name of a family's VXLAN device: `flannel.1`, `flannel-v6.1`.
///
/// # Errors
/// A VNI whose digits make the name longer than the kernel's 15 bytes: more than 7 digits, for IPv6 more than 4.
pub fn vxlan_device(family: Family, vni: Vni) -> Result<IfName, InvalidValue> {
    match family {
        Family::V4 => IfName::new(&format!("flannel.{vni}")),
        Family::V6 => IfName::new(&format!("flannel-v6.{vni}")),
    }
}

/// Upstream's backends that this program does not have, and what to say about each.
const UNSUPPORTED: [(&str, &str); 2] = [
    ("ipsec", "this program runs no IKE daemon; wireguard encrypts, vxlan would send the packets in clear"),
    ("tencent-vpc", "this program does not speak to cloud APIs; alloc leases subnets and leaves routes to others"),
];

/// Reads the value of `Backend`; `None` only together with a mistake in `notes`.
pub(super) fn read(value: Option<&Json>, ipv6: bool, notes: &mut Notes) -> Option<Backend> {
    let Some(value) = value else {
        notes.warnings.push(Warning::NoBackend);
        return check(Backend::Udp(UdpConf { port: UDP_PORT }), ipv6, notes);
    };
    let mut reader = Reader::new("Backend", value).map_err(|e| notes.wrong(e)).ok()?;
    let before = notes.mistakes.len();
    let name = reader.take::<String>("Type").unwrap_or_default().to_lowercase();
    let backend = match name.as_str() {
        "vxlan" => Backend::Vxlan(vxlan(&mut reader, ipv6, notes)),
        "host-gw" => Backend::HostGw,
        "udp" => Backend::Udp(UdpConf { port: port(&mut reader, "Port", notes).unwrap_or(UDP_PORT) }),
        "ipip" => Backend::Ipip(IpipConf { direct_routing: reader.take("DirectRouting").unwrap_or_default() }),
        "wireguard" => Backend::Wireguard(wireguard::read(&mut reader, ipv6, notes)),
        "extension" => Backend::Extension(commands::read(&mut reader, notes)),
        "alloc" => Backend::Alloc,
        _ => {
            // its other keys are none of ours, so they are not called unknown
            let (wrong, _) = reader.finish();
            let typed = wrong.is_empty();
            notes.mistakes.extend(wrong.into_iter().map(Mistake::from));
            if typed {
                notes.wrong(refusal(name));
            }
            return None;
        }
    };
    notes.close(reader);
    let backend = check(backend, ipv6, notes);
    backend.filter(|_| notes.mistakes.len() == before)
}

fn check(backend: Backend, ipv6: bool, notes: &mut Notes) -> Option<Backend> {
    if ipv6 && backend.is_v4_only() {
        notes.wrong(Mistake::V4Only { name: backend.name() });
        return None;
    }
    Some(backend)
}

/// Upstream's port of the udp backend.
const UDP_PORT: u16 = 8285;

/// `Backend.<key>` as a UDP port; 0 and absent are "not set".
pub(super) fn port(reader: &mut Reader<'_>, key: &'static str, notes: &mut Notes) -> Option<u16> {
    let path = match key {
        "ListenPort" => "Backend.ListenPort",
        "ListenPortV6" => "Backend.ListenPortV6",
        _ => "Backend.Port",
    };
    number(reader.take(key), path, (1, 65535, "0 (the default) to 65535"), notes)
        .and_then(|port| u16::try_from(port).ok())
}

fn refusal(name: String) -> Mistake {
    match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        Some((name, why)) => Mistake::UnsupportedBackend { name, why },
        None => Mistake::UnknownBackend { name },
    }
}

fn vxlan(reader: &mut Reader<'_>, ipv6: bool, notes: &mut Notes) -> VxlanConf {
    let default = VxlanConf::default();
    let mut number = |key, value: Option<u64>, check: &dyn Fn(u64) -> Result<u32, &'static str>| {
        let value = value?;
        check(value).map_err(|wanted| notes.wrong(Mistake::OutOfRange { key, value, wanted })).ok()
    };
    let vni = number("Backend.VNI", reader.take("VNI"), &|value| vni_in_range(value, ipv6).map(Vni::get));
    let port = number("Backend.Port", reader.take("Port"), &|value| port_in_range(value).map(u32::from));
    let mtu = number("Backend.MTU", reader.take("MTU"), &|value| mtu_in_range(value, ipv6).map(|mtu| mtu.0));
    VxlanConf {
        vni: vni.and_then(|vni| Vni::new(vni).ok()).unwrap_or(default.vni),
        port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        mtu: mtu.filter(|mtu| *mtu != 0).map(Mtu),
        gbp: reader.take("GBP").unwrap_or(default.gbp),
        learning: reader.take("Learning").unwrap_or(default.learning),
        direct_routing: reader.take("DirectRouting").unwrap_or(default.direct_routing),
    }
}

/// A VNI: VXLAN's 24 bits, less what the device names have no room for.
///
/// # Errors
/// What it must be.
pub fn vni_in_range(value: u64, ipv6: bool) -> Result<Vni, &'static str> {
    let vni = u32::try_from(value).ok().and_then(|vni| Vni::new(vni).ok());
    let named = |vni: &Vni| vxlan_device(Family::V4, *vni).is_ok() && (!ipv6 || vxlan_device(Family::V6, *vni).is_ok());
    vni.filter(named).ok_or(if ipv6 {
        "0 to 9999, because it is part of the device name flannel-v6.VNI and a name has at most 15 bytes"
    } else {
        "0 to 9999999, because it is part of the device name flannel.VNI and a name has at most 15 bytes"
    })
}

/// 0 is Go's "not set".
pub(super) fn number(
    value: Option<u64>,
    key: &'static str,
    range: (u64, u64, &'static str),
    notes: &mut Notes,
) -> Option<u64> {
    let (low, high, wanted) = range;
    let value = value.filter(|value| *value != 0)?;
    if (low..=high).contains(&value) {
        return Some(value);
    }
    notes.wrong(Mistake::OutOfRange { key, value, wanted });
    None
}

/// A UDP port; 0 is Go's "not set".
///
/// # Errors
/// What it must be.
pub fn port_in_range(value: u64) -> Result<u16, &'static str> {
    u16::try_from(value).map_err(|_| "0 (the kernel's 8472) to 65535")
}

/// The MTU of an underlay, bytes; 0 is Go's "not set". An IPv4 link carries at least 68 bytes (RFC 791 §3.2), an IPv6
/// link 1280 (RFC 8200 §5); VXLAN takes 50 and 70.
///
/// # Errors
/// What it must be.
pub fn mtu_in_range(value: u64, ipv6: bool) -> Result<Mtu, &'static str> {
    let least = if ipv6 { 1350 } else { 118 };
    let mtu = u32::try_from(value).ok().filter(|mtu| *mtu == 0 || (least..=65535).contains(mtu));
    mtu.map(Mtu).ok_or(if ipv6 {
        "1350 to 65535: it is the underlay's MTU, and IPv6 needs 1280 bytes inside VXLAN's 70"
    } else {
        "118 to 65535: it is the underlay's MTU, and IPv4 needs 68 bytes inside VXLAN's 50"
    })
}
