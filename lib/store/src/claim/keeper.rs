//! Carries out what `decide` decides about this host's lease, in stores where hosts choose their subnets themselves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use overlay::allocate::Choice;
use overlay::lease::{LeaseAttrs, Subnets};
use tokio::time::Instant;

use super::decide::{Decision, Facts, Own, Standing, Usurped, decide};
use super::{Claim, Held, HoldError, Published, Trouble, Waiting};
use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::compare::{CompareStore, Raw, Term, Written};
use crate::error::StoreError;
use crate::feed::Shared;
use crate::index::Mark;

/// The lifetime of a lease; upstream's value.
const TTL: Duration = Duration::from_secs(86_400);

/// How long the index may take to show a write.
const SETTLE: Duration = Duration::from_secs(2);

/// The shortest time between two renewals.
const RENEWALS: Duration = Duration::from_secs(5);

/// A contest is over when no other host has written our lease for this long.
const PEACE: Duration = Duration::from_secs(120);

/// Grace period after adopting a lease only because its address matches ours: another host may prove that it owns the
/// lease.
const PROOF: Duration = Duration::from_secs(10);

/// Timers stop while the host sleeps, but leases keep running. So the clock is checked at least this often.
const AUDIT: Duration = Duration::from_secs(600);

/// Keeps this host's lease.
#[derive(Debug)]
pub(crate) struct Keeper<S> {
    store: S,
    shared: Arc<Shared>,
    /// How long before its end the lease is renewed.
    margin: Duration,
    own: Option<Own>,
    /// When this host adopted the lease only because of its address.
    unproven: Option<Instant>,
    /// Slows this host down while another host writes the same lease again and again.
    contest: Backoff,
    publish_after: Option<Instant>,
}

impl<S: CompareStore> Keeper<S> {
    pub(crate) fn new(store: S, shared: Arc<Shared>, margin: Duration) -> Self {
        let (own, unproven, publish_after) = (None, None, None);
        Self { store, shared, margin, own, unproven, contest: Backoff::default(), publish_after }
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    /// The lease that this host holds, and when to check it next.
    pub(crate) fn held(&self, now: Instant) -> Option<Held> {
        let own = self.own.as_ref()?;
        Some(Held {
            subnets: own.subnets,
            reservation: own.term.id.is_none(),
            expires: own.term.end,
            moved_from: None,
            look_again: self.renewal(own).map(|left| now + left.min(AUDIT)),
            note: self.contest_note(own),
        })
    }

    /// See [`Store::published`](crate::Store::published).
    pub(crate) fn published(&self) -> Option<LeaseAttrs> {
        LeaseAttrs::parse(&self.own.as_ref()?.value).ok()
    }

    /// See [`Store::hold`](crate::Store::hold).
    pub(crate) async fn hold(&mut self, claim: &Claim<'_>) -> Result<Held, HoldError> {
        if !self.shared.is_complete() {
            return self.held(claim.now).ok_or(HoldError::Wait(Waiting::Unread));
        }
        let mut moved_from = None;
        match self.decide(claim).await {
            Decision::Keep | Decision::Ask => self.keep(claim.now).await?,
            Decision::Write { choice, standing, given_up } => {
                self.explain(standing, given_up, claim.attrs);
                if given_up {
                    self.own = None;
                }
                moved_from = self.carry_out(choice, standing.filter(|_| !given_up), claim).await?;
            }
            Decision::Lost(subnets) => return Err(HoldError::Lost(subnets)),
            Decision::Full(error) if claim.started => return Err(Trouble::Full(error).into()),
            Decision::Full(error) => return Err(HoldError::OutOfSubnets(error)),
        }
        let held = self.held(claim.now).ok_or(HoldError::Retry(Trouble::Raced))?;
        Ok(Held { moved_from, ..held })
    }

    async fn decide(&self, claim: &Claim<'_>) -> Decision {
        let recent = self.unproven.is_some_and(|since| claim.now.saturating_duration_since(since) < PROOF);
        let decide = |usurped| {
            let Claim { conf, attrs, previous, random, avoid, .. } = *claim;
            let own = self.own.as_ref();
            self.shared.with_index(|index| decide(&Facts { conf, attrs, previous, random, avoid, index, own, usurped }))
        };
        match decide(if recent { Usurped::Unknown } else { Usurped::No }) {
            Decision::Ask => decide(if self.is_altered().await { Usurped::Yes } else { Usurped::No }),
            decision => decision,
        }
    }

    /// Asks the store itself, because the index may be behind.
    async fn is_altered(&self) -> bool {
        let Some(own) = &self.own else { return false };
        matches!(self.store.renew(own.subnets, &own.value, &own.value, ttl(own.term)).await, Ok(Written::Conflict))
    }

    fn explain(&self, standing: Option<Standing>, given_up: bool, attrs: &LeaseAttrs) {
        let Some((own, standing)) = self.own.as_ref().zip(standing) else { return };
        let lease = own.subnets;
        if given_up {
            let public = attrs.public_ip.map(IpAddr::V4).or(attrs.public_ipv6.map(IpAddr::V6));
            tracing::warn!(%lease, ?public, "another host that publishes this host's address holds this lease; taking another");
            return;
        }
        match standing {
            Standing::Held => tracing::warn!(%lease, "the lease does not fit the configuration; taking another"),
            Standing::Gone => tracing::warn!(%lease, "the lease is gone from the store; taking it again"),
            Standing::Altered => tracing::warn!(%lease, "the lease has another value than this host wrote"),
        }
    }

    /// Writes the chosen lease. Returns the previous subnets if they differ.
    async fn carry_out(
        &mut self,
        choice: Choice,
        standing: Option<Standing>,
        claim: &Claim<'_>,
    ) -> Result<Option<Subnets>, Trouble> {
        let before = self.own.as_ref().map(|own| own.subnets);
        let (own, replaced) = match choice {
            Choice::Adopt { subnets } => (self.adopt(subnets, standing, claim).await?, None),
            Choice::Take { subnets } => (self.create(subnets, claim).await?, None),
            Choice::Replace { old, subnets } => {
                let own = self.create(subnets, claim).await?;
                self.delete(old).await;
                (own, Some(old))
            }
        };
        let subnets = own.subnets;
        if before != Some(subnets) {
            tracing::info!(lease = %subnets, reservation = own.term.id.is_none(), "lease acquired");
        }
        self.settle(&own).await;
        self.own = Some(own);
        let is_kept = |net: IpNetwork| subnets.iter().any(|now| now == net);
        let moved_from = replaced.filter(|old| !old.iter().all(is_kept));
        if let Some(old) = moved_from {
            tracing::warn!(%old, new = %subnets, "this host has another subnet now; its pods must be made anew");
        }
        Ok(moved_from)
    }

    async fn adopt(&mut self, subnets: Subnets, standing: Option<Standing>, claim: &Claim<'_>) -> Result<Own, Trouble> {
        let Raw { value, term } = self.read_known(subnets).await?.ok_or(Trouble::Raced)?;
        match standing {
            Some(Standing::Altered) => self.contested(subnets, claim.now),
            Some(_) => {}
            None => {
                // A host that has just started, and that neither subnet.env nor the value identifies as the owner.
                let proven = claim.previous == subnets || value == claim.attrs.to_json().into_bytes();
                self.unproven = (!proven).then_some(claim.now);
            }
        }
        // The old value stays until the kernel is ready for the new one.
        let term = done(self.store.renew(subnets, &value, &value, ttl(term)).await?)?;
        Ok(Own { subnets, value, term, renewed: claim.now })
    }

    /// Reads a lease, provided that it is still the one that the decision was based on.
    async fn read_known(&self, subnets: Subnets) -> Result<Option<Raw>, StoreError> {
        let known = self.shared.entry(&subnets).map(|entry| entry.mark);
        Ok(self.store.read(subnets).await?.filter(|raw| known == Some(Mark::of(&raw.value))))
    }

    async fn create(&self, subnets: Subnets, claim: &Claim<'_>) -> Result<Own, Trouble> {
        let value = claim.attrs.to_json().into_bytes();
        let term = done(self.store.create(subnets, &value, Some(TTL)).await?)?;
        Ok(Own { subnets, value, term, renewed: claim.now })
    }

    /// Deletes the lease that a new one replaces. If this fails, the lease expires.
    async fn delete(&self, old: Subnets) {
        let deleted = match self.read_known(old).await {
            Ok(Some(raw)) => self.store.delete(old, &raw.value).await.map(drop),
            other => other.map(drop),
        };
        if let Err(error) = deleted {
            tracing::warn!(%error, lease = %old, "the previous lease could not be deleted; it expires within a day");
        }
    }

    /// Another host wrote this host's lease. If it does so repeatedly, this host backs off, so that the two do not
    /// race.
    fn contested(&mut self, subnets: Subnets, now: Instant) {
        let wait = self.contest.next();
        tracing::warn!(
            lease = %subnets,
            retry_ms = wait.as_millis() as u64,
            "another host writes this host's lease: does it publish the same address?"
        );
        self.publish_after = Some(now + wait);
    }

    fn contest_note(&self, own: &Own) -> Option<String> {
        self.publish_after?;
        let attrs = own.published()?;
        let public = [attrs.public_ip.map(IpAddr::V4), attrs.public_ipv6.map(IpAddr::V6)];
        let public: Vec<String> = public.iter().flatten().map(IpAddr::to_string).collect();
        Some(format!(
            "another host writes this host's lease {}: does it publish the same address ({})?",
            own.subnets,
            public.join(", ")
        ))
    }

    /// How long until the lease must be renewed; `None` for a reservation.
    fn renewal(&self, own: &Own) -> Option<Duration> {
        own.term.id?;
        let rest = RENEWALS.saturating_sub(own.renewed.elapsed());
        let left = own.term.end.map_or(Duration::ZERO, |end| end.before(self.margin).left(Moment::now()));
        Some(left.max(rest))
    }

    /// Renews the lease when it is due.
    async fn keep(&mut self, now: Instant) -> Result<(), Trouble> {
        if self.publish_after.take_if(|after| now.saturating_duration_since(*after) > PEACE).is_some() {
            self.contest.reset();
        }
        let Some(mut own) = self.own.clone() else { return Ok(()) };
        if let Some(seen) = self.shared.entry(&own.subnets).filter(|seen| seen.term != own.term.id) {
            // A person made the lease a reservation or a reservation a lease, or changed when it ends.
            own.term = Term { id: seen.term, end: None };
        }
        if self.renewal(&own).is_some_and(|left| left.is_zero()) {
            let renewed = self.store.renew(own.subnets, &own.value, &own.value, ttl(own.term)).await;
            own.term = done(renewed?)?;
            own.renewed = now;
            tracing::debug!(lease = %own.subnets, "lease renewed");
            self.settle(&own).await;
        }
        self.own = Some(own);
        Ok(())
    }

    /// See [`Store::publish`](crate::Store::publish).
    pub(crate) async fn publish(&mut self, attrs: &LeaseAttrs) -> Result<Published, StoreError> {
        let Some(own) = &self.own else { return Ok(Published::Unchanged) };
        let value = attrs.to_json().into_bytes();
        if value == own.value {
            return Ok(Published::Unchanged);
        }
        let now = Instant::now();
        if let Some(after) = self.publish_after.filter(|after| *after > now) {
            return Ok(Published::After(after));
        }
        let term = match self.store.renew(own.subnets, &own.value, &value, ttl(own.term)).await? {
            Written::Done(term) => term,
            Written::Conflict => return Err(StoreError::Contested(own.subnets)),
        };
        let own = Own { subnets: own.subnets, value, term, renewed: now };
        tracing::info!(lease = %own.subnets, backend = attrs.backend_type, "lease published");
        self.settle(&own).await;
        self.own = Some(own);
        Ok(Published::Written)
    }

    /// Waits until the index shows this host's write, so that the write is not mistaken for another host's.
    async fn settle(&self, own: &Own) {
        let mark = Mark::of(&own.value);
        let shown = self
            .shared
            .shows(&own.subnets, |entry| entry.is_some_and(|entry| entry.mark == mark && entry.term == own.term.id));
        if tokio::time::timeout(SETTLE, shown).await.is_err() {
            tracing::debug!(lease = %own.subnets, "the store does not show this host's write yet");
        }
    }
}

/// The lifetime to write: none for a reservation, which stays one.
fn ttl(term: Term) -> Option<Duration> {
    term.id.map(|_| TTL)
}

fn done(written: Written) -> Result<Term, Trouble> {
    match written {
        Written::Done(term) => Ok(term),
        Written::Conflict => Err(Trouble::Raced),
    }
}
