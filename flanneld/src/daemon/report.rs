//! What is told to people: the status, and a line of the log when something changed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kernel::Outcome;
use kernel::diff::Step;
use kernel::types::Family;
use overlay::lease::Subnets;
use overlay::netconf::NetConf;
use overlay::peers::{Peer, Peers};
use overlay::reach::{self, Mode};
use overlay::render::PeerPath;
use overlay::settings;

use super::tell::Picture;
use crate::metrics::StepCount;
use crate::underlay::{Survey, Underlay};
use overlay::status::{self, Rejected, Status};
use store::StoreHealth;

/// What became of the wish.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    /// How many steps there were, by kind of object and operation.
    pub(super) steps: Vec<StepCount>,
    /// From the first look at the kernel to the last change.
    pub(super) took: Duration,
}

/// Counts the steps by kind of object and operation.
pub(super) fn count(outcome: &Outcome) -> Vec<StepCount> {
    let key = |step: &Step| (step.object(), if step.is_delete() { "delete" } else { "put" });
    let mut counts: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    outcome.done.iter().for_each(|step| counts.entry(key(step)).or_default().0 += 1);
    outcome.failed.iter().for_each(|(step, _)| counts.entry(key(step)).or_default().1 += 1);
    counts.into_iter().map(|((kind, op), (done, failed))| StepCount { kind, op, done, failed }).collect()
}

impl Applied {
    /// Peers may send here as desired: the devices are there and have their addresses, and the host forwards.
    pub(super) fn ready(&self) -> bool {
        let carries = |step: &Step| match step {
            Step::WriteSysctl(path, _) => settings::is_vital(path),
            step => matches!(step.object(), "link" | "address" | "wireguard") && !step.is_delete(),
        };
        self.outcome.conflicts.is_empty() && !self.outcome.failed.iter().any(|(step, _)| carries(step))
    }

    /// As [`Applied::ready`], with the reason why not.
    pub(super) fn up(&self) -> Result<(), String> {
        if self.ready() { Ok(()) } else { Err(self.trouble().unwrap_or_default()) }
    }

    /// What went wrong, one line.
    pub(super) fn trouble(&self) -> Option<String> {
        let conflicts = self.outcome.conflicts.iter().map(ToString::to_string);
        let failed = self.outcome.failed.iter().map(|(_, error)| error.to_string());
        let mut all = conflicts.chain(failed);
        let first = all.next()?;
        match all.count() {
            0 => Some(first),
            more => Some(format!("{first} (and {more} more)")),
        }
    }

    pub(super) fn log(&self) {
        // what of this is new becomes the last error, which is a warning
        for (step, error) in &self.outcome.failed {
            tracing::debug!(%step, %error, "a step failed and is tried again");
        }
        if !self.outcome.done.is_empty() {
            let count = |s: &StepCount| format!("{}{}={}", s.kind, if s.op == "delete" { "-" } else { "" }, s.done);
            let steps: Vec<String> = self.steps.iter().filter(|s| s.done > 0).map(count).collect();
            tracing::info!(
                done = self.outcome.done.len(),
                failed = self.outcome.failed.len(),
                steps = steps.join(" "),
                "reconciled"
            );
        }
    }
}

/// Whether the underlay carries packets now.
pub(super) fn carries(survey: &Survey, underlay: &Underlay) -> Result<(), String> {
    let dev = &underlay.dev;
    match survey.links.iter().find(|link| link.index == underlay.index) {
        Some(link) if link.link.up && link.running => Ok(()),
        Some(link) if link.link.up => Err(format!("{dev} has no carrier: ip link show {dev}")),
        Some(_) => Err(format!("{dev} is down: ip link set {dev} up")),
        None => Err(format!("{dev} is gone")),
    }
}

/// The part of the status that the store makes.
pub(super) fn store(status: &mut Status, health: &StoreHealth) {
    status.store = health.name.to_string();
    status.store_stale_since = health.stale_since.map(status::rfc3339);
    status.store_error = health.error.as_deref().map(str::to_owned);
}

/// The part of the status that the configuration and the underlay make.
pub(super) fn base(status: &mut Status, conf: &NetConf, underlay: &Underlay) {
    status.backend = conf.backend.name().to_owned();
    status.direct_routing = conf.backend.mode() == Some(Mode::WherePossible);
    status.network = conf.networks();
    status.public_ips = underlay.public.clone();
    status.underlay = Some(status::Underlay { dev: underlay.dev.to_string(), mtu: underlay.mtu.0 });
}

/// Routes by an address that this host does not have lead nowhere.
pub(super) fn behind_nat(conf: &NetConf, underlay: &Underlay) -> Option<&'static str> {
    conf.backend.behind_nat().filter(|_| underlay.public != underlay.addresses)
}

/// A peer that publishes this host's address. Where the host itself has it the lease is rejected; where it is a
/// router's the peer is believed, but only of wireguard both can be behind it, by their ports.
pub(super) fn same_address(conf: &NetConf, underlay: &Underlay, peers: &Peers) -> Option<String> {
    if conf.backend.shares_addresses() {
        return None;
    }
    let halves = |peer| Family::ALL.into_iter().filter_map(move |family| Peer::half(peer, family));
    let (peer, public) = peers.good.iter().find_map(|peer| {
        let public = halves(peer).map(|half| half.public).find(|public| underlay.public.contains(public));
        Some((peer, public?))
    })?;
    Some(format!(
        "the lease {} publishes this host's public address {public}, too: one of the two hosts cannot be reached; give \
         it another --public-ip",
        peer.subnets()
    ))
}

/// The peers as the status shows them.
pub(super) fn peers(picture: &Picture) -> Vec<status::Peer> {
    let Picture { peers, paths, .. } = picture;
    let by_key: BTreeMap<String, _> = peers.good.iter().map(|peer| (peer.key(), peer)).collect();
    let paths = paths.iter().filter_map(|path| {
        let half = by_key.get(&path.peer)?.half(path.family)?;
        Some(status::Peer {
            subnet: half.subnet,
            public_ip: half.public,
            path: path.reach.into(),
            reason: path.reason.to_string(),
            vtep_mac: half.vtep.map(|vtep| vtep.vtep_mac.to_string()),
            since: String::new(),
        })
    });
    paths.collect()
}

/// What the store holds that is not followed, leases first.
pub(super) fn rejected(peers: &Peers) -> impl Iterator<Item = Rejected> {
    peers.rejected.iter().map(|r| Rejected { key: r.key.clone(), reason: r.explained() })
}

/// What a person should know of the leases: each line once for as long as it is so.
pub(super) fn warnings(peers: &Peers, paths: &[PeerPath]) -> Vec<String> {
    let rejected = rejected(peers).map(|r| format!("{} in the store is ignored: {}", r.key, r.reason));
    let unreachable = paths.iter().filter(|path| matches!(path.reach, reach::Reach::Unreachable(_)));
    let unreachable = unreachable.filter_map(|path| {
        // they are in the order of their keys
        let key: Subnets = path.peer.parse().ok()?;
        let at = peers.good.binary_search_by_key(&key, Peer::subnets).ok()?;
        let peer = peers.good.get(at)?.half(path.family)?;
        Some(format!("{} at {} cannot be reached: {}", peer.subnet, peer.public, path.reason))
    });
    let shared = peers.shared.iter();
    let shared = shared.map(|s| format!("the leases {} and {} publish the same address {}", s.key, s.with, s.public));
    rejected.chain(unreachable).chain(shared).collect()
}

pub(super) fn now() -> String {
    status::rfc3339(SystemTime::now())
}
