//! What the backends wireguard and extension need beside desired state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kernel::state::PublicKey;
use kernel::types::{Family, IfName};
use overlay::host::wireguard::{DEVICES, wireguard_data};
use overlay::lease::LeaseAttrs;
use overlay::netconf::{Backend, NetConf};
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
    /// With backend wireguard: this host's keys, found once and then kept, and what the peers are told of them.
    pub(super) fn know_keys(&mut self, conf: &NetConf, attrs: &mut LeaseAttrs) -> Result<(), String> {
        if !matches!(conf.backend, Backend::Wireguard(_)) {
            return Ok(());
        }
        let keys = match self.wireguard_keys {
            Some(keys) => keys,
            None => wireguard_key::load(&self.options.wireguard_key_file).map_err(|error| error.to_string())?,
        };
        self.wireguard_keys = Some(keys);
        let data = wireguard_data(conf, keys.public);
        for family in Family::ALL {
            if let Some(data) = *data.get(family) {
                attrs.set_data(family, data.to_json());
            }
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
