//! Refuses a host where another program already manages the network. Pure.

use ipnetwork::IpNetwork;
use kernel::message::link::SeenLink;
use kernel::state::{Route, RouteKey};
use kernel::survey::Survey;
use kernel::types::RouteProtocol;
use overlay::net::{overlap, within};
use overlay::ownership::is_mark;

use super::super::host::Daemon;
use super::plan::{Plan, mark};

/// The prefix of the marks of all such networks.
const MARKS: &str = "flannel-cni/";

/// The reasons why this host cannot have the network `name`.
pub(super) fn obstacles(name: &str, plan: &Plan, survey: &Survey, daemon: Option<&Daemon>) -> Vec<String> {
    let mut found: Vec<String> = daemon.and_then(|daemon| by_daemon(daemon, &plan.env.networks)).into_iter().collect();
    let mark = mark(name);
    let others =
        |link: &&SeenLink| plan.desired.links.contains_key(&link.name) && link.link.alias.as_deref() != Some(&mark);
    found.extend(survey.links.iter().filter(others).map(by_link));
    let routes = survey.routes.iter().filter_map(|(key, route)| by_route(name, plan, survey, key, route));
    found.extend(routes);
    found
}

/// A running flanneld that serves the same network, or has not written its network yet.
fn by_daemon(daemon: &Daemon, networks: &[IpNetwork]) -> Option<String> {
    let what = match daemon.network.first() {
        None => "has not said its network yet".to_owned(),
        Some(_) => {
            let same = |theirs: &&IpNetwork| networks.iter().any(|ours| overlap(**theirs, *ours));
            format!("has the network {}", daemon.network.iter().find(same)?)
        }
    };
    Some(format!(
        "flanneld runs on this host (process {}) and {what}: remove network, subnet and peers from the configuration to use it, or stop it",
        daemon.pid
    ))
}

fn by_link(link: &SeenLink) -> String {
    let name = &link.name;
    match link.link.alias.as_deref() {
        Some(alias) if is_mark(alias) => format!(
            "{name} is a flanneld's device: leave network, subnet and peers out of the configuration, or take another vni; when no flanneld is to come back: ip link del {name}"
        ),
        Some(other) if other.starts_with(MARKS) => {
            format!("{name} is the device of the network {}: give each network a vni of its own", &other[MARKS.len()..])
        }
        _ => format!(
            "{name} is there and not made by this plugin (a Go flanneld makes such a device): take another vni; when nobody needs it: ip link del {name}"
        ),
    }
}

/// A route to a peer that another program made, or a route of flanneld to anywhere in the network.
fn by_route(name: &str, plan: &Plan, survey: &Survey, key: &RouteKey, route: &Route) -> Option<String> {
    let (dst, protocol) = (key.dst, route.protocol);
    let dev = route.dev.as_ref().map(ToString::to_string).unwrap_or_default();
    if protocol == RouteProtocol::FLANNEL && plan.env.networks.iter().any(|network| within(dst, *network)) {
        return Some(format!(
            "the route to {dst} by {dev} is a flanneld's: when it is not to come back: ip route del {dst} proto {}",
            protocol.0
        ));
    }
    if !plan.desired.routes.contains_key(key) {
        return None;
    }
    if protocol != RouteProtocol::FLANNEL_CNI {
        return Some(format!(
            "a route to the peer {dst} by {dev} is there already (proto {}): when nobody needs it: ip route del {dst}",
            protocol.0
        ));
    }
    // The device tells which network owns the route.
    let link = survey.links.iter().find(|link| route.dev.as_ref() == Some(&link.name))?;
    let other = link.link.alias.as_deref()?.strip_prefix(MARKS)?;
    (link.link.alias.as_deref() != Some(&mark(name)))
        .then(|| format!("the route to {dst} by {dev} is of the network {other}, which overlaps this one"))
}
