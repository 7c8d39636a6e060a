//! The vxlan backend: a device per family, and per peer a neighbour, an FDB entry and a route.
//!
//! ```text
//! 10.5.53.0 dev flannel.1 lladdr 4a:ed:0f:9b:24:90 PERMANENT
//! 4a:ed:0f:9b:24:90 dev flannel.1 dst 10.99.0.3 self permanent
//! 10.5.53.0/24 via 10.5.53.0 dev flannel.1 onlink
//! ```
//!
//! A host's VTEPs have one MAC address per family, whatever their VNI and port. So a peer that has not followed a
//! change reaches the device of the previous configuration even with the address of the new lease.

use std::net::IpAddr;

use gojson::{Json, Reader};
use kernel::state::{FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey, State, Vxlan};
use kernel::types::{Family, IfName, InvalidValue, Mac, Mtu, Vni, host_net};

use super::{Backend, Census, Conf, Data, Devices, End, Host, Identity, Kind, Mistake, Role};
use crate::lease::{LeaseAttrs, VxlanData};
use crate::net::ByFamily;
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Names, Tunnel, Why};
use crate::render::flannel_route;

/// The vxlan backend.
pub static KIND: Kind = Kind {
    name: "vxlan",
    lease_type: "vxlan",
    data: Data::Vtep,
    v4_only: false,
    tunnel: Some(TUNNEL),
    read,
    left: |name, link| match &link.kind {
        // every name that this backend gives ends with the VNI; another backend may have such links, too
        LinkKind::Vxlan(vxlan) if name.as_str().ends_with(&format!(".{}", vxlan.vni)) => {
            Some(Backend::Vxlan(VxlanConf {
                vni: vxlan.vni,
                port: vxlan.port,
                mtu: None,
                gbp: vxlan.gbp,
                learning: vxlan.learning,
                direct_routing: false,
            }))
        }
        _ => None,
    },
};

/// VXLAN, by the kernel.
pub const TUNNEL: Tunnel = Tunnel::new(&Names { name: "vxlan", title: "VXLAN", direct_routing: true });

/// The vxlan backend's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanConf {
    /// `VNI`, default 1. Its digits are part of the device names.
    pub vni: Vni,
    /// `Port`, UDP; `None` (0, the default) means the kernel's 8472.
    pub port: Option<u16>,
    /// `MTU` of the *underlay*, from which VXLAN's 50 bytes are subtracted; `None` means the underlay interface's
    /// MTU.
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

fn read(reader: &mut Reader<'_>, ipv6: bool, mistakes: &mut Vec<Mistake>) -> Backend {
    let default = VxlanConf::default();
    let mut number = |key, value: Option<u64>, check: &dyn Fn(u64) -> Result<u32, &'static str>| {
        let value = value?;
        check(value).map_err(|wanted| mistakes.push(Mistake::OutOfRange { key, value, wanted })).ok()
    };
    let vni = number("Backend.VNI", reader.take("VNI"), &|value| vni_in_range(value, ipv6).map(Vni::get));
    let port = number("Backend.Port", reader.take("Port"), &|value| port_in_range(value).map(u32::from));
    let mtu = number("Backend.MTU", reader.take("MTU"), &|value| mtu_in_range(value, ipv6).map(|mtu| mtu.0));
    Backend::Vxlan(VxlanConf {
        vni: vni.and_then(|vni| Vni::new(vni).ok()).unwrap_or(default.vni),
        port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        mtu: mtu.filter(|mtu| *mtu != 0).map(Mtu),
        gbp: reader.take("GBP").unwrap_or(default.gbp),
        learning: reader.take("Learning").unwrap_or(default.learning),
        direct_routing: reader.take("DirectRouting").unwrap_or(default.direct_routing),
    })
}

/// A VNI: 24 bits in VXLAN, less as far as the device names have no room.
///
/// # Errors
/// The range that the VNI must be in.
pub fn vni_in_range(value: u64, ipv6: bool) -> Result<Vni, &'static str> {
    let vni = u32::try_from(value).ok().and_then(|vni| Vni::new(vni).ok());
    let named = |vni: &Vni| device(Family::V4, *vni).is_ok() && (!ipv6 || device(Family::V6, *vni).is_ok());
    vni.filter(named).ok_or(if ipv6 {
        "0 to 9999, because it is part of the device name flannel-v6.VNI and a name has at most 15 bytes"
    } else {
        "0 to 9999999, because it is part of the device name flannel.VNI and a name has at most 15 bytes"
    })
}

/// A UDP port; 0 means "not set", as in Go.
///
/// # Errors
/// The range that the port must be in.
pub fn port_in_range(value: u64) -> Result<u16, &'static str> {
    u16::try_from(value).map_err(|_| "0 (the kernel's 8472) to 65535")
}

/// The MTU of an underlay in bytes; 0 means "not set", as in Go. An IPv4 link carries at least 68 bytes (RFC 791
/// §3.2), an IPv6 link 1280 (RFC 8200 §5); VXLAN takes 50 and 70.
///
/// # Errors
/// The range that the MTU must be in.
pub fn mtu_in_range(value: u64, ipv6: bool) -> Result<Mtu, &'static str> {
    let least = if ipv6 { 1350 } else { 118 };
    let mtu = u32::try_from(value).ok().filter(|mtu| *mtu == 0 || (least..=65535).contains(mtu));
    mtu.map(Mtu).ok_or(if ipv6 {
        "1350 to 65535: it is the underlay's MTU, and IPv6 needs 1280 bytes inside VXLAN's 70"
    } else {
        "118 to 65535: it is the underlay's MTU, and IPv4 needs 68 bytes inside VXLAN's 50"
    })
}

/// The name of a family's device: `flannel.1`, `flannel-v6.1`.
///
/// # Errors
/// A VNI whose digits make the name longer than the kernel's 15 bytes: more than 7 digits, for IPv6 more than 4.
pub fn device(family: Family, vni: Vni) -> Result<IfName, InvalidValue> {
    match family {
        Family::V4 => IfName::new(&format!("flannel.{vni}")),
        Family::V6 => IfName::new(&format!("flannel-v6.{vni}")),
    }
}

/// The kernel's default port (`vxlan_port`, drivers/net/vxlan/vxlan_core.c).
const KERNEL_PORT: u16 = 8472;

/// What VXLAN adds to a packet, in bytes: outer IP, UDP, VXLAN and inner Ethernet headers, 20 or 40 + 8 + 8 + 14
/// (VXLAN_HEADROOM and VXLAN6_HEADROOM, include/net/vxlan.h).
fn headroom(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

impl VxlanConf {
    fn udp_port(&self) -> u16 {
        self.port.unwrap_or(KERNEL_PORT)
    }

    /// The device's name while another device has upstream's: `fl8472.1`, `fl6-8472.1`. It contains the port, so that
    /// two ports that alternate never need the same name.
    fn kept_device(&self, family: Family) -> Option<IfName> {
        let infix = if family == Family::V4 { "fl" } else { "fl6-" };
        IfName::new(&format!("{infix}{}.{}", self.udp_port(), self.vni)).ok()
    }

    fn device(&self, family: Family, role: Role) -> Option<IfName> {
        match role {
            Role::Renamed => self.kept_device(family),
            Role::Current | Role::Kept => device(family, self.vni).ok(),
        }
    }

    /// The MTU of the device; the kernel refuses more than the underlay link leaves.
    fn device_mtu(&self, underlay: Mtu, family: Family) -> Mtu {
        let outer = self.mtu.map_or(underlay, |mtu| mtu.min(underlay));
        Mtu(outer.0.saturating_sub(headroom(family)))
    }
}

impl Conf for VxlanConf {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        Some(if self.direct_routing { Mode::WherePossible } else { Mode::Never })
    }

    /// The size that fits into VXLAN over IPv4. Over IPv6 it is 20 bytes less; the device has that MTU, and the host
    /// reports it to the pods by ICMPv6.
    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        self.device_mtu(underlay, Family::V4)
    }

    fn mac_device(&self, family: Family) -> Option<IfName> {
        self.device(family, Role::Current)
    }

    fn lease_data(&self, identity: &Identity, family: Family) -> Option<Json> {
        let vtep_mac = (*identity.vtep_macs.get(family))?;
        Some(VxlanData { vni: Some(self.vni), vtep_mac }.to_json())
    }

    fn names(&self, role: Role) -> Vec<IfName> {
        Family::ALL.into_iter().filter_map(|family| self.device(family, role)).collect()
    }

    fn end(&self, host: &Host, role: Role) -> Option<Box<dyn End>> {
        let vtep = |family| Vtep::new(self, host, family, role);
        Some(Box::new(Vteps { vni: self.vni, of: ByFamily { v4: vtep(Family::V4), v6: vtep(Family::V6) } }))
    }

    fn devices(&self) -> Option<Devices> {
        Some(Devices { kind: KIND.name, name: self.vni.get(), fixed: self.udp_port().into() })
    }

    /// All devices of a port share one socket in the kernel, which has the group policy extension or not
    /// (`vxlan_find_sock`, drivers/net/vxlan/vxlan_core.c).
    fn can_stay_beside(&self, current: &Backend) -> bool {
        match current {
            Backend::Vxlan(current) => self.udp_port() != current.udp_port() || self.gbp == current.gbp,
            _ => true,
        }
    }

    fn is_named_in(&self, attrs: &LeaseAttrs) -> bool {
        let data = Family::ALL.into_iter().filter_map(|family| VxlanData::parse(attrs.data(family)?).ok());
        data.into_iter().any(|data| data.speaks(self.vni))
    }

    fn may_be_sent_to(&self, census: &Census) -> bool {
        census.speaks(self.vni)
    }

    /// A lease contains the VNI but not the port.
    fn looks_like(&self, current: &Backend) -> bool {
        matches!(current, Backend::Vxlan(current) if current.vni.get() & 0xffff == self.vni.get() & 0xffff)
    }
}

/// This host's VTEPs.
#[derive(Debug)]
struct Vteps {
    vni: Vni,
    of: ByFamily<Option<Vtep>>,
}

/// The VTEP of one family.
#[derive(Debug)]
struct Vtep {
    dev: IfName,
    link: Link,
    base: IpAddr,
}

impl End for Vteps {
    fn write(&self, state: &mut State) {
        Family::ALL.into_iter().filter_map(|family| self.of.get(family).as_ref()).for_each(|vtep| vtep.write(state));
    }

    fn tunnel(&self) -> Tunnel {
        TUNNEL
    }

    fn reaches(&self, _peer: &Peer, half: &Half) -> Result<(), Why> {
        let theirs = half.vtep.ok_or(Why::NoPeerVtep)?;
        self.of.get(half.subnet.into()).as_ref().ok_or(Why::NoOwnVtep)?;
        match theirs.vni.filter(|_| !theirs.speaks(self.vni)) {
            Some(other) => Err(Why::OtherVni(other)),
            None => Ok(()),
        }
    }

    /// A peer that changed its VNI a moment ago keeps its previous device while this host's lease says that this host
    /// may send to it.
    fn last_resort(&self, peer: &Peer, half: &Half, on_link: bool) -> Option<Why> {
        let why = self.reaches(peer, half).err()?;
        (matches!(why, Why::OtherVni(_)) && !on_link).then_some(why)
    }

    fn write_peer(&self, _peer: &Peer, half: &Half, state: &mut State) {
        let vtep = self.of.get(half.subnet.into()).as_ref();
        vtep.zip(half.vtep).into_iter().for_each(|(vtep, theirs)| vtep.write_peer(half, theirs.vtep_mac, state));
    }
}

impl Vtep {
    /// The VTEP; `None` when the family is disabled, or has no lease or no address to send from.
    fn new(conf: &VxlanConf, host: &Host, family: Family, role: Role) -> Option<Self> {
        (*host.networks.get(family))?;
        let base = host.own.get(family)?.network();
        let local = (*host.underlay.addresses.get(family))?;
        let kind = LinkKind::Vxlan(Vxlan {
            lower: Some(host.underlay.dev.clone()),
            local: Some(local),
            port: conf.port,
            learning: conf.learning,
            gbp: conf.gbp,
            ..Vxlan::new(conf.vni)
        });
        let link = Link {
            mtu: Some(conf.device_mtu(host.underlay.mtu, family)),
            mac: *host.identity.vtep_macs.get(family),
            alias: Some(host.mark()),
            // As a port of a bridge or a VRF, or with NOARP, it would carry nothing.
            master: Some(None),
            arp: Some(true),
            multicast: Some(true),
            protodown: Some(false),
            // It takes the other name back when the configuration changes back.
            was: match role {
                Role::Renamed => device(family, conf.vni).ok(),
                Role::Current | Role::Kept => conf.kept_device(family),
            },
            ..Link::up(kind)
        };
        Some(Self { dev: conf.device(family, role)?, link, base })
    }

    fn write(&self, state: &mut State) {
        state.links.insert(self.dev.clone(), self.link.clone());
        // An address without a prefix: the kernel adds no route for it.
        state.address(&self.dev, host_net(self.base), true);
        // Otherwise a peer's router advertisement would become this host's default route.
        state.conf("ipv6", &self.dev, "accept_ra", "0");
        if self.base.is_ipv6() {
            state.conf("ipv6", &self.dev, "disable_ipv6", "0");
        }
    }

    fn write_peer(&self, half: &Half, mac: Mac, state: &mut State) {
        let addr = half.subnet.network();
        state.neighbours.insert(NeighbourKey { dev: self.dev.clone(), addr }, mac);
        state.fdb.insert(FdbKey { dev: self.dev.clone(), mac }, half.public.into());
        let route = Route { via: Some(addr), onlink: true, ..flannel_route(&self.dev) };
        state.routes.insert(RouteKey::main(half.subnet), route);
        if addr.is_ipv6() {
            // The kernel refuses an onlink gateway that the table reaches by another link, as it does while the
            // subnet's direct route still exists (ip6_route_check_nh_onlink, net/ipv6/route.c).
            state.routes.insert(RouteKey::main(host_net(addr)), flannel_route(&self.dev));
        }
    }
}
