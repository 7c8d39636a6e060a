//! What the status says of attachments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::work::Done;

/// The attachments that are looked after, and what was wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attachments {
    /// How many attachments of this host's subnets are looked after.
    pub count: usize,
    /// How often something was repaired that somebody else had changed, since the daemon's start, by kind: `bridge`,
    /// `port`, `rules`.
    pub healed: BTreeMap<String, u64>,
    /// What is wrong now and is not repaired, each with its reason.
    pub reported: Vec<String>,
    /// The attachments that an operator has exempted from repair, as `NETWORK/ID@IF`.
    pub quarantined: Vec<String>,
}

impl Attachments {
    /// Takes over the outcome of a look. `troubles` are records that cannot be read.
    pub(super) fn looked(&mut self, plan: &Plan, done: &Done, troubles: &[String]) {
        self.count = plan.count;
        self.quarantined = plan.exempted.iter().map(ToString::to_string).collect();
        for healed in &done.healed {
            *self.healed.entry(healed.kind.to_owned()).or_default() += 1;
        }
        let findings = done.findings.iter().map(ToString::to_string);
        let failed = done.failed.iter().map(|(object, why)| format!("{object} cannot be repaired: {why}"));
        self.reported = findings.chain(failed).chain(troubles.iter().cloned()).collect();
    }
}
