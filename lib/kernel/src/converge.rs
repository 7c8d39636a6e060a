//! Brings the kernel into the desired state.

use std::borrow::Cow;

use crate::apply::Report;
use crate::diff::{Conflict, Plan, Step, diff};
use crate::kernel::Kernel;
use crate::netlink::KernelError;
use crate::nft::RuleHandle;
use crate::state::{Scope, State};

/// What need not be read, because the caller knows it: it has just created it, or nothing was announced since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assumed<'a> {
    /// The objects as they are known.
    pub state: Cow<'a, State>,
    /// The objects to read in addition.
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

/// The result of a convergence.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The steps that were taken, including those whose object already existed or was already gone.
    pub done: Vec<Step>,
    /// The steps that failed, each with the reason; their objects are unchanged.
    pub failed: Vec<(Step, KernelError)>,
    /// The objects that stand in the way, and were left alone.
    pub conflicts: Vec<Conflict>,
    /// The rules of nf_tables that were added.
    pub handles: Vec<RuleHandle>,
}

impl Outcome {
    /// Whether everything is as desired.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.conflicts.is_empty()
    }

    /// The first problem, for callers that need only one.
    pub fn ok(self) -> Result<Self, Failure> {
        match (self.conflicts.first(), self.failed.first()) {
            (Some(conflict), _) => Err(Failure::Conflict(conflict.clone())),
            (None, Some((_, error))) => Err(Failure::Kernel(error.clone())),
            (None, None) => Ok(self),
        }
    }
}

/// Why an object is not as desired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Another object stands in its place.
    #[error("{0}")]
    Conflict(Conflict),
}

impl Kernel {
    /// Brings all objects in `scope` into their `desired` state: reads them, compares, and takes the necessary steps.
    /// With `assumed`, reads only what that leaves open. A step that fails is reported, and does not stop the others.
    ///
    /// # Errors
    /// The kernel could not be read; nothing was changed.
    ///
    /// # Example
    /// `ip link add cni0 type bridge && ip link set cni0 up && ip address add 10.244.1.1/24 dev cni0`, where that is
    /// missing:
    ///
    /// ```no_run
    /// use kernel::Kernel;
    /// use kernel::state::{Bridge, Link, LinkKind, Scope, State};
    /// use kernel::types::IfName;
    ///
    /// let cni0 = IfName::new("cni0")?;
    /// let mut desired = State::default();
    /// desired.links.insert(cni0.clone(), Link::up(LinkKind::Bridge(Bridge::default())));
    /// desired.address(&cni0, "10.244.1.1/24".parse()?, false);
    /// let scope = Scope { addresses: vec![cni0], keep: true, ..Scope::default() };
    /// let outcome = Kernel::open()?.converge(&desired, &scope, None)?;
    /// for (step, error) in &outcome.failed {
    ///     eprintln!("{step}: {error}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Like [`Kernel::converge`], for a new namespace that gets links from `parent`, as their
    /// [`Link::birth`](crate::state::Link::birth) says.
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

/// The steps of [`Kernel::converge`], taken slice by slice, so that others may use the socket in between.
#[derive(Debug)]
pub struct Convergence {
    plan: Plan,
    taken: usize,
    report: Report,
}

impl Convergence {
    /// Takes up to `most` of the remaining steps; a transaction of nf_tables is not divided. Returns true when none
    /// remain.
    pub fn advance(&mut self, kernel: &mut Kernel, most: usize) -> bool {
        let steps = &self.plan.steps;
        let mut end = (self.taken + most.max(1)).min(steps.len());
        let divided = |at: usize| matches!(steps.get(at - 1..=at), Some([Step::Nft(..), Step::Nft(..)]));
        while end > 0 && divided(end) {
            end += 1;
        }
        let Report { done, handles, failed } = kernel.apply(&steps[self.taken..end]);
        self.report.done += done;
        self.report.handles.extend(handles);
        self.report.failed.extend(failed);
        self.taken = end;
        end == steps.len()
    }

    /// The result, once no step remains.
    pub fn finish(mut self) -> Outcome {
        self.plan.steps.truncate(self.taken);
        Outcome::of(self.plan, self.report)
    }
}

impl Kernel {
    /// Starts a convergence: reads the kernel, and changes nothing yet.
    ///
    /// # Errors
    /// The kernel could not be read.
    pub fn begin(
        &mut self,
        desired: &State,
        scope: &Scope,
        assumed: Option<Assumed<'_>>,
    ) -> Result<Convergence, KernelError> {
        Ok(Convergence { plan: self.plan(desired, scope, assumed)?, taken: 0, report: Report::default() })
    }
}

impl Outcome {
    fn of(plan: Plan, report: Report) -> Self {
        let mut failed = report.failed.iter().map(|(step, _)| step).peekable();
        // Both are in the same order, and no two steps are equal.
        let done = plan.steps.into_iter().filter(|step| failed.next_if(|failed| *failed == step).is_none()).collect();
        Self { done, conflicts: plan.conflicts, handles: report.handles, failed: report.failed }
    }
}
