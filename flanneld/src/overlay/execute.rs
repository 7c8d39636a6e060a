//! Carries out a plan in order: what peers send to exists before it is published, and is deleted after that.

use std::sync::Arc;
use std::time::Duration;

use kernel::Kernel;
use kernel::diff::RouteText;
use kernel::state::{Route, RouteKey, Scope};
use kernel::types::{Family, IfName};
use overlay::backend::wireguard::DEVICES;
use overlay::lease::Subnets;
use overlay::ownership;
use overlay::plan::{Endpoints, Leased, Plan};
use overlay::rules::Flow;
use overlay::taken::{self, Way};
use overlay::underlay::Survey;
use overlay::ways::{self, Question};
use store::Published;
use tokio::time::Instant;

use super::Controller;
use super::facts::Gathered;
use super::kernel::{Applied, Target, converge};
use super::pass::{Failure, Pass};
use crate::events::Interest;
use crate::events::facts::{Chosen, Named};
use overlay::status::Rejected;

/// The interval for asking which host uses a shared key, because the kernel does not announce it.
/// It is also the interval for asking again while rules lead packets elsewhere.
const LISTEN: Duration = Duration::from_secs(5);

impl Controller {
    /// Sets what the kernel's announcements are compared with from now on.
    pub(super) fn take_interest(&mut self, plan: &Plan, gathered: &Gathered) {
        let scope = plan.leased.as_ref().map(|leased| leased.scope.clone()).unwrap_or_default();
        let select = &self.known.options.select;
        let families: Vec<Family> = gathered.conf.families().map(|(family, _)| family).collect();
        let chosen = Chosen {
            dev: plan.underlay.as_ref().map(|found| found.underlay.dev.clone()),
            by_default_route: select.follows_default_route(&families),
            can_reach: select.can_reach,
            ipv6: families.contains(&Family::V6),
        };
        let desired = self.memory.desired().filter(|_| plan.leased.is_some()).map(Arc::downgrade);
        // When routes are left to other programs, the status names none.
        let adopts = scope.routes.as_ref().filter(|routes| !routes.adopt.within.is_empty());
        let within = adopts.map(|routes| routes.within.clone()).unwrap_or_default();
        let own = self.store.held().map(|held| held.subnets).unwrap_or_default();
        let facts = self.known.watch(gathered, chosen, &scope.links, Named { within, own });
        self.events.set_interest(Interest { desired, scope, facts });
    }

    /// Asks from where the owners of WireGuard keys have sent recently, if two leases have the same key. Returns
    /// whether the answer differs from the one that the plan was made with.
    pub(super) async fn ask_for_endpoints(&mut self, plan: &Plan, pass: &mut Pass) -> Result<bool, Failure> {
        let contested = plan.leased.as_ref().is_some_and(|leased| leased.contested);
        let mut endpoints = Endpoints::new();
        if contested {
            pass.due.by(Instant::now() + LISTEN);
            let devices: Vec<IfName> = DEVICES.iter().filter_map(|name| IfName::new(name).ok()).collect();
            let seen = self.kernel.call(move |kernel| kernel.wireguard(&devices)).await;
            let seen = seen.map_err(|error| Failure::Stop(error.into()))?;
            let seen = seen.map_err(|error| Failure::Retry(error.to_string()))?;
            for (key, peer) in seen.into_values().flat_map(|device| device.peers) {
                let from = peer.endpoint.filter(|_| peer.live).map(|endpoint| endpoint.ip());
                endpoints.entry(key).or_default().extend(from);
            }
        }
        let other = endpoints != self.known.endpoints;
        self.known.endpoints = endpoints;
        Ok(other)
    }

    /// Carries out a plan.
    pub(super) async fn execute(&mut self, plan: Plan, gathered: &Gathered, pass: &mut Pass) -> Result<(), Failure> {
        let (Some(mut leased), Ok(attrs)) = (plan.leased, plan.attrs) else { return Ok(()) };
        let complete = self.known.health.complete;
        if let Some(path) = leased.data_path {
            // The data path starts before its routes exist, so that it carries every packet that they send to the
            // device.
            self.carry(path, &leased, gathered.unchanged).await.map_err(Failure::Retry)?;
        }
        let applied = self.apply(&mut leased, gathered).await?;
        pass.outcome.fresh = !applied.outcome.done.is_empty();
        let failed = self.extension.follow(&gathered.conf, self.memory.book().peers(), complete, &mut pass.due);
        pass.note(failed);
        applied.trouble().into_iter().for_each(|trouble| pass.retry(trouble));
        let misled = self.misled(&leased, gathered).await?;
        if misled.is_some() {
            // Nothing is announced when what a rule leads to has changed.
            pass.due.by(Instant::now() + LISTEN);
        }
        let elsewhere: Vec<String> = misled.into_iter().chain(self.taken()).collect();
        pass.note(elsewhere.iter().cloned());
        let read = complete || self.started || self.known.health.remembered.is_some();
        self.outlet.applied(&applied, &elsewhere, read);
        if leased.data_path.is_none() && applied.ready() {
            self.udp.end();
        }
        self.outlet.moved(self.udp.counters());
        let ruled = self.make_rules(&leased, gathered, pass).await?;
        if applied.ready() {
            match self.store.publish(&attrs).await {
                Ok(Published::After(after)) => pass.due.by(after),
                Ok(Published::Unchanged) => {}
                // The devices that stay depend on what other hosts now read.
                Ok(Published::Written) if leased.keeps => pass.due.by(Instant::now()),
                Ok(Published::Written) => {}
                Err(error) => pass.retry(error.to_string()),
            }
        }
        // the CNI plugin leaves the masquerade to us by what this file says
        if applied.ready() && (ruled || self.started) {
            self.outlet.subnet_env(&leased.subnet_env);
            self.known.wrote(&leased.subnet_env);
            self.started = true;
        }
        Ok(())
    }

    /// Which packets the kernel sends elsewhere than it is planned, because of rules that others have made.
    async fn misled(&self, leased: &Leased, gathered: &Gathered) -> Result<Option<String>, Failure> {
        let rules = ways::strange(&gathered.survey.rules);
        let Some(desired) = self.memory.desired().filter(|_| !rules.is_empty()) else { return Ok(None) };
        let questions = ways::questions(desired, self.memory.ways(), &gathered.survey, leased.subnet_env.subnets);
        let ask = move |kernel: &mut Kernel| {
            let mut ask = |question: &Question| {
                let answer = kernel.forwarding_of(question.src, question.dst, &question.iif);
                question.judge(answer.map_err(|error| error.to_string()))
            };
            questions.iter().filter_map(&mut ask).collect::<Vec<_>>()
        };
        let mut wrong = self.kernel.call(ask).await.map_err(|error| Failure::Stop(error.into()))?;
        // Without one of the kernel's own rules nothing comes in, or nothing goes out.
        wrong.extend(rules.iter().filter(|rule| rule.starts_with(ways::MISSING)).cloned());
        let more = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
        Ok(wrong.first().map(|first| {
            format!(
                "the routing policy leads pods' packets elsewhere: {first}{more}; see `ip rule`: {}",
                rules.join("; ")
            )
        }))
    }

    /// The routes of others that take the traffic for peers, and what helps.
    fn taken(&self) -> Vec<String> {
        let foreign: Vec<_> = self.foreign.iter().collect();
        let explain = |(theirs, way): (&(RouteKey, Route), Way<'_>)| {
            let (theirs, ours) = (text(theirs), RouteText(way.key, way.route));
            format!("the route {theirs} takes the packets that are to go by {ours}: ip route del {theirs}")
        };
        taken::taken(&foreign, self.memory.ways()).into_iter().map(explain).collect()
    }

    /// The packets that no program's rules may drop.
    fn flows(&self, leased: &Leased, gathered: &Gathered, own: Subnets) -> Vec<Flow> {
        let Some(desired) = self.memory.desired() else { return Vec::new() };
        let underlay = self.memory.underlay();
        let port = leased.data_path.map(|path| path.conf.port);
        ways::flows(desired, self.memory.ways(), &gathered.survey, own, underlay, port)
    }

    /// Makes the packet rules. True if those that pods need are there.
    async fn make_rules(&mut self, leased: &Leased, gathered: &Gathered, pass: &mut Pass) -> Result<bool, Failure> {
        let (own, former) = (leased.subnet_env.subnets, &gathered.previous.networks);
        let flows = self.flows(leased, gathered, own);
        let made = match self.rules.make(&self.kernel, &gathered.conf, (own, flows), former).await {
            Ok(Some(ruled)) => {
                pass.outcome.fresh |= !ruled.applied.outcome.done.is_empty();
                self.outlet.ruled(&ruled);
                ruled.applied.trouble().map_or(Ok(()), Err)
            }
            Ok(None) => Ok(()),
            Err(Failure::Retry(why)) => Err(why),
            Err(failure) => return Err(failure),
        };
        let there = made.is_ok() || !self.rules.are_vital();
        made.err().into_iter().for_each(|why| pass.retry(why));
        self.outlet.rules_are(there);
        pass.note(self.outlet.dropped());
        Ok(there)
    }

    /// Applies the plan to the kernel.
    async fn apply(&mut self, leased: &mut Leased, gathered: &Gathered) -> Result<Applied, Failure> {
        let Some(desired) = self.memory.desired() else { return Ok(Applied::default()) };
        let drift = leased.delta.as_ref().is_some_and(|_| leased.work.compared == 0);
        let target = Target::of(leased, desired, gathered.unchanged);
        let scope = match target {
            Target::Whole(_) => self.memory.scope().unwrap_or_default(),
            Target::Part(_) => leased.scope.clone(),
        };
        if let Target::Whole(_) = target {
            let foreign = foreign(&scope, leased.subnet_env.subnets, &gathered.survey);
            self.outlet.foreign_routes(foreign.iter().map(|route| text(route)).collect());
            self.foreign = foreign.into_iter().cloned().collect();
        }
        let done = converge(&self.kernel, target, scope).await;
        let applied =
            done.map_err(|error| Failure::Stop(error.into()))?.map_err(|error| Failure::Retry(error.to_string()))?;
        if applied.outcome.is_whole() && !leased.scope.keep {
            self.memory.settle();
        } else {
            // If the result differs from the plan, the kernel is read again.
            self.known.survey = None;
        }
        tracing::debug!(
            judged = leased.work.judged,
            rendered = leased.work.rendered,
            compared = leased.work.compared,
            steps = applied.outcome.done.len(),
            "planned"
        );
        Ok(Applied { drift, ..applied })
    }

    /// Reports how the peers are reached, and what is not followed, as each plan says it: the next one says only what has
    /// changed since.
    pub(super) fn report_peers(&self, leased: &mut Leased, pass: &mut Pass) {
        self.outlet.warn(&leased.warnings);
        self.outlet.planned(&leased.work);
        pass.outcome.peers.push(std::mem::take(&mut leased.peers));
        if let Some(all) = &leased.rejected {
            let show = |r: &overlay::peers::Rejected| Rejected { key: r.key.clone(), reason: r.explained() };
            pass.outcome.rejected = Some(all.iter().map(show).collect());
        }
    }
}

/// Other programs' routes inside the network.
fn foreign<'a>(scope: &Scope, own: Subnets, survey: &'a Survey) -> Vec<&'a (RouteKey, Route)> {
    let Some(routes) = &scope.routes else { return Vec::new() };
    ownership::foreign(routes, (&scope.links, own), survey.routes.iter().chain(&survey.odd))
}

/// As `ip route` shows it.
fn text((key, route): &(RouteKey, Route)) -> String {
    RouteText(key, route).to_string()
}
