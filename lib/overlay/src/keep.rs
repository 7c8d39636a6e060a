//! Keeps the devices of previous backends for a while: make before break.
//!
//! After a change of the configuration other hosts still send as this host's old lease says, until they have seen the
//! new one; a host that does not follow the change does so for longer. So the devices of the previous backend stay:
//! - while a peer's lease says that its host sends to such a device;
//! - while this host's own published lease says how to send to it;
//! - while not all leases are known;
//! - and for [`DRAIN`] after that, for packets that are still on their way.
//!
//! Leases do not contain everything: two vxlan configurations that differ only in the port look alike. Then time
//! decides. For [`SETTLE`] after the change the new device exists and receives while the old one still sends, until
//! every host has both.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use kernel::types::Family;

use crate::backend::{Backend, Census, Data, Identity};
use crate::lease::LeaseAttrs;
use crate::net::ByFamily;
use crate::render::Kept;

/// Much longer than a lease takes from one host to the others.
pub const DRAIN: Duration = Duration::from_secs(1);

/// Much longer than a configuration takes from the store to all hosts.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The previous backends whose devices other hosts may still send to. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    current: Option<Backend>,
    /// The newest first.
    left: Vec<Left>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    backend: Backend,
    /// When the backend was replaced; `None` when that was before this daemon started.
    since: Option<Instant>,
    /// Since when nobody may send to its devices.
    idle: Option<Instant>,
}

/// The input of [`Keep::follow`].
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The current time.
    pub now: Instant,
    /// The current backend.
    pub backend: &'a Backend,
    /// The backends that have devices with our mark. They matter only at the start: later replacements are known.
    pub found: &'a [Backend],
    /// What the peers' leases say.
    pub census: &'a Census,
    /// Whether all leases are known.
    pub complete: bool,
    /// This host's lease as other hosts see it.
    pub published: Option<&'a LeaseAttrs>,
    /// Whether the kernel can rename a link that is up (Linux 6.2, `dev_change_name`, net/core/dev.c).
    pub can_rename: bool,
}

/// What stays, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeping {
    /// The backends whose devices stay, the newest first.
    pub kept: Vec<Kept>,
    /// The backends that some host sends to, according to the leases.
    pub offered: Vec<Backend>,
    /// When the result changes without new facts.
    pub look_again: Option<Instant>,
}

impl Keep {
    /// Decides what stays now.
    pub fn follow(&mut self, facts: &Facts<'_>) -> Keeping {
        self.learn(facts);
        for left in &mut self.left {
            let idle = left.idle.unwrap_or(facts.now);
            left.idle = (!left.is_needed(facts)).then_some(idle);
        }
        self.left.retain(|left| left.idle.is_none_or(|idle| facts.now < idle + DRAIN));
        let kept = self.left.iter().map(|left| Kept { backend: left.backend.clone(), leads: left.leads(facts) });
        let offered = self.left.iter().filter(|left| left.is_used(facts));
        Keeping {
            kept: kept.collect(),
            offered: offered.map(|left| left.backend.clone()).collect(),
            look_again: self.left.iter().filter_map(|left| left.look_again(facts)).min(),
        }
    }

    /// Records the current backend, and at the start the devices that exist.
    fn learn(&mut self, facts: &Facts<'_>) {
        let now = facts.backend;
        match self.current.replace(now.clone()) {
            None => {
                let found = facts.found.iter().filter(|found| !found.has_devices_of(now));
                found.for_each(|found| self.leave(found.clone(), None));
            }
            Some(before) if before != *now && !before.has_devices_of(now) => self.leave(before, Some(facts.now)),
            Some(_) => {}
        }
        let rename = |left: &Left| facts.can_rename || !left.backend.has_names_of(now);
        self.left.retain(|left| {
            !left.backend.has_devices_of(now) && left.backend.conf().can_stay_beside(now) && rename(left)
        });
    }

    fn leave(&mut self, backend: Backend, since: Option<Instant>) {
        if backend.conf().devices().is_none() {
            return;
        }
        // Of several devices with one name only the newest exists.
        self.left.retain(|left| !left.backend.has_devices_of(&backend) && !left.backend.has_names_of(&backend));
        self.left.insert(0, Left { backend, since, idle: None });
    }
}

impl Left {
    /// Whether leases of the two backends look alike, so that time must decide.
    fn is_timed(&self, facts: &Facts<'_>) -> bool {
        self.backend.conf().looks_like(facts.backend)
    }

    fn settles(&self) -> Option<Instant> {
        self.since.map(|since| since + SETTLE)
    }

    fn leads(&self, facts: &Facts<'_>) -> bool {
        self.is_timed(facts) && self.settles().is_some_and(|settles| facts.now < settles)
    }

    /// Whether some host sends to its devices, according to the leases.
    fn is_used(&self, facts: &Facts<'_>) -> bool {
        match self.is_timed(facts) {
            true => self.leads(facts),
            false => !facts.complete || self.backend.conf().may_be_sent_to(facts.census),
        }
    }

    /// Whether some host may send to its devices. This includes hosts that follow this host's own lease, as long as
    /// it names the devices.
    fn is_needed(&self, facts: &Facts<'_>) -> bool {
        let named = |published| !self.is_timed(facts) && self.backend.conf().is_named_in(published);
        self.is_used(facts) || facts.published.is_some_and(named)
    }

    fn look_again(&self, facts: &Facts<'_>) -> Option<Instant> {
        match self.idle {
            Some(idle) => Some(idle + DRAIN),
            None if self.is_timed(facts) => self.settles(),
            None => None,
        }
    }
}

/// What this host publishes: its addresses in the enabled families, and the lease data of its backend. A backend
/// without lease data publishes the VTEP that this host keeps, if it is `offered`, so that hosts behind a router that
/// still run vxlan can reach it. Go flannel ignores the data of such a lease.
pub fn publish(
    backend: &Backend,
    offered: &[Backend],
    public: ByFamily<Option<IpAddr>>,
    identity: &Identity,
) -> LeaseAttrs {
    let mut attrs = LeaseAttrs { backend_type: backend.lease_type().to_owned(), ..LeaseAttrs::default() };
    let offers = backend.kind().data == Data::KeptVtep && backend.mode().is_some();
    let offered = offered.iter().filter(|offered| offers && offered.kind().data == Data::Vtep);
    let said: Vec<&Backend> = std::iter::once(backend).chain(offered).collect();
    for family in Family::ALL {
        match *public.get(family) {
            Some(IpAddr::V4(addr)) => attrs.public_ip = Some(addr),
            Some(IpAddr::V6(addr)) => attrs.public_ipv6 = Some(addr),
            // A text exists once, whatever the families.
            None if backend.kind().data != Data::Text => continue,
            None => {}
        }
        let data = said.iter().find_map(|backend| backend.conf().lease_data(identity, family));
        data.into_iter().for_each(|data| attrs.set_data(family, data));
    }
    attrs
}

#[cfg(test)]
mod tests;
