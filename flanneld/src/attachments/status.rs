//! Turns the outcome of a check into the status.

use overlay::status::Attachments;

use super::plan::Plan;
use super::work::Done;

/// Records the outcome of a check in `status`. `troubles` are the records that cannot be read.
pub(super) fn record(status: &mut Attachments, plan: &Plan, done: &Done, troubles: &[String]) {
    status.count = plan.count;
    status.quarantined = plan.exempted.iter().map(ToString::to_string).collect();
    for healed in &done.healed {
        *status.healed.entry(healed.kind.to_owned()).or_default() += 1;
    }
    let findings = done.findings.iter().map(ToString::to_string);
    let failed = done.failed.iter().map(|(object, why)| format!("{object} cannot be repaired: {why}"));
    status.reported = findings.chain(failed).chain(troubles.iter().cloned()).collect();
}
