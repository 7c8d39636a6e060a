//! The packet rules: what is there is read, the rules are planned from it, and made so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::nft::{ChainKind, NftWatch};
use kernel::state::State;
use kernel::{Kernel, KernelError};
use overlay::lease::Subnets;
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::plan::Delta;
use overlay::rules::{self, Drops, Facts, Flow, Options};

use super::kernel::{Applied, Target, converge};
use super::pass::Failure;
use crate::kernel_thread::KernelThread;
use crate::rules_watch::{RulesError, RulesWatch};

/// Between two looks that changes of packet rules cause: a program that loads its rules announces each of them.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// What the rules depend on, beside the flags and the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    nftables: bool,
    networks: ByFamily<Option<IpNetwork>>,
    own: Subnets,
    flows: Vec<Flow>,
}

/// What outlives a pass. All of it can be lost.
pub(super) struct Rules {
    options: Options,
    watch: RulesWatch,
    /// The networks of this run and the last one: rules about them are ours.
    networks: BTreeSet<IpNetwork>,
    /// What the rules were made for; `None`: they must be looked at.
    made: Option<Wanted>,
    /// What was planned last.
    planned: Option<rules::Rules>,
}

/// What became of the rules.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    pub(super) applied: Applied,
    /// Chains of others that drop what must pass.
    pub(super) drops: Vec<Drops>,
}

/// What was read.
enum Found {
    Rules(Box<State>),
    /// The kernel has no nf_tables.
    Unsupported(String),
}

impl Rules {
    /// Watches in the network namespace of this thread. Needs a tokio runtime.
    pub(super) fn new(options: Options) -> Self {
        let watch = NftWatch::open([]).map(|watch| watch.with_base_chains(ChainKind::Filter));
        Self { options, watch: RulesWatch::new(watch), networks: BTreeSet::new(), made: None, planned: None }
    }

    /// Waits until the rules have to be looked at. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<(), RulesError> {
        self.watch.changed().await?;
        self.look_again();
        Ok(())
    }

    /// The rules are read again in the next pass.
    pub(super) fn look_again(&mut self) {
        self.made = None;
    }

    /// True if pods need the rules.
    pub(super) fn are_vital(&self) -> bool {
        self.options.masquerade.is_some()
    }

    /// Makes the rules as they are planned for this network and these subnets. `former` are the networks of the last run.
    /// `None`: nothing has changed since they were made.
    pub(super) async fn make(
        &mut self,
        kernel: &KernelThread,
        conf: &NetConf,
        (own, flows): (Subnets, Vec<Flow>),
        former: &[IpNetwork],
    ) -> Result<Option<Ruled>, Failure> {
        let wanted = Wanted { nftables: conf.enable_nftables, networks: conf.network_by_family(), own, flows };
        if self.made.as_ref() == Some(&wanted) {
            return Ok(None);
        }
        self.networks.extend(former.iter().copied().chain(conf.networks()));
        let networks = self.networks.clone();
        let found = kernel.call(move |kernel| find(kernel, &networks)).await;
        let found =
            found.map_err(|error| Failure::Stop(error.into()))?.map_err(|error| Failure::Retry(error.to_string()))?;
        let found = match found {
            Found::Rules(found) => *found,
            Found::Unsupported(why) if self.are_vital() => {
                return Err(Failure::Retry(format!("--ip-masq needs nf_tables: {why}")));
            }
            Found::Unsupported(_) => State::default(),
        };
        let planned = self.plan(&wanted, &found);
        let drift = self.planned.as_ref().is_some_and(|before| before.state == planned.state);
        let applied = self.apply(kernel, &planned, found).await?;
        let whole = applied.outcome.is_whole();
        let drops = planned.drops.clone();
        (self.made, self.planned) = (whole.then_some(wanted), Some(planned));
        Ok(Some(Ruled { applied: Applied { drift, ..applied }, drops }))
    }

    fn plan(&mut self, wanted: &Wanted, found: &State) -> rules::Rules {
        let Wanted { nftables, networks, own, ref flows } = *wanted;
        let (options, former) = (&self.options, &self.networks);
        let planned = rules::plan(&Facts { options, nftables, networks, own, former, flows, found });
        self.watch.set_tables(rules::watched(found, &planned));
        planned
    }

    async fn apply(&self, kernel: &KernelThread, planned: &rules::Rules, found: State) -> Result<Applied, Failure> {
        let delta = Delta { desired: planned.state.clone(), assumed: found };
        let done = converge(kernel, Target::Part(Box::new(delta)), Arc::new(planned.scope.clone())).await;
        done.map_err(|error| Failure::Stop(error.into()))?.map_err(|error| Failure::Retry(error.to_string()))
    }
}

/// Reads what the rules are planned from.
fn find(kernel: &mut Kernel, networks: &BTreeSet<IpNetwork>) -> Result<Found, KernelError> {
    let what = "nft list chains";
    let chains = match kernel.nft().and_then(|nft| nft.base_chains(ChainKind::Filter)) {
        Ok(chains) => chains,
        Err(error) if error.is_unsupported() => return Ok(Found::Unsupported(error.to_string())),
        Err(error) => return Err(error.about(what)),
    };
    let nft = kernel.tables(&rules::reads(networks.iter(), &chains).nft)?;
    Ok(Found::Rules(Box::new(State { nft, ..State::default() })))
}
