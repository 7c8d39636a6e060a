//! The extension backend: the operator's commands run for the lease and for the peers.
//!
//! The last input of each command is kept. A peer that appears or changes is added, a peer that disappears is
//! removed, and a failed command runs again when the loop says so. The commands run one after the other, and the loop
//! does not wait for those of peers.

mod once;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::types::Family;
use overlay::backend::Companion;
use overlay::backend::extension::ExtensionConf;
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use overlay::peers::Peer;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::once::{Once, Progress};
use super::Due;
use crate::commands::{self, Input, LIMIT};
use crate::flags::Environment;
use crate::supervise::{Ended, Task};
use store::backoff::Backoff;

/// The desired input of the commands.
#[derive(Debug, Clone, Default)]
struct Wanted {
    conf: ExtensionConf,
    /// By the lease's key.
    peers: BTreeMap<String, Input>,
    /// Increases when failed commands must run again.
    attempt: u64,
}

/// The result of the commands.
#[derive(Debug, Default)]
struct Outcome {
    /// By the lease's key.
    failed: BTreeMap<String, String>,
    /// Whether only failed commands are left.
    idle: bool,
}

/// The last run of a peer's command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ran {
    input: Input,
    /// Whether the command succeeded.
    well: bool,
}

/// The next command to run.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Add(String, Input),
    Remove(String, Input),
}

/// Chooses the next command: first removals, because another peer may have the subnet by now, then additions. Failed
/// commands are left out.
fn next(
    wanted: &BTreeMap<String, Input>,
    ran: &BTreeMap<String, Ran>,
    failed: &BTreeMap<String, String>,
) -> Option<Next> {
    let open = |key: &&String| !failed.contains_key(*key);
    let gone = ran.keys().filter(|key| !wanted.contains_key(*key)).find(open);
    if let Some(key) = gone {
        return Some(Next::Remove(key.clone(), ran[key].input.clone()));
    }
    let new = |(key, input): &(&String, &Input)| {
        open(key) && ran.get(*key).is_none_or(|ran| ran.input != **input || !ran.well)
    };
    wanted.iter().find(new).map(|(key, input)| Next::Add(key.clone(), input.clone()))
}

/// Runs the extension backend's commands.
#[derive(Debug)]
pub(super) struct Extension {
    environment: Environment,
    wanted: watch::Sender<Wanted>,
    outcome: Arc<Mutex<Outcome>>,
    news: Arc<Notify>,
    task: Option<Task>,
    /// The first command.
    before: Once,
    /// The second command.
    after: Once,
    backoff: Backoff,
    again: Option<Instant>,
}

impl Extension {
    pub(super) fn new(environment: Environment) -> Self {
        Self {
            environment,
            wanted: watch::Sender::default(),
            outcome: Arc::default(),
            news: Arc::default(),
            task: None,
            before: Once::default(),
            after: Once::default(),
            backoff: Backoff::default(),
            again: None,
        }
    }

    /// Waits until all commands have ended, or one has failed.
    pub(super) async fn news(&mut self) -> Result<(), Ended> {
        let ended = async {
            match &mut self.task {
                Some(task) => task.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.news.notified() => Ok(()),
            ended = ended => Err(ended),
        }
    }

    /// Runs `PreStartupCommand` once, before the lease. Its output is the lease's data.
    pub(super) fn prepare(&mut self, conf: &NetConf, due: &mut Due) -> Result<(), Unready> {
        let Some(command) = of_backend(conf).and_then(|conf| conf.pre_startup) else {
            self.before.forget();
            return Ok(());
        };
        let progress = self.before.run((command, Input::default()), &self.environment, &self.news, Instant::now());
        ready("PreStartupCommand", progress, due)
    }

    /// The output of the first command. The published output stays until there is a new one.
    pub(super) fn printed(&self) -> Option<String> {
        self.before.output().map(str::to_owned)
    }

    /// Runs `PostStartupCommand` once for each lease of this host.
    pub(super) fn announce(
        &mut self,
        conf: &NetConf,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        due: &mut Due,
    ) -> Result<(), Unready> {
        let Some(command) = &of_backend(conf).and_then(|conf| conf.post_startup) else {
            self.after.forget();
            return Ok(());
        };
        let mut variables = vec![("NETWORK", conf.v4.as_ref().map(|v4| v4.network.to_string()).unwrap_or_default())];
        for family in Family::ALL {
            let [subnet, public] = names(family);
            variables.push((subnet, subnets.get(family).map(|net| net.to_string()).unwrap_or_default()));
            variables.push((public, attrs.public(family).map(|addr| addr.to_string()).unwrap_or_default()));
        }
        let call = (command.clone(), Input { variables, stdin: String::new() });
        let progress = self.after.run(call, &self.environment, &self.news, Instant::now());
        ready("PostStartupCommand", progress, due)
    }

    /// Runs the commands for these peers, which are complete if `complete` is true. Returns the failures, and sets
    /// when they are retried.
    pub(super) fn follow<'a>(
        &mut self,
        conf: &NetConf,
        peers: impl Iterator<Item = &'a Peer>,
        complete: bool,
        due: &mut Due,
    ) -> Vec<String> {
        let of_backend = of_backend(conf);
        if of_backend.is_none() && self.task.is_none() {
            return Vec::new();
        }
        let peers = peers.filter(|_| of_backend.is_some());
        let now: BTreeMap<_, _> = peers.filter_map(|peer| Some((peer.key(), input(peer)?))).collect();
        self.wanted.send_if_modified(|wanted| {
            let before = (wanted.conf.clone(), wanted.peers.clone());
            // The previous commands still remove what they added.
            wanted.conf = of_backend.unwrap_or_else(|| wanted.conf.clone());
            if complete {
                wanted.peers = now;
            } else {
                wanted.peers.extend(now);
            }
            before != (wanted.conf.clone(), wanted.peers.clone())
        });
        if self.task.is_none() {
            let (outcome, news) = (self.outcome.clone(), self.news.clone());
            let run = run(self.wanted.subscribe(), self.environment.clone(), outcome, news);
            self.task = Some(Task::spawn("the extension backend's commands", run));
        }
        self.try_again(due)
    }

    /// Retries failed commands when their back-off has passed.
    fn try_again(&mut self, due: &mut Due) -> Vec<String> {
        let outcome = lock(&self.outcome);
        let failed: Vec<String> = outcome.failed.values().cloned().collect();
        if failed.is_empty() {
            if outcome.idle {
                self.backoff.reset();
            }
            self.again = None;
            return failed;
        }
        let now = Instant::now();
        let at = *self.again.get_or_insert_with(|| now + self.backoff.next());
        due.by(at);
        if outcome.idle && now >= at {
            self.again = None;
            self.wanted.send_modify(|wanted| wanted.attempt += 1);
        }
        failed
    }
}

/// The commands of the extension backend; `None` for other backends.
fn of_backend(conf: &NetConf) -> Option<ExtensionConf> {
    conf.backend.companion().and_then(|companion| match companion {
        Companion::Commands(conf) => Some(conf),
        Companion::DataPath(_) => None,
    })
}

/// Why a command is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unready {
    /// It is still running.
    Running(String),
    /// It failed, and will be run again.
    Failed(String),
}

fn ready(name: &str, progress: Progress, due: &mut Due) -> Result<(), Unready> {
    match progress {
        Progress::Done => Ok(()),
        Progress::Running(since) => Err(Unready::Running(format!("{name} has been running for {} s", since.as_secs()))),
        Progress::Failed(error, again) => {
            due.by(again);
            Err(Unready::Failed(format!("{name}: {error}")))
        }
    }
}

/// The names of a family's variables.
fn names(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["SUBNET", "PUBLIC_IP"],
        Family::V6 => ["IPV6SUBNET", "PUBLIC_IPV6"],
    }
}

/// The input for a peer that runs this backend: its checked subnets and addresses, and its own data only as standard
/// input.
fn input(peer: &Peer) -> Option<Input> {
    let data = peer.extension()?;
    let mut variables = Vec::new();
    for family in Family::ALL {
        let [subnet, public] = names(family);
        let half = peer.half(family);
        variables.push((subnet, half.map(|half| half.subnet.to_string()).unwrap_or_default()));
        variables.push((public, half.map(|half| half.public.to_string()).unwrap_or_default()));
    }
    Some(Input { variables, stdin: format!("{data}\n") })
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the commands one after the other, until the daemon ends.
async fn run(
    mut changes: watch::Receiver<Wanted>,
    environment: Environment,
    outcome: Arc<Mutex<Outcome>>,
    news: Arc<Notify>,
) {
    let mut ran: BTreeMap<String, Ran> = BTreeMap::new();
    let (mut attempt, mut command) = (0, None);
    loop {
        let wanted = changes.borrow_and_update().clone();
        if wanted.conf.subnet_add != command {
            // the new commands know nothing about the existing peers
            ran.values_mut().for_each(|ran| ran.well = false);
            command.clone_from(&wanted.conf.subnet_add);
        }
        let step = {
            let mut outcome = lock(&outcome);
            if wanted.attempt != attempt {
                attempt = wanted.attempt;
                outcome.failed.clear();
            }
            // Failures of peers that are gone no longer matter.
            outcome.failed.retain(|key, _| wanted.peers.contains_key(key) || ran.contains_key(key));
            let step = next(&wanted.peers, &ran, &outcome.failed);
            outcome.idle = step.is_none();
            step
        };
        let Some(step) = step else {
            news.notify_one();
            match changes.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let (key, result) = take(step, &wanted.conf, &environment, &mut ran).await;
        if let Err(error) = result {
            lock(&outcome).failed.insert(key, error);
            news.notify_one();
        }
    }
}

async fn take(
    step: Next,
    conf: &ExtensionConf,
    environment: &Environment,
    ran: &mut BTreeMap<String, Ran>,
) -> (String, Result<(), String>) {
    let (name, command, key, input) = match &step {
        Next::Add(key, input) => ("SubnetAddCommand", &conf.subnet_add, key.clone(), input.clone()),
        Next::Remove(key, input) => ("SubnetRemoveCommand", &conf.subnet_remove, key.clone(), input.clone()),
    };
    let result = match command {
        Some(command) => commands::run(command, &input, environment, LIMIT).await.map(drop),
        None => Ok(()),
    };
    tracing::debug!(command = name, peer = key, well = result.is_ok(), "a command has run");
    match (&step, &result) {
        (Next::Remove(..), Ok(())) => drop(ran.remove(&key)),
        // If the peer comes back, a half-finished removal may have to be undone.
        (Next::Remove(..), Err(_)) => ran.get_mut(&key).into_iter().for_each(|ran| ran.well = false),
        (Next::Add(..), _) => drop(ran.insert(key.clone(), Ran { input, well: result.is_ok() })),
    }
    let result = result.map_err(|error| format!("{name} for {key}: {error}"));
    (key, result)
}

#[cfg(test)]
mod tests;
