//! What is told to people: the status, and a line of the log when something changed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kernel::Report;
use kernel::diff::Conflict;
use kernel::types::Family;
use overlay::host::Desired;
use overlay::netconf::{Backend, NetConf};
use overlay::peers::Peers;
use overlay::reach;

use crate::status::{self, Reach, Rejected, Status};
use crate::store::View;
use crate::underlay::Underlay;

/// What became of the wish.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) report: Report,
    /// How many steps there were, by kind of object.
    pub(super) steps: BTreeMap<&'static str, usize>,
    pub(super) conflicts: Vec<Conflict>,
}

impl Applied {
    /// Peers may send here as the wish says: the devices are there and have their addresses.
    pub(super) fn ready(&self) -> bool {
        let carries = |object: &str| matches!(object, "link" | "address");
        self.conflicts.is_empty()
            && !self.report.failed.iter().any(|(step, _)| carries(step.object()) && !step.is_delete())
    }

    /// What went wrong, one line.
    pub(super) fn trouble(&self) -> Option<String> {
        let conflicts = self.conflicts.iter().map(ToString::to_string);
        let failed = self.report.failed.iter().map(|(_, error)| error.to_string());
        let mut all = conflicts.chain(failed);
        let first = all.next()?;
        match all.count() {
            0 => Some(first),
            more => Some(format!("{first} (and {more} more)")),
        }
    }

    pub(super) fn log(&self) {
        // what of this is new becomes the last error, which is a warning
        for (step, error) in &self.report.failed {
            tracing::debug!(%step, %error, "a step failed and is tried again");
        }
        if self.report.done > 0 {
            let steps: Vec<String> = self.steps.iter().map(|(object, count)| format!("{object}={count}")).collect();
            tracing::info!(
                done = self.report.done,
                failed = self.report.failed.len(),
                steps = steps.join(" "),
                "reconciled"
            );
        }
    }
}

/// The part of the status that the store makes.
pub(super) fn store(status: &mut Status, view: &View) {
    status.store = view.name.to_string();
    status.store_stale_since = view.stale_since.map(status::rfc3339);
    status.store_error = view.error.as_deref().map(str::to_owned);
}

/// The part of the status that the configuration and the underlay make.
pub(super) fn base(status: &mut Status, conf: &NetConf, underlay: &Underlay) {
    status.backend = conf.backend.name().to_owned();
    status.direct_routing = matches!(&conf.backend, Backend::Vxlan(vxlan) if vxlan.direct_routing);
    status.network = conf.networks();
    status.public_ips = underlay.public.clone();
    status.underlay = Some(status::Underlay { dev: underlay.dev.to_string(), mtu: underlay.mtu.0 });
}

/// Routes by an address that this host does not have lead nowhere.
pub(super) fn behind_nat(conf: &NetConf, underlay: &Underlay) -> Option<&'static str> {
    (conf.backend == Backend::HostGw && underlay.public != underlay.addresses).then_some(
        "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported by \
         host-gw backend",
    )
}

/// The part of the status that the leases make.
pub(super) fn peers(status: &mut Status, peers: &Peers, desired: &Desired, ignored: &BTreeMap<String, String>) {
    let by_key: BTreeMap<&str, _> = peers.good.iter().map(|peer| (peer.key.as_str(), peer)).collect();
    let paths = desired.paths.iter().filter_map(|path| {
        let half = by_key.get(path.peer.as_str())?.half(path.family)?;
        Some(status::Peer {
            subnet: half.subnet,
            public_ip: half.public,
            path: match path.reach {
                reach::Reach::Direct => Reach::Direct,
                reach::Reach::Vxlan => Reach::Vxlan,
                reach::Reach::Unreachable(_) => Reach::Unreachable,
            },
            reason: path.reason.to_string(),
            vtep_mac: half.vtep.map(|vtep| vtep.vtep_mac.to_string()),
        })
    });
    status.peers = paths.collect();
    let family = |family: Option<Family>| match family {
        Some(Family::V4) => "IPv4: ",
        Some(Family::V6) => "IPv6: ",
        None => "",
    };
    let reason = |r: &overlay::peers::Rejected| format!("{}{}", family(r.family), r.reason);
    let rejected = peers.rejected.iter().map(|r| Rejected { key: r.key.clone(), reason: reason(r) });
    let ignored = ignored.iter().map(|(key, reason)| Rejected { key: key.clone(), reason: reason.clone() });
    status.rejected = rejected.chain(ignored).collect();
}

/// What a person should know of the leases: each line once for as long as it is so.
pub(super) fn warnings(status: &Status, peers: &Peers) -> Vec<String> {
    let rejected = status.rejected.iter().map(|r| format!("{} in the store is ignored: {}", r.key, r.reason));
    let unreachable = status.peers.iter().filter(|peer| peer.path == Reach::Unreachable);
    let unreachable =
        unreachable.map(|peer| format!("{} at {} cannot be reached: {}", peer.subnet, peer.public_ip, peer.reason));
    let shared = peers.shared.iter();
    let shared = shared.map(|s| format!("the leases {} and {} publish the same address {}", s.key, s.with, s.public));
    rejected.chain(unreachable).chain(shared).collect()
}

pub(super) fn now() -> String {
    status::rfc3339(SystemTime::now())
}
