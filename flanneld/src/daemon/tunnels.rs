//! What the backends wireguard and extension need beside desired state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kernel::state::PublicKey;
use kernel::types::IfName;
use overlay::backend::wireguard::DEVICES;
use overlay::netconf::NetConf;
use overlay::peers::{Peers, Reason};
use tokio::time::Instant;

use super::pass::Halt;
use super::{Daemon, Due, wireguard_key};

/// While two leases have one key: the kernel does not announce who of them speaks.
const LISTEN: Duration = Duration::from_secs(5);

/// Two leases have one WireGuard key.
pub(super) fn is_contested(peers: &Peers) -> bool {
    peers.rejected.iter().any(|rejected| matches!(rejected.reason, Reason::SameKey { .. }))
}

impl Daemon {
    /// This host's WireGuard keys, if its lease says them: found once and then kept.
    pub(super) fn know_keys(&mut self, conf: &NetConf) -> Result<(), String> {
        if conf.backend.needs_key() && self.identity.wireguard.is_none() {
            let keys = wireguard_key::load(&self.options.wireguard_key_file).map_err(|error| error.to_string())?;
            self.identity.wireguard = Some(keys);
        }
        Ok(())
    }

    /// From where the owners of WireGuard keys have sent lately.
    pub(super) async fn endpoints(&self, due: &mut Due) -> Result<BTreeMap<PublicKey, Vec<IpAddr>>, Halt> {
        due.by(Instant::now() + LISTEN);
        let devices: Vec<IfName> = DEVICES.iter().filter_map(|name| IfName::new(name).ok()).collect();
        let seen = self.kernel.call(move |kernel| kernel.wireguard(&devices)).await;
        let seen = seen.map_err(|error| Halt::Stop(error.into()))?.map_err(|error| Halt::Retry(error.to_string()))?;
        let mut endpoints: BTreeMap<PublicKey, Vec<IpAddr>> = BTreeMap::new();
        for (key, peer) in seen.into_values().flat_map(|device| device.peers) {
            let from = peer.endpoint.filter(|_| peer.live).map(|endpoint| endpoint.ip());
            endpoints.entry(key).or_default().extend(from);
        }
        Ok(endpoints)
    }
}
