//! Makes the delegate's configuration from the user's `delegate` and `ipam`, and from subnet.env. Pure.

use cni::conf::Conf;
use cni::result::{AddResult, Route};
use cni::version::Version;
use gojson::Json;
use overlay::subnet_env::SubnetEnv;

use crate::attach::Delegate;

/// A mistake in the configuration, in upstream's words where it has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mistake {
    #[error("'{0}' must be an object")]
    NoObject(&'static str),
    #[error("'delegate' dictionary must not have '{0}' field, it'll be set by flannel")]
    Reserved(&'static str),
    #[error("'delegate' dictionary, if present, must have (string) 'type' field")]
    Type,
    #[error("'ipam' dictionary, if present, must have (string) 'type' field")]
    IpamType,
    #[error("ipam.{0}")]
    Routes(String),
}

/// Builds the delegate from the user's configuration and subnet.env. Also returns the mistakes in the former; even
/// with mistakes the delegate can undo an ADD. Without subnet.env it has no ranges and no MTU, which suffices for
/// that, too.
pub(super) fn build(conf: &Conf, env: Option<&SubnetEnv>) -> (Delegate, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut out = object(conf, "delegate", &mut mistakes);
    for reserved in ["name", "ipam"] {
        if out.has(reserved) {
            mistakes.push(Mistake::Reserved(reserved));
        }
    }
    let kind = kind(&out, "bridge").unwrap_or_else(|| {
        mistakes.push(Mistake::Type);
        "bridge".to_owned()
    });
    out.set("name", Json::from(conf.name.as_str()));
    out.set("type", Json::from(kind.as_str()));
    if kind == "bridge" {
        default(&mut out, "isGateway", Json::from(true));
    }
    if let Some(env) = env {
        default(&mut out, "ipMasq", Json::from(!env.ipmasq));
        default(&mut out, "mtu", Json::from(env.mtu.0));
        // pods of other hosts see a pod's own address
        if out.get("ipMasq") == Some(&Json::from(true)) {
            let networks: Vec<Json> = env.networks.iter().map(|network| network.to_string().into()).collect();
            default(&mut out, "ipMasqExclude", networks.into());
        }
    }
    for copied in ["cniVersion", "runtimeConfig"] {
        match conf.tree().get(copied) {
            Some(value) if *value != Json::from("") => out.set(copied, value.clone()),
            _ => {}
        }
    }
    let (ipam, routes) = ipam(conf, env, &mut mistakes);
    out.set("ipam", ipam);
    let mut conf = out.sorted();
    if let (Some(at), false) = (member(&mut conf, "ipam").and_then(|ipam| member(ipam, "routes")), routes.is_empty()) {
        *at = routes.iter().map(route_json).collect::<Vec<_>>().into();
    }
    (Delegate { kind, conf }, mistakes)
}

fn object(conf: &Conf, key: &'static str, mistakes: &mut Vec<Mistake>) -> Json {
    match conf.tree().get(key) {
        Some(object @ Json::Object(_)) => object.clone(),
        None => Json::Object(Vec::new()),
        Some(_) => {
            mistakes.push(Mistake::NoObject(key));
            Json::Object(Vec::new())
        }
    }
}

/// `type`, or the default when it is absent; `None` when it is not a string, or empty.
fn kind(object: &Json, default: &str) -> Option<String> {
    match object.get("type") {
        None => Some(default.to_owned()),
        Some(kind) => kind.as_str().filter(|kind| !kind.is_empty()).map(str::to_owned),
    }
}

fn default(object: &mut Json, key: &str, value: Json) {
    if !object.has(key) {
        object.set(key, value);
    }
}

/// The `ipam` part, with an empty place for `routes`, and those routes.
fn ipam(conf: &Conf, env: Option<&SubnetEnv>, mistakes: &mut Vec<Mistake>) -> (Json, Vec<Route>) {
    let mut ipam = object(conf, "ipam", mistakes);
    let mut routes = own_routes(&ipam, mistakes);
    match kind(&ipam, "host-local") {
        Some(kind) => ipam.set("type", kind.into()),
        None => mistakes.push(Mistake::IpamType),
    }
    ipam.remove("ranges");
    if let Some(env) = env {
        let range = |subnet: ipnetwork::IpNetwork| {
            Json::from(vec![Json::from_iter([("subnet", Json::from(subnet.to_string()))])])
        };
        ipam.set("ranges", env.subnets.iter().map(range).collect::<Vec<_>>().into());
        routes.extend(env.networks.iter().map(|network| Route::to(*network)));
    }
    ipam.remove("routes");
    if !routes.is_empty() {
        ipam.set("routes", Json::Null);
    }
    (ipam, routes)
}

/// The user's routes, parsed and rewritten as upstream does: unknown keys of a route are dropped.
fn own_routes(ipam: &Json, mistakes: &mut Vec<Mistake>) -> Vec<Route> {
    let Some(routes) = ipam.get("routes") else { return Vec::new() };
    let result = AddResult::parse_prev(&Json::from_iter([("routes", routes.clone())]), Version::NEWEST);
    result.map(|result| result.routes).unwrap_or_else(|cause| {
        mistakes.push(Mistake::Routes(cause.to_string()));
        Vec::new()
    })
}

/// A route in the order of upstream's struct, the only object here whose keys are not sorted.
fn route_json(route: &Route) -> Json {
    let mut members = vec![("dst", Json::from(route.dst.to_string()))];
    members.extend(route.gw.map(|gw| ("gw", Json::from(gw.to_string()))));
    for (key, value) in [("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority)] {
        members.extend((value != 0).then(|| (key, Json::from(value))));
    }
    members.extend(route.table.map(|table| ("table", Json::from(table))));
    members.extend(route.scope.map(|scope| ("scope", Json::from(u32::from(scope)))));
    Json::from_iter(members)
}

fn member<'a>(object: &'a mut Json, key: &str) -> Option<&'a mut Json> {
    let Json::Object(members) = object else { return None };
    members.iter_mut().find(|(k, _)| k == key).map(|(_, value)| value)
}
