//! The wish made so, and how much of the kernel has to be read for it.

use std::sync::Arc;

use kernel::state::{Scope, State};
use kernel::types::IfName;
use kernel::{Kernel, KernelError};
use overlay::backend::wireguard::follow_roaming;

use super::Daemon;
use super::pass::Halt;
use super::report::{self, Applied};
use crate::underlay::Survey;

/// While it is there, the kernel is as it was wanted last, because it has announced nothing else: it need not be read again
/// because a lease has come. Whatever else a pass is made for, the kernel is read.
pub(super) struct Trust {
    pub(super) survey: Arc<Survey>,
    /// The links that were looked at: of others nothing is known.
    links: Vec<IfName>,
}

impl Daemon {
    /// Makes the kernel as `wanted`. `survey` is what that was made from.
    pub(super) async fn apply(
        &mut self,
        wanted: Arc<State>,
        scope: Scope,
        survey: Arc<Survey>,
    ) -> Result<Applied, Halt> {
        let trusted = self.trust.take().is_some_and(|trust| trust.links == scope.links);
        let believed = self.wanted.clone().filter(|_| trusted);
        let links = scope.links.clone();
        let before = std::mem::replace(&mut self.wireguard, wanted.wireguard.clone());
        let mut state = wanted.clone();
        if !state.wireguard.is_empty() {
            follow_roaming(Arc::make_mut(&mut state), &before);
        }
        // a WireGuard peer's address is where it was last heard from, which the kernel does not announce
        let readable = !scope.keep && wanted.wireguard.is_empty();
        let done = self.kernel.call(move |kernel| apply(kernel, &state, &scope, believed.as_deref())).await;
        let applied =
            done.map_err(|error| Halt::Stop(error.into()))?.map_err(|error| Halt::Retry(error.to_string()))?;
        self.trust = (readable && applied.outcome.is_whole()).then_some(Trust { survey, links });
        let drift = self.wanted.as_ref() == Some(&wanted);
        self.metrics.passed(applied.took.as_secs_f64(), &applied.steps, drift);
        self.wanted = Some(wanted);
        Ok(applied)
    }
}

/// Makes the kernel what is wanted: from what is `believed` of it, or else from what is there.
fn apply(kernel: &mut Kernel, wanted: &State, scope: &Scope, believed: Option<&State>) -> Result<Applied, KernelError> {
    let started = std::time::Instant::now();
    let outcome = kernel.converge(wanted, scope, believed.map(Into::into))?;
    outcome.done.iter().for_each(|step| tracing::debug!(%step, "step"));
    let steps = report::count(&outcome);
    let took = started.elapsed();
    tracing::debug!(steps = outcome.done.len(), took_us = took.as_micros() as u64, "applied");
    Ok(Applied { outcome, steps, took })
}
