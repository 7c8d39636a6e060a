//! What this host says of itself, made from what is known. Pure.

use kernel::message::link::SeenLink;
use kernel::state::{LinkKind, Route, RouteKey, RouteKind, State};
use kernel::types::{Family, IfName, Mac, RouteProtocol};
use overlay::host::{self, ALIAS};
use overlay::lease::{LeaseAttrs, Subnets, VxlanData};
use overlay::net::ByFamily;
use overlay::netconf::{Backend, NetConf, VxlanConf, vxlan_device};

use crate::events::facts::{Chosen, Facts};
use crate::flags::Select;
use crate::underlay::{Survey, Underlay};

/// What the peers must know to reach this host.
pub(super) fn attributes(conf: &NetConf, underlay: &Underlay, macs: &ByFamily<Option<Mac>>) -> LeaseAttrs {
    let mut attrs = LeaseAttrs { backend_type: conf.backend.lease_type().to_owned(), ..LeaseAttrs::default() };
    for public in &underlay.public {
        match public {
            std::net::IpAddr::V4(v4) => attrs.public_ip = Some(*v4),
            std::net::IpAddr::V6(v6) => attrs.public_ipv6 = Some(*v6),
        }
    }
    if let Backend::Vxlan(vxlan) = &conf.backend {
        for (family, _) in conf.families() {
            if let Some(vtep_mac) = *macs.get(family) {
                attrs.set_data(family, VxlanData { vni: Some(vxlan.vni), vtep_mac }.to_json());
            }
        }
    }
    attrs
}

/// The MAC of this host's VTEP: that of the device that is there, because the peers send to it; else the one that the
/// lease says; else a new one.
pub(super) fn vtep_mac(
    family: Family,
    vxlan: &VxlanConf,
    survey: &Survey,
    own: Option<&LeaseAttrs>,
    random: Mac,
) -> Mac {
    let device = vxlan_device(family, vxlan.vni).ok().and_then(|name| survey.links.iter().find(|l| l.name == name));
    let existing = device.filter(|link| matches!(link.link.kind, LinkKind::Vxlan(_))).and_then(|link| link.link.mac);
    let published = || VxlanData::parse(own?.data(family)?).ok().map(|data| data.vtep_mac);
    existing.or_else(published).filter(|mac| mac.is_unicast()).unwrap_or(random)
}

fn is_ours(link: &&SeenLink) -> bool {
    link.link.kind.is_tunnel() && link.link.alias.as_deref() == Some(ALIAS)
}

/// The tunnel devices that carry our mark.
pub(super) fn known_devices(survey: &Survey) -> Vec<IfName> {
    survey.links.iter().filter(is_ours).map(|link| link.name.clone()).collect()
}

/// The backend of which a daemon before this one left a device.
pub(super) fn vxlan_left(survey: &Survey) -> Option<VxlanConf> {
    survey.links.iter().filter(is_ours).find_map(|link| match &link.link.kind {
        LinkKind::Vxlan(vxlan) => Some(VxlanConf {
            vni: vxlan.vni,
            port: vxlan.port,
            mtu: None,
            gbp: vxlan.gbp,
            learning: vxlan.learning,
            direct_routing: false,
        }),
        _ => None,
    })
}

/// The underlay in the words of the domain.
pub(super) fn underlay_facts(underlay: &Underlay, survey: &Survey) -> host::Underlay {
    let mut addresses = ByFamily::default();
    for addr in &underlay.addresses {
        *addresses.get_mut(Family::from(*addr)) = Some(*addr);
    }
    host::Underlay {
        dev: underlay.dev.clone(),
        mtu: underlay.mtu,
        addresses,
        connected: survey.connected(&underlay.dev),
    }
}

/// Behind every other route to this host's subnets: the bridge's own, and a pod's, have a lower metric. Upstream's has
/// none, and cannot be added beside the bridge's.
const LAST: u32 = 1 << 30;

/// `ip route add blackhole SUBNET`: what no pod has is not sent on by the default route.
pub(super) fn add_blackholes(state: &mut State, subnets: Subnets) {
    for dst in subnets.iter() {
        let key = RouteKey { metric: Some(LAST), ..RouteKey::main(dst) };
        let route = Route {
            kind: RouteKind::Blackhole,
            dev: None,
            via: None,
            onlink: false,
            scope: None,
            src: None,
            protocol: RouteProtocol::FLANNEL,
            mtu: None,
            advmss: None,
        };
        state.routes.insert(key, route);
    }
}

/// What the plan depends on, when `underlay` was found in `survey` and `devices` are ours.
pub(super) fn facts(
    select: &Select,
    conf: &NetConf,
    underlay: Option<&Underlay>,
    devices: &[IfName],
    survey: &Survey,
) -> Facts {
    let chosen = Chosen {
        dev: underlay.map(|underlay| underlay.dev.clone()),
        by_default_route: select.follows_default_route(&families(conf)),
        can_reach: select.can_reach,
    };
    Facts::new(chosen, devices, survey)
}

/// The families that are on, IPv4 first.
pub(super) fn families(conf: &NetConf) -> Vec<Family> {
    conf.families().map(|(family, _)| family).collect()
}
