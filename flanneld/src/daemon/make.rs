//! What this host says of itself, made from what is known. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::diff::RouteText;
use kernel::message::link::SeenLink;
use kernel::state::{LinkKind, Route, RouteKey, RouteKind, Scope, State};
use kernel::types::{Family, IfName, Mac, RouteProtocol};
use overlay::backend::{self, Backend};
use overlay::lease::{StoredLease, Subnets};
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::ownership::{self, Owner, Whose};

use crate::events::facts::{Chosen, Facts, Named};
use crate::flags::Select;
use crate::underlay::{Survey, Underlay};

/// The MAC of this host's VTEP: that of the device that is there, because the peers send to it; else the one that the
/// lease says; else a new one.
pub(super) fn vtep_mac(
    family: Family,
    name: &IfName,
    (survey, owner): (&Survey, &Owner),
    own: Option<&StoredLease>,
    random: Mac,
) -> Mac {
    let ours = |link: &&SeenLink| link.name == *name && !owner.others().contains_key(name);
    let device = survey.links.iter().find(ours);
    let existing = device.filter(|link| matches!(link.link.kind, LinkKind::Vxlan(_))).and_then(|link| link.link.mac);
    let published = || own?.attrs.vtep(family).map(|data| data.vtep_mac);
    existing.or_else(published).filter(|mac| mac.is_unicast()).unwrap_or(random)
}

fn addresses(survey: &Survey, dev: &IfName) -> Vec<IpNetwork> {
    survey.addresses.iter().filter(|seen| seen.key.dev == *dev).map(|seen| seen.key.net).collect()
}

/// The tunnel devices that are ours; `owner` learns of others'.
pub(super) fn known_devices(survey: &Survey, owner: &mut Owner) -> Vec<IfName> {
    let tunnels = survey.links.iter().filter(|link| link.link.kind.is_tunnel());
    owner.survey(tunnels.map(|link| (&link.name, &link.link, addresses(survey, &link.name))))
}

/// The backends of which a daemon before this one left devices.
pub(super) fn left(survey: &Survey, owner: &Owner) -> Vec<Backend> {
    let ours = |link: &&SeenLink| owner.judge(&link.name, &link.link, &addresses(survey, &link.name)) == Whose::Ours;
    survey.links.iter().filter(ours).filter_map(|link| backend::left(&link.name, &link.link)).collect()
}

/// The links by which the host has an IPv6 default route from a router.
pub(super) fn routers(survey: &Survey) -> Vec<IfName> {
    let by_router = |dev: &IfName| {
        let of_link = |(key, route): &(RouteKey, Route)| {
            key.dst.prefix() == 0 && route.dev.as_ref() == Some(dev) && route.protocol == RouteProtocol::ROUTER
        };
        survey.routes.iter().any(of_link)
    };
    let takes = |link: &&SeenLink| link.ipv6.is_some_and(|ipv6| ipv6.accept_ra != 0) && by_router(&link.name);
    survey.links.iter().filter(takes).map(|link| link.name.clone()).collect()
}

/// The routes inside the network that are somebody else's, as `ip route` shows them.
pub(super) fn foreign_routes(scope: &Scope, own: Subnets, survey: &Survey) -> Vec<String> {
    let Some(routes) = &scope.routes else { return Vec::new() };
    let foreign = ownership::foreign(routes, (&scope.links, own), &survey.routes);
    foreign.into_iter().map(|(key, route)| RouteText(key, route).to_string()).collect()
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
            further: false,
        };
        state.routes.insert(key, route);
    }
}

/// What the plan depends on, when `underlay` was found in `survey`, what is in `scope` is ours, and pods have `own`.
pub(super) fn facts(
    select: &Select,
    conf: &NetConf,
    underlay: Option<&Underlay>,
    (scope, own): (&Scope, Subnets),
    survey: &Survey,
) -> Facts {
    let chosen = Chosen {
        dev: underlay.map(|underlay| underlay.dev.clone()),
        by_default_route: select.follows_default_route(&families(conf)),
        can_reach: select.can_reach,
    };
    let adopts = scope.routes.as_ref().filter(|routes| !routes.adopt.within.is_empty());
    let within = adopts.map(|routes| routes.within.clone()).unwrap_or_default();
    Facts::new(chosen, &scope.links, Named { within, own }, survey)
}

/// The families that are on, IPv4 first.
pub(super) fn families(conf: &NetConf) -> Vec<Family> {
    conf.families().map(|(family, _)| family).collect()
}
