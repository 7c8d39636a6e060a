//! This host's lease: its Node's podCIDR, and the annotations that this host writes.

use std::sync::Arc;
use std::time::Duration;

use overlay::lease::{Annotations, LeaseAttrs, Subnets, assigned};
use overlay::net::{ByFamily, within};
use overlay::netconf::NetConf;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::Api;
use super::options::Options;
use super::wire::Node;
use crate::backoff::Backoff;
use crate::claim::{Claim, Held, HoldError, Published, Waiting};
use crate::error::StoreError;

/// A contest is over when nobody else has changed our annotations for this long.
const PEACE: Duration = Duration::from_secs(120);

/// What the follower knows about this host.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    /// The connection, once there is one.
    pub(super) api: Option<Api>,
    /// The name of the Node, once it is known.
    pub(super) name: Option<Arc<str>>,
    /// The Node; `None` if it does not exist, or is not known yet.
    pub(super) node: Option<OwnNode>,
    /// Whether all Nodes were read.
    pub(super) read: bool,
}

/// The parts of this host's Node that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnNode {
    /// `spec.podCIDRs`
    pub(super) cidrs: Vec<String>,
    /// flannel's annotations.
    pub(super) annotations: Annotations,
    /// When the Node was created, in seconds since 1970; 0 if that is unknown.
    pub(super) created: u64,
}

impl OwnNode {
    pub(super) fn new(node: &Node, options: &Options) -> Self {
        let all = node.metadata.annotations.iter().flatten();
        let ours = all.filter(|(key, _)| options.keys.has(key)).map(|(key, value)| (key.clone(), value.clone()));
        Self { cidrs: node.spec.cidrs().to_vec(), annotations: ours.collect(), created: node.created() }
    }
}

/// Keeps this host's lease.
#[derive(Debug)]
pub(crate) struct Keeper {
    options: Arc<Options>,
    own: Arc<watch::Sender<Own>>,
    held: Option<Subnets>,
    /// A message for the operator while the Node does not say what this host uses.
    note: Option<String>,
    /// The last write.
    wrote: Option<(Instant, LeaseAttrs)>,
    contest: Backoff,
}

impl Keeper {
    pub(super) fn new(options: Arc<Options>, own: Arc<watch::Sender<Own>>) -> Self {
        Self { options, own, held: None, note: None, wrote: None, contest: Backoff::default() }
    }

    pub(super) fn held(&self) -> Option<Held> {
        let subnets = self.held?;
        let note = self.note.clone();
        Some(Held { subnets, reservation: true, expires: None, moved_from: None, look_again: None, note })
    }

    pub(super) fn published(&self) -> Option<LeaseAttrs> {
        self.options.keys.attrs(&self.own.borrow().node.as_ref()?.annotations).ok()
    }

    /// See [`Store::hold`](crate::Store::hold). The lease is the Node's podCIDR. A host whose Node is gone, or names no
    /// subnet, keeps the subnet that its pods have.
    pub(crate) fn hold(&mut self, claim: &Claim<'_>) -> Result<Held, HoldError> {
        let found = self.assigned(claim.conf);
        let moved_from = match found {
            Ok(subnets) => {
                self.note = None;
                let before = self.held.replace(subnets);
                before.filter(|before| *before != subnets)
            }
            Err(why) if self.held.is_some() => {
                self.note = Some(format!("{why}; the subnet of this host's pods stays in use"));
                None
            }
            Err(why) => return Err(why.into()),
        };
        let held = self.held().ok_or(HoldError::Wait(Waiting::Unread))?;
        Ok(Held { moved_from, ..held })
    }

    fn assigned(&self, conf: &NetConf) -> Result<Subnets, Waiting> {
        let own = self.own.borrow();
        let name = || own.name.as_deref().unwrap_or_default().to_owned();
        let Some(node) = &own.node else {
            return Err(if own.read { Waiting::NoNode { name: name() } } else { Waiting::Unread });
        };
        let on = ByFamily { v4: conf.v4.is_some(), v6: conf.v6.is_some() };
        let subnets = assigned(&node.cidrs, on).map_err(|error| Waiting::Node { name: name(), error })?;
        for (family, conf) in conf.families() {
            let Some(subnet) = subnets.get(family) else {
                return Err(Waiting::NoPodCidr { name: name(), network: conf.network });
            };
            if !within(subnet, conf.network) {
                return Err(Waiting::Outside { name: name(), subnet, network: conf.network });
            }
        }
        Ok(subnets)
    }

    /// See [`Store::publish`](crate::Store::publish).
    pub(crate) async fn publish(&mut self, attrs: &LeaseAttrs) -> Result<Published, StoreError> {
        let Own { api, name, node, .. } = self.own.borrow().clone();
        let (Some(api), Some(name), Some(node)) = (api, name, node) else { return Ok(Published::Unchanged) };
        let attrs = self.options.keys.overwritten(attrs, &node.annotations)?;
        let changed = self.options.keys.patch(&attrs, &node.annotations);
        if changed.is_empty() {
            return Ok(Published::Unchanged);
        }
        let now = Instant::now();
        if let Some((at, before)) = &self.wrote {
            // somebody else writes this host's annotations, such as a second flanneld
            if *before == attrs && now.duration_since(*at) < PEACE {
                let after = *at + self.contest.next();
                if after > now {
                    return Ok(Published::After(after));
                }
            } else {
                self.contest.reset();
            }
        }
        let patch = serde_json::json!({ "metadata": { "annotations": changed } });
        let written = api.patch(&name, &patch).await?;
        let written = OwnNode::new(&written, &self.options);
        self.own.send_modify(|own| own.node = Some(written));
        self.wrote = Some((now, attrs));
        Ok(Published::Written)
    }
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
