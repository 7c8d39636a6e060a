//! What others learn of a pass: people by the status and the log, the CNI plugin by subnet.env, probes by `/readyz`.

use std::collections::BTreeSet;

use overlay::peers::Peers;
use overlay::render::PeerPath;
use overlay::subnet_env::SubnetEnv;

use super::{Daemon, OVERLAY, report};
use crate::report::PeerChanges;

/// The peers of the last pass.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) peers: Peers,
    pub(super) paths: Vec<PeerPath>,
}

impl Daemon {
    /// Reports the outcome of a pass: `error` is what is wrong, `fresh` that something was changed.
    pub(super) fn tell(&mut self, error: Option<String>, fresh: bool) {
        if let (Some(text), true) = (&error, self.status.last_error != error) {
            tracing::warn!(error = text, "reconcile failed");
        }
        if error.is_none() {
            self.metrics.clean();
        }
        self.status.last_error = error;
        self.status.last_reconcile = Some(report::now());
        self.status.attachments = self.attachments.as_mut().map(crate::attachments::Controller::status);
        let peers = PeerChanges::Whole(report::peers(&self.picture));
        let rejected = report::rejected(&self.picture.peers).collect();
        self.reporter.passed(&self.status, peers, Some(rejected), fresh);
    }

    /// The host is ready when its own data path is up, made from all that the store holds. A store that is away later is no
    /// reason to take the host out of service.
    pub(super) fn say_ready(&mut self, up: Result<(), String>) {
        let health = &self.known.health;
        let why = || health.error.clone().unwrap_or_else(|| "it does not answer".into());
        self.readiness.set_stale(health.stale_since.map(|since| (since, why())));
        match up {
            Ok(()) if !health.complete && !self.started => {
                self.readiness.set(OVERLAY, Err("the store is not read yet".into()));
            }
            up => self.readiness.set(OVERLAY, up),
        }
    }

    /// Says each thing once for as long as it is so.
    pub(super) fn warn(&mut self, peers: &Peers, paths: &[PeerPath]) {
        let now: BTreeSet<String> = report::warnings(peers, paths).into_iter().collect();
        now.difference(&self.warned).for_each(|text| tracing::warn!("{text}"));
        self.warned = now;
    }

    /// The host is as it must be: the CNI plugin may attach pods.
    pub(super) fn tell_plugin(&mut self, env: SubnetEnv) {
        self.started = true;
        self.reporter.subnet_env(env.format());
    }
}
