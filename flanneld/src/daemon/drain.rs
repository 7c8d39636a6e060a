//! After a change of backend: the old one's devices stay for a moment.
//!
//! The other hosts send to them until they have seen this host's new lease, and nothing in their own leases says so; and
//! what is on the way then, or in a queue, is to get through, too.

use std::time::Duration;

use kernel::types::IfName;
use overlay::netconf::NetConf;
use tokio::time::Instant;

use super::Due;

/// Much longer than a lease takes from one host to the others.
const DRAIN: Duration = Duration::from_secs(1);

/// What of it outlives a pass.
#[derive(Debug, Default)]
pub(super) struct Drain {
    backend: Option<&'static str>,
    until: Option<Instant>,
}

impl Drain {
    /// Learns of the backend that is in force now.
    pub(super) fn follow(&mut self, conf: &NetConf, now: Instant, due: &mut Due) {
        let before = self.backend.replace(conf.backend.name());
        if before.is_some_and(|before| before != conf.backend.name()) {
            self.until = Some(now + DRAIN);
        }
        self.until = self.until.filter(|until| *until > now);
        self.until.into_iter().for_each(|until| due.by(until));
    }

    /// Of the devices that carry our mark, those that may be deleted when nobody wants them.
    pub(super) fn deletable(&self, devices: Vec<IfName>) -> Vec<IfName> {
        if self.until.is_some() { Vec::new() } else { devices }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_stay_for_a_moment_after_a_change() {
        let conf = |backend: &str| {
            let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{backend}"}}}}"#);
            NetConf::parse(text.as_bytes()).unwrap().conf
        };
        let mut drain = Drain::default();
        let start = Instant::now();
        let mut look = |backend: &str, after: Duration| {
            let mut due = Due::default();
            drain.follow(&conf(backend), start + after, &mut due);
            (drain.deletable(vec![IfName::new("flannel0").unwrap()]).len(), due.at.is_some())
        };
        // a daemon that starts finds what another has left
        assert_eq!(look("udp", Duration::ZERO), (1, false));
        assert_eq!(look("vxlan", Duration::ZERO), (0, true));
        assert_eq!(look("vxlan", DRAIN / 2), (0, true));
        assert_eq!(look("vxlan", DRAIN), (1, false));
    }
}
