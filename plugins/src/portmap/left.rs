//! Host ports without a record: of the reference plugins, or of a record that was lost.

use attachment::Key;
use attachment::rules::iptables;
use attachment::rules::portmap::{self, Portmap};
use cni::error::Error;
use cni::plugin::Request;
use gojson::Json;
use kernel::Kernel;

use crate::attach::{join, not_removed};
use crate::traces;

/// Whether ADD may have mapped ports: false if the configuration says that there are none, as DEL gets the ports that
/// ADD got. Most containers have no ports, and nothing is read for them.
pub fn may_have_ports(request: &Request<'_>) -> bool {
    let runtime = request.conf.tree().get("runtimeConfig");
    let ports = runtime.and_then(|runtime| runtime.get("portMappings"));
    match ports {
        None | Some(Json::Null) => false,
        Some(Json::Array(ports)) => !ports.is_empty(),
        Some(_) => true,
    }
}

/// Removes the attachment's host ports, whichever suite and backend wrote them.
pub fn remove(request: &Request<'_>, host: &mut Kernel) -> Result<(), Error> {
    let key = traces::key(request);
    join([
        portmap::remove_unrecorded(host, key).map_err(Error::internal),
        portmap::upstream::remove(host, key.container).map_err(Error::internal),
        iptables::remove(host, &iptables::portmap::removal(key)).map_err(not_removed),
    ])
}

/// Removes the network's host ports that belong to no valid attachment. Rules of upstream's backend nftables name a
/// container but no network, so they stay.
pub fn collect(request: &Request<'_>, host: &mut Kernel) -> Result<(), Error> {
    let network = request.conf.name.as_str();
    let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
    let valid: Vec<Key<'_>> =
        valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
    join([
        portmap::collect(host, network, &valid).map_err(Error::internal),
        iptables::collect(host, &iptables::portmap::collection(network, &valid)).map_err(not_removed),
    ])
}

/// Whether other rules than the desired ones lead the ports to the container: those of another backend, or of the
/// reference plugins.
pub fn serves(request: &Request<'_>, desired: &Portmap, host: &mut Kernel) -> Result<bool, Error> {
    let key = traces::key(request);
    if portmap::upstream::serves(host, key.container, desired).map_err(Error::internal)? {
        return Ok(true);
    }
    if desired.backend.is_nftables() {
        let parts = iptables::portmap::parts(key, desired);
        let may_be_there = iptables::may_hold(host, &iptables::portmap::removal(key));
        return Ok(may_be_there && iptables::differences(&parts).is_ok_and(|missing| missing.is_empty()));
    }
    let ours = portmap::rules(key, desired);
    ours.differences(host).map(|missing| missing.is_empty()).map_err(Error::internal)
}
