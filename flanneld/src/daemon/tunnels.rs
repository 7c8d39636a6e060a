//! What the backends wireguard and extension need beside desired state.

use kernel::types::Family;
use overlay::host::wireguard::wireguard_data;
use overlay::lease::LeaseAttrs;
use overlay::netconf::{Backend, NetConf};

use super::{Daemon, wireguard_key};

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
}
