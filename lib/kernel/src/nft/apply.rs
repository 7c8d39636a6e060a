//! Applies steps that change nf_tables: consecutive ones are one transaction.

use super::{Batch, NftError, Refusal, Table, TableKey};
use crate::apply::Report;
use crate::diff::{NftStep, Step};
use crate::kernel::Kernel;
use crate::netlink::{Errno, KernelError};

/// Identifies a rule that was added, for its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHandle {
    /// The rule's table.
    pub table: TableKey,
    /// The name of the rule's chain.
    pub chain: String,
    /// The handle. Another rule may have it after the table was created anew: compare the comment before deleting.
    pub handle: u64,
}

impl Kernel {
    /// Applies the steps at the start of `steps` that change nf_tables.
    pub(crate) fn write_nft(&mut self, steps: &[Step], report: &mut Report) {
        let mut batch = Batch::new();
        let run: Vec<(&Step, &TableKey, &NftStep, usize)> = steps
            .iter()
            .map_while(|step| match step {
                Step::Nft(key, change) => Some((step, key, change, stage(&mut batch, key, change))),
                _ => None,
            })
            .collect();
        let outcome = match self.nft() {
            Ok(nft) => nft.commit(&batch),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(handles) => {
                let added = run.iter().filter_map(|(_, key, change, _)| match change {
                    NftStep::AddRule(chain, _) => Some((*key, chain)),
                    _ => None,
                });
                let handles = added.zip(handles);
                report.handles.extend(handles.map(|((table, chain), handle)| RuleHandle {
                    table: table.clone(),
                    chain: chain.clone(),
                    handle,
                }));
                run.iter().for_each(|(step, ..)| report.count(step, Ok(())));
            }
            Err(error) => refuse(&run, &error, report),
        }
    }
}

/// Reports that nothing of the run was done. Refused steps have their own reason; the others name one of those.
fn refuse(run: &[(&Step, &TableKey, &NftStep, usize)], error: &NftError, report: &mut Report) {
    let refusals = if let NftError::Refused(all) = error { &all[..] } else { &[] };
    for (n, (step, _, _, end)) in run.iter().enumerate() {
        let begin = n.checked_sub(1).map_or(0, |before| run[before].3);
        let own = refusals.iter().find(|r| r.place.is_none_or(|place| (begin..*end).contains(&place)));
        let outcome = match (own, refusals.first()) {
            (Some(Refusal { error, .. }), _) => KernelError { what: step.to_string(), ..error.clone() },
            (None, Some(Refusal { error, .. })) => KernelError {
                what: step.to_string(),
                errno: Errno::CANCELED,
                text: Some(format!("the transaction was refused: {error}")),
            },
            (None, None) => error.clone().about(&step.to_string()),
        };
        report.refuse(step, outcome);
    }
}

/// Adds the operations of one step. Returns the number of operations in the batch.
fn stage(batch: &mut Batch, key: &TableKey, change: &NftStep) -> usize {
    match change {
        NftStep::AddTable(comment) => {
            batch.add_table(&Table { key: key.clone(), comment: comment.clone(), dormant: false })
        }
        NftStep::WakeTable => batch.wake_table(key),
        NftStep::DeleteTable => batch.delete_table(key),
        NftStep::AddChain(chain) => batch.create_chain(key, chain),
        NftStep::SetPolicy(chain) => batch.add_chain(key, chain),
        NftStep::DeleteChain(name) => batch.delete_chain(key, name),
        NftStep::FlushChain(name) => batch.flush_chain(key, name),
        NftStep::AddRule(chain, rule) => batch.add_rule_echoed(key, chain, &rule.rule),
        NftStep::InsertRule(chain, rule) => batch.insert_rule(key, chain, &rule.rule),
        NftStep::DeleteRule(chain, rule) => batch.delete_rule(key, chain, rule.handle.unwrap_or_default()),
        NftStep::AddSet(set) => batch.add_set(key, set),
        NftStep::DeleteSet(name) => batch.delete_set(key, name),
        NftStep::AddElements(set, elements) => batch.add_elements(key, set, elements),
        NftStep::CreateElements(set, elements) => batch.create_elements(key, set, elements),
        NftStep::DeleteElements(set, elements) => batch.delete_elements(key, set, elements),
    }
    batch.len()
}
