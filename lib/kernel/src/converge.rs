//! The one verb: make the kernel as it is wanted.

use std::borrow::Cow;

use crate::apply::Report;
use crate::diff::{Conflict, Plan, Step, diff};
use crate::kernel::Kernel;
use crate::netlink::KernelError;
use crate::nft::RuleHandle;
use crate::state::{Scope, State};

/// What need not be read, because the caller knows it: it has just made it, or nothing was announced since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assumed<'a> {
    /// The objects as they are.
    pub state: Cow<'a, State>,
    /// What is read all the same, and added.
    pub read: Scope,
}

impl From<State> for Assumed<'_> {
    /// Everything is known.
    fn from(state: State) -> Self {
        Self { state: Cow::Owned(state), read: Scope::default() }
    }
}

impl<'a> From<&'a State> for Assumed<'a> {
    /// Everything is known.
    fn from(state: &'a State) -> Self {
        Self { state: Cow::Borrowed(state), read: Scope::default() }
    }
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The steps that were taken, those whose object was gone or there already among them.
    pub done: Vec<Step>,
    /// Those that were not, with the reason; their objects are as they were.
    pub failed: Vec<(Step, KernelError)>,
    /// What stands in the way, and was left alone.
    pub conflicts: Vec<Conflict>,
    /// The rules of nf_tables that were added.
    pub handles: Vec<RuleHandle>,
}

impl Outcome {
    /// Everything is as it is wanted.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.conflicts.is_empty()
    }

    /// The first reason why not everything is as it is wanted, for callers to whom one is enough.
    pub fn ok(self) -> Result<Self, Failure> {
        match (self.conflicts.first(), self.failed.first()) {
            (Some(conflict), _) => Err(Failure::Conflict(conflict.clone())),
            (None, Some((_, error))) => Err(Failure::Kernel(error.clone())),
            (None, None) => Ok(self),
        }
    }
}

/// Why something is not as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Something else stands in its place.
    #[error("{0}")]
    Conflict(Conflict),
}

impl Kernel {
    /// Makes everything in `scope` as it is `desired`: reads it, compares, and takes the steps between. With `assumed` only
    /// what that leaves open is read. A step that fails is reported and does not stop the others.
    ///
    /// # Errors
    /// The kernel could not be read; nothing was changed.
    pub fn converge(
        &mut self,
        desired: &State,
        scope: &Scope,
        assumed: Option<Assumed<'_>>,
    ) -> Result<Outcome, KernelError> {
        let plan = self.plan(desired, scope, assumed)?;
        Ok(self.carry_out(plan))
    }

    /// The steps that [`Kernel::converge`] would take.
    pub fn plan(&mut self, desired: &State, scope: &Scope, assumed: Option<Assumed<'_>>) -> Result<Plan, KernelError> {
        let observed = match assumed {
            None => Cow::Owned(self.observe(scope)?),
            Some(Assumed { state, read }) if read == Scope::default() => state,
            Some(Assumed { mut state, read }) => {
                state.to_mut().extend(self.observe(&read)?);
                state
            }
        };
        Ok(diff(desired, &observed, scope))
    }

    /// [`Kernel::converge`] for a namespace some of whose links come from `parent`'s, as their
    /// [`Link::birth`](crate::state::Link::birth) says; nothing of it is there yet.
    pub fn bring(&mut self, parent: &mut Self, desired: &State) -> Outcome {
        let plan = diff(desired, &State::default(), &Scope::default());
        let report = self.apply_from(parent, &plan.steps);
        Outcome::of(plan, report)
    }

    /// Takes the steps of a plan.
    pub(crate) fn carry_out(&mut self, plan: Plan) -> Outcome {
        let report = self.apply(&plan.steps);
        Outcome::of(plan, report)
    }
}

impl Outcome {
    fn of(plan: Plan, report: Report) -> Self {
        let mut failed = report.failed.iter().map(|(step, _)| step).peekable();
        // both are in the same order, and equal steps do not occur twice
        let done = plan.steps.into_iter().filter(|step| failed.next_if(|failed| *failed == step).is_none()).collect();
        Self { done, conflicts: plan.conflicts, handles: report.handles, failed: report.failed }
    }
}
