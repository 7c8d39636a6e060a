//! Which networks are this daemon's, on a host that others may share.

use ipnetwork::IpNetwork;
use kernel::types::IfName;
use overlay::netconf::NetConf;
use overlay::ownership::Owner;

use super::pass::Halt;
use super::{Daemon, make};
use crate::claims::{self, Claims};
use crate::underlay::Survey;

/// What of it outlives a pass.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    claims: Claims,
    /// The networks whose objects may be there. `None`: those that the last run told the CNI plugin.
    former: Option<Vec<IpNetwork>>,
}

impl Ownership {
    /// The host is `whole`: nothing is left of the networks before.
    pub(super) fn settled(&mut self, conf: &NetConf, whole: bool) {
        if whole {
            self.former = Some(conf.networks());
        }
    }

    fn claim(&mut self, owner: &Owner, networks: &[IpNetwork]) -> Result<(), String> {
        if self.claims.are(networks) {
            return Ok(());
        }
        let claims = Claims::of(networks).map_err(|error| format!("claim the network on this host: {error}"))?;
        match owner.overlap(claims::served()) {
            Some(overlap) => Err(overlap.to_string()),
            None => {
                self.claims = claims;
                Ok(())
            }
        }
    }
}

impl Daemon {
    /// What is ours on the host, and the tunnel devices that are. A network that overlaps another flanneld's is refused.
    pub(super) fn ownership(&mut self, conf: &NetConf, survey: &Survey) -> Result<(Owner, Vec<IfName>), Halt> {
        let networks = conf.networks();
        let mut former = self.ownership.former.take().unwrap_or_else(|| self.previous().networks);
        former.extend(networks.iter().filter(|network| !former.contains(network)).copied().collect::<Vec<_>>());
        self.ownership.former = Some(former.clone());
        let mut owner = Owner::new(networks.clone(), former);
        let devices = make::known_devices(survey, &mut owner);
        self.ownership.claim(&owner, &networks).map_err(Halt::Retry)?;
        Ok((owner, devices))
    }
}
