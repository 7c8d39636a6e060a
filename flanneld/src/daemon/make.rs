//! What this host says of itself, made from what is known. Pure.

use std::net::IpAddr;

use kernel::message::link::SeenLink;
use kernel::state::{LinkKind, Route, RouteKey, RouteKind, State};
use kernel::types::{Family, IfName, Mac, RouteProtocol};
use overlay::backend::{self, Backend};
use overlay::lease::{StoredLease, Subnets};
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::render::ALIAS;

use crate::events::facts::{Chosen, Facts};
use crate::flags::Select;
use crate::underlay::{Survey, Underlay};

/// The MAC of this host's VTEP: that of the device that is there, because the peers send to it; else the one that the
/// lease says; else a new one.
pub(super) fn vtep_mac(family: Family, name: &IfName, survey: &Survey, own: Option<&StoredLease>, random: Mac) -> Mac {
    let device = survey.links.iter().find(|link| link.name == *name);
    let existing = device.filter(|link| matches!(link.link.kind, LinkKind::Vxlan(_))).and_then(|link| link.link.mac);
    let published = || own?.attrs.vtep(family).map(|data| data.vtep_mac);
    existing.or_else(published).filter(|mac| mac.is_unicast()).unwrap_or(random)
}

fn is_ours(link: &&SeenLink) -> bool {
    link.link.kind.is_tunnel() && link.link.alias.as_deref() == Some(ALIAS)
}

/// The tunnel devices that carry our mark.
pub(super) fn known_devices(survey: &Survey) -> Vec<IfName> {
    survey.links.iter().filter(is_ours).map(|link| link.name.clone()).collect()
}

/// The backends of which a daemon before this one left devices.
pub(super) fn left(survey: &Survey) -> Vec<Backend> {
    survey.links.iter().filter(is_ours).filter_map(|link| backend::left(&link.name, &link.link)).collect()
}

/// The underlay in the words of the domain.
pub(super) fn underlay_facts(underlay: &Underlay, survey: &Survey) -> overlay::underlay::Underlay {
    let mut addresses = ByFamily::default();
    for addr in &underlay.addresses {
        *addresses.get_mut(Family::from(*addr)) = Some(*addr);
    }
    overlay::underlay::Underlay {
        dev: underlay.dev.clone(),
        mtu: underlay.mtu,
        addresses,
        connected: survey.connected(&underlay.dev),
    }
}

/// The published addresses.
pub(super) fn public(underlay: &Underlay) -> ByFamily<Option<IpAddr>> {
    let mut public = ByFamily::default();
    for addr in &underlay.public {
        *public.get_mut(Family::from(*addr)) = Some(*addr);
    }
    public
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
