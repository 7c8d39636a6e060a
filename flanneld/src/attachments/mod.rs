//! The attachments controller repairs what plugins made on this host for pods when another program has changed it.
//!
//! The records of attachments describe the objects ([`mod@plan`]). The controller checks them for six reasons: the
//! kernel announced a change to one of these links, a setting that it does not announce has changed, another program
//! changed an nf_tables table with such rules, a record changed, this host got other subnets, or ten minutes passed. What
//! other programs keep ([`programs`]) has a period of its own. It has its own sockets and its own kernel thread, and shares
//! no object with another controller.

mod folders;
pub mod plan;
pub mod programs;
pub mod records;
mod status;
mod work;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use attachment::record::DIRECTORY;
use attachment::rules::{firewall, macspoof, masquerade, portmap};
use kernel::message::link::SeenLink;
use kernel::nft::{NftWatch, TableKey};
use kernel::state::State;
use kernel::types::IfName;
use kernel::{Kernel, KernelError, sysctl};
use overlay::lease::Subnets;
use overlay::status::Attachments;
use store::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use self::folders::Folders;
use self::plan::{Facts, History, Plan, plan};
use self::programs::Programs;
use self::records::{Records, Stale};
use self::work::{Done, Healed, Look, execute};
use crate::events::facts::{Facts as Watched, Fixed};
use crate::events::{Events, Interest};
use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::Metrics;
use crate::report::Report;
use crate::rules_watch::RulesWatch;
use crate::supervise::{Ended, Task};
use crate::unannounced::Unannounced;

/// Every change should be announced. If one is not, it is found after this time.
const AUDIT: Duration = Duration::from_secs(600);

/// The pause between two checks, so that a burst of announcements leads to one check.
const QUIET: Duration = Duration::from_millis(20);

/// The same after a change of packet rules: every ADD and DEL of a pod with rules announces one.
const RULES_QUIET: Duration = Duration::from_millis(50);

/// The delay after a change of a record: the ADD or DEL has left the host in order, so there is no hurry.
const LEISURE: Duration = Duration::from_millis(500);

/// The delay when another process works on an attachment that must be checked.
const BUSY: Duration = Duration::from_millis(100);

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel thread cannot start.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The kernel's announcements cannot be received.
    #[error("listen to the kernel: {0}")]
    Listen(#[source] io::Error),
    /// The records cannot be watched.
    #[error("watch {DIRECTORY}: {0}")]
    Records(#[source] io::Error),
}

/// What the controller needs.
pub struct Parts {
    /// This host's subnets. Only attachments with addresses in them are repaired.
    pub subnets: watch::Receiver<Subnets>,
    /// Receives the state of the attachments.
    pub report: Report,
    /// Counts repairs.
    pub metrics: Metrics,
    /// The time between two checks of what other programs keep (`--iptables-resync`).
    pub resync: Duration,
}

/// The controller. Dropping it ends its task.
#[derive(Debug)]
pub struct Controller {
    task: Task,
}

impl Controller {
    /// Starts the controller in the network namespace of this thread. It does nothing until it knows this host's
    /// subnets. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn start(parts: Parts) -> Result<Self, StartError> {
        let events = Events::listen(None).map_err(StartError::Listen)?;
        let directory = Path::new(DIRECTORY);
        let folders = Folders::watch(directory).map_err(StartError::Records)?;
        let kernel = KernelThread::start()?;
        let status = Attachments::default();
        parts.report.attachments(&status);
        let work = Loop {
            kernel,
            events,
            folders,
            rules: RulesWatch::new(NftWatch::open(tables())),
            programs: Programs::new(directory, parts.resync),
            healed: Vec::new(),
            failed: Vec::new(),
            records: Records::new(directory),
            stale: Stale::All,
            links: BTreeMap::new(),
            next: Look::all(),
            desired: Arc::default(),
            arp: BTreeMap::new(),
            fixed: Fixed::default(),
            settings: Unannounced::default(),
            history: History::default(),
            due: Instant::now(),
            retry: Backoff::default(),
            parts,
            status,
        };
        Ok(Self { task: Task::spawn("the attachments controller", work.run()) })
    }

    /// Waits until the controller has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.task.ended().await
    }
}

/// Everything that outlives a check.
struct Loop {
    kernel: KernelThread,
    events: Events,
    folders: Folders,
    rules: RulesWatch,
    programs: Programs,
    /// What other programs had lost and have again, since the last report.
    healed: Vec<Healed>,
    /// What could not be repaired by other programs.
    failed: Vec<(String, String)>,
    records: Records,
    stale: Stale,
    /// All links, as last read.
    links: BTreeMap<IfName, SeenLink>,
    next: Look,
    /// The desired state of the links.
    desired: Arc<State>,
    /// What the kernel says of how it answers ARP.
    arp: BTreeMap<String, String>,
    /// What may send the packets for pods elsewhere.
    fixed: Fixed,
    settings: Unannounced,
    history: History,
    /// When everything is looked at again at the latest.
    due: Instant,
    retry: Backoff,
    parts: Parts,
    /// The last report.
    status: Attachments,
}

/// The tables that plugins' rules are in, whether there are any now or not.
fn tables() -> [TableKey; 5] {
    [masquerade::table(), macspoof::table(), portmap::table(), firewall::table(), firewall::bridge_table()]
}

impl Loop {
    /// Runs until a part that it needs has ended.
    async fn run(mut self) {
        loop {
            let due = match self.look().await {
                Ok(due) => due,
                Err(Trouble::Ended(error)) => {
                    tracing::error!(%error, "the attachments controller cannot go on");
                    return;
                }
                Err(Trouble::Refused(error)) => {
                    let wait = self.retry.next();
                    tracing::warn!(error, retry_ms = wait.as_millis() as u64, "cannot check the attachments");
                    (self.stale, self.next) = (Stale::All, Look::all());
                    Instant::now() + wait
                }
            };
            if let Err(error) = self.wait(due).await {
                tracing::error!(error, "the attachments controller cannot go on");
                return;
            }
        }
    }

    /// Waits for a reason to check.
    async fn wait(&mut self, mut due: Instant) -> Result<(), String> {
        let last = Instant::now();
        let quiet = loop {
            let look = self.settings.due();
            tokio::select! {
                news = self.events.news() => {
                    news.map_err(|ended| ended.to_string())?;
                    self.next.links = true;
                    break QUIET;
                }
                changed = self.rules.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    self.next.rules = true;
                    break RULES_QUIET;
                }
                stale = self.folders.changed() => {
                    self.stale.extend(stale.map_err(|error| error.to_string())?);
                    due = due.min(Instant::now() + LEISURE);
                }
                changed = self.parts.subnets.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    self.next = Look::all();
                    break QUIET;
                }
                () = self.settings.written() => {}
                () = tokio::time::sleep_until(look) => {
                    // those of ports are announced with them, and they may be many
                    let facts = self.records.silent_settings();
                    let changed = self.settings.changed(&self.kernel, &State::default(), facts).await;
                    if changed.map_err(|error| error.to_string())? {
                        self.next.links = true;
                        break QUIET;
                    }
                }
                done = self.programs.checked() => {
                    if self.learn_of_programs(done?) {
                        break QUIET;
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    self.next = Look::all();
                    break QUIET;
                }
            }
        };
        tokio::time::sleep_until(last + quiet).await;
        Ok(())
    }

    /// Checks and repairs. Returns when to check again at the latest.
    async fn look(&mut self) -> Result<Instant, Trouble> {
        let mut look = std::mem::take(&mut self.next);
        // a record is held against links that were read after it: those of before do not have a pod that was just attached
        look.links |= !self.stale.is_empty();
        let troubles = self.read(look).await?;
        let subnets = *self.parts.subnets.borrow_and_update();
        let (records, links, arp, fixed) = (&self.records, &self.links, &self.arp, &self.fixed);
        let facts = Facts { records, links, arp, fixed, subnets, now: Instant::now() };
        let plan = Arc::new(plan(&facts, &mut self.history));
        let links = plan.links();
        self.desired = Arc::new(links.state);
        self.events.set_interest(Interest {
            desired: Some(Arc::downgrade(&self.desired)),
            scope: Arc::new(links.scope),
            facts: Arc::new(Watched::of(self.fixed.clone())),
        });
        // a table of others is watched only while a rule of ours is in it
        self.rules.set_tables(tables().into_iter().chain(plan.tables()));
        self.programs.set_desired(&plan.programs);
        if plan.programs.is_empty() {
            self.failed.clear();
        }
        let done = self.execute(plan.clone(), look).await?;
        self.learn(&plan, &done, &troubles);
        let due = self.due(&plan, &done);
        // what was not looked at may still wait for another try
        self.due = if look == Look::all() { due } else { due.min(self.due) };
        Ok(self.due)
    }

    /// Reads the stale records and the host's links. Returns the records that cannot be read.
    async fn read(&mut self, look: Look) -> Result<Vec<String>, Trouble> {
        let nothing = Records::new(self.records.directory());
        let (stale, mut records) = (std::mem::take(&mut self.stale), std::mem::replace(&mut self.records, nothing));
        if look.links {
            self.events.survey_begins();
        }
        let read = move |kernel: &mut Kernel| {
            let troubles = records.read(&stale);
            let arp = records.silent_settings().into_iter();
            // what cannot be read is not there
            let arp = arp.filter_map(|path| Some((path.clone(), sysctl::read(&path).ok()??))).collect();
            let links = look.links.then(|| Ok((kernel.links()?, arp, fixed(kernel, &records)?)));
            (records, troubles, links)
        };
        let (records, troubles, links) = self.kernel.call(read).await?;
        self.records = records;
        if let Some(links) = links {
            let (links, arp, fixed) = links.map_err(|error: KernelError| Trouble::Refused(error.to_string()))?;
            (self.arp, self.fixed) = (arp, fixed);
            self.events.survey_ends(&links);
            self.links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        }
        Ok(troubles)
    }

    async fn execute(&mut self, plan: Arc<Plan>, look: Look) -> Result<Done, Trouble> {
        let directory: PathBuf = self.records.directory().to_owned();
        let done = self.kernel.call(move |kernel| execute(kernel, &plan, &directory, look)).await?;
        done.map_err(|error| Trouble::Refused(error.to_string()))
    }

    fn learn(&mut self, plan: &Plan, done: &Done, troubles: &[String]) {
        self.retry.reset();
        self.count(done);
        self.report(plan, done, troubles);
    }

    /// Takes what a check of other programs' objects found. Returns whether there is something to report.
    fn learn_of_programs(&mut self, done: Done) -> bool {
        self.count(&done);
        let changed = !done.healed.is_empty() || self.failed != done.failed;
        self.healed.extend(done.healed);
        self.failed = done.failed;
        changed
    }

    fn count(&mut self, done: &Done) {
        for healed in &done.healed {
            self.history.entry(healed.object.clone()).or_default().done(Instant::now());
            self.parts.metrics.repaired_attachment(healed.kind);
            tracing::warn!(
                object = healed.object,
                steps = healed.steps.join("; "),
                "repaired an object that another program changed"
            );
        }
        for (object, error) in &done.failed {
            self.history.entry(object.clone()).or_default().done(Instant::now());
            tracing::warn!(object, error, "cannot repair an object that another program changed");
        }
    }

    fn report(&mut self, plan: &Plan, done: &Done, troubles: &[String]) {
        let before = self.status.clone();
        let mut done = done.clone();
        done.healed.append(&mut self.healed);
        done.failed.extend_from_slice(&self.failed);
        status::record(&mut self.status, plan, &done, troubles);
        for text in self.status.reported.iter().filter(|text| !before.reported.contains(text)) {
            tracing::warn!("{text}");
        }
        if self.status != before {
            self.parts.report.attachments(&self.status);
        }
    }

    fn due(&self, plan: &Plan, done: &Done) -> Instant {
        let now = Instant::now();
        let audit = now + AUDIT;
        let busy = done.busy.then_some(now + BUSY);
        // A failed repair is retried as often as any object may be repaired.
        let failed = (!done.failed.is_empty()).then_some(now + LEISURE);
        [busy, failed, plan.look_again].into_iter().flatten().fold(audit, Instant::min)
    }
}

/// Reads the permanent neighbours of pods' bridges, and where these send the frames for pods whatever they learn.
fn fixed(kernel: &mut Kernel, records: &Records) -> Result<Fixed, KernelError> {
    let mut fixed = Fixed { devs: records.bridges(), macs: records.macs(), ..Fixed::default() };
    for bridge in &fixed.devs {
        fixed.neighbours.extend(kernel.neighbours(bridge)?);
        let entries = kernel.forwarding(bridge)?;
        fixed.forwarding.extend(entries.into_iter().filter(|entry| fixed.macs.contains(&entry.mac)));
    }
    Ok(fixed)
}

/// Why a check failed.
enum Trouble {
    /// The controller must end.
    Ended(ThreadError),
    /// Try again later.
    Refused(String),
}

impl From<ThreadError> for Trouble {
    fn from(error: ThreadError) -> Self {
        Self::Ended(error)
    }
}

#[cfg(test)]
mod tests;
