//! Having a lease and keeping it.
//!
//! Upstream stops with success when its lease is gone, and waits for a supervisor that restarts it even so. Here a lease
//! that is gone is taken again; only when another host has the subnet by now the daemon stops, with an error.

use std::net::IpAddr;
use std::time::Duration;

use kernel::types::Family;
use overlay::allocate::{self, Choice};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use tokio::time::Instant;

use super::{AUDIT, Daemon, DaemonError, Due, Own, make};
use crate::clock::Moment;
use crate::store::{Outcome, View};

/// A lease's life, as upstream's.
const TTL: Duration = Duration::from_secs(86_400);

/// How long the store's view may take to show what was written.
const SETTLE: Duration = Duration::from_secs(2);

/// Between two renewals; the view need not show the new time at once.
const RENEWALS: Duration = Duration::from_secs(5);

/// After this long without another's write of our lease it was no contest.
const PEACE: Duration = Duration::from_secs(120);

/// How long a lease that was taken for its address alone may turn out to be another host's: that one writes it again at
/// once.
const PROOF: Duration = Duration::from_secs(10);

/// Why there is no lease yet.
pub(super) enum NoLease {
    /// It must not be gone on.
    Stop(DaemonError),
    /// It can be tried again.
    Later(String),
}

impl Own {
    fn ttl(&self) -> Option<Duration> {
        (!self.reservation).then_some(TTL)
    }
}

/// How the lease stands that this host believes to have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As it was written.
    Held,
    /// There, with another value.
    Altered,
    /// Not there.
    Gone,
}

pub(super) fn standing(own: &Own, view: &View) -> Standing {
    match view.leases.get(&own.key) {
        Some(value) if value[..] == own.value[..] => Standing::Held,
        Some(_) => Standing::Altered,
        None => Standing::Gone,
    }
}

/// When the lease must be renewed; `None` for a reservation. One whose end is not known is renewed at once, and then it is.
pub(super) fn renewal(own: &Own, view: &View, margin: Duration) -> Option<Moment> {
    let end = view.expires.get(&own.key).filter(|_| !own.reservation)?;
    Some(end.map_or(Moment::default(), |end| end.before(margin)))
}

/// True when `subnets` have exactly the families that the configuration has, and lie where it leases.
pub(super) fn fits(conf: &NetConf, subnets: &Subnets) -> bool {
    let families = conf.families().count() == subnets.iter().count();
    families
        && conf.families().all(|(family, of_family)| {
            let range = of_family.allocation;
            subnets
                .get(family)
                .is_some_and(|net| net.prefix() == range.len && (range.min..=range.max).contains(&net.network()))
        })
}

impl Daemon {
    /// Sees to it that this host has a lease that `conf` allows. `attrs` is what it is about to publish.
    pub(super) async fn ensure_lease(
        &mut self,
        conf: &NetConf,
        attrs: &LeaseAttrs,
        due: &mut Due,
    ) -> Result<(), NoLease> {
        let view = self.view.borrow().clone();
        if !view.complete {
            return if self.own.is_some() { Ok(()) } else { Err(NoLease::Later("the store cannot be read".into())) };
        }
        let usurped = self.is_usurped(&view).await;
        let (identity, previous) = match &self.own {
            Some(own) => match standing(own, &view) {
                Standing::Held if fits(conf, &own.subnets) => return self.keep(&view, due).await,
                Standing::Altered if usurped => {
                    tracing::warn!(
                        key = own.key,
                        public = ?attrs.public_ip.map(IpAddr::V4).or(attrs.public_ipv6.map(IpAddr::V6)),
                        "another host that publishes this host's address holds this lease; taking another subnet"
                    );
                    self.own = None;
                    (LeaseAttrs::default(), Subnets::default())
                }
                standing => {
                    tracing::warn!(key = own.key, ?standing, "the lease is not as it was written, or does not fit");
                    // the addresses may have changed since: the lease is known by those that were published
                    (LeaseAttrs::parse(&own.value).unwrap_or_else(|_| attrs.clone()), own.subnets)
                }
            },
            None => (attrs.clone(), self.previous().subnets),
        };
        let leases = make::stored(&view);
        let inputs = allocate::Inputs { conf, leases: &leases, own: &identity, previous, random: random() };
        let choice = match allocate::choose(&inputs) {
            Ok(choice) => choice,
            Err(error) if self.started() => return Err(NoLease::Later(error.to_string())),
            Err(error) => return Err(NoLease::Stop(error.into())),
        };
        self.check_revoked(conf, &choice)?;
        self.carry_out(choice, &view, attrs).await
    }

    /// True when the lease was taken for its address alone, and the host that it is of wrote it again. The view may be
    /// behind; the store is not.
    async fn is_usurped(&self, view: &View) -> bool {
        let recent = self.unproven.is_some_and(|since| since.elapsed() < PROOF);
        let altered = self.own.as_ref().filter(|own| recent && standing(own, view) == Standing::Altered);
        let Some(own) = altered else { return false };
        matches!(self.store.renew(&own.key, &own.value, &own.value, own.ttl()).await, Ok(Outcome::Conflict))
    }

    /// The subnet that pods here have addresses of must not silently become another.
    fn check_revoked(&self, conf: &NetConf, choice: &Choice) -> Result<(), NoLease> {
        match &self.own {
            Some(own) if fits(conf, &own.subnets) && choice.subnets() != own.subnets => {
                Err(NoLease::Stop(DaemonError::Revoked(own.subnets.to_string())))
            }
            _ => Ok(()),
        }
    }

    async fn carry_out(&mut self, choice: Choice, view: &View, attrs: &LeaseAttrs) -> Result<(), NoLease> {
        let subnets = choice.subnets();
        let own = match choice {
            Choice::Adopt { key, .. } => {
                let value = view.leases.get(&key).map(|value| value.to_vec()).unwrap_or_default();
                let own =
                    Own { reservation: !view.expires.contains_key(&key), key, subnets, value, renewed: Instant::now() };
                if self.own.is_some() {
                    self.contested(&own);
                } else {
                    // a host that has just started, and of which neither subnet.env nor a device says that it was here
                    let known = self.previous().subnets == subnets || own.value == attrs.to_json().into_bytes();
                    self.unproven = (!known).then(Instant::now);
                }
                // its value stays until the kernel is ready for another
                written(self.store.renew(&own.key, &own.value, &own.value, own.ttl()).await)?;
                own
            }
            Choice::Take { .. } => self.create(subnets, attrs).await?,
            Choice::Replace { old, .. } => {
                let own = self.create(subnets, attrs).await?;
                let value = view.leases.get(&old).map(|value| value.to_vec()).unwrap_or_default();
                if let Err(error) = self.store.delete(&old, &value).await {
                    tracing::warn!(%error, key = old, "the lease before cannot be deleted");
                }
                let before: Subnets = old.parse().unwrap_or_default();
                if before.iter().any(|net| !subnets.iter().any(|now| now == net)) {
                    tracing::warn!(old, new = own.key, "this host has another subnet now; its pods must be made anew");
                }
                own
            }
        };
        if self.own.as_ref().map(|o| &o.key) != Some(&own.key) {
            tracing::info!(lease = own.key, reservation = own.reservation, "lease acquired");
        }
        self.settle(&own).await;
        self.own = Some(own);
        Ok(())
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Own, NoLease> {
        let value = attrs.to_json().into_bytes();
        let own = Own { key: subnets.to_string(), subnets, value, reservation: false, renewed: Instant::now() };
        written(self.store.create(&own.key, &own.value, own.ttl()).await)?;
        Ok(own)
    }

    /// Somebody else wrote this host's lease. If that goes on, it must not be a race.
    fn contested(&mut self, own: &Own) {
        let wait = self.contest.next();
        tracing::warn!(
            key = own.key,
            retry_ms = wait.as_millis() as u64,
            "somebody else writes this host's lease: does another host publish the same address?"
        );
        self.publish_after = Some(Instant::now() + wait);
    }

    /// What a person should know of that for as long as it may go on.
    pub(super) fn contest_note(&self) -> Option<String> {
        let own = self.own.as_ref().filter(|_| self.publish_after.is_some())?;
        let public = LeaseAttrs::parse(&own.value).ok()?;
        let public: Vec<_> = Family::ALL.iter().filter_map(|family| public.public(*family)).collect();
        Some(format!(
            "somebody else writes this host's lease {}: does another host publish the same address ({})?",
            own.key,
            public.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
        ))
    }

    /// Renews the lease when it is time to.
    async fn keep(&mut self, view: &View, due: &mut Due) -> Result<(), NoLease> {
        if self.publish_after.take_if(|after| after.elapsed() > PEACE).is_some() {
            self.contest.reset();
        }
        let (Some(own), margin) = (&mut self.own, self.options.renew_margin) else { return Ok(()) };
        // somebody may have made one of it since, or a lease of a reservation
        own.reservation = !view.expires.contains_key(&own.key);
        let Some(time) = renewal(own, view, margin) else { return Ok(()) };
        match time.left(Moment::now()) {
            // a timer stands still while the host sleeps; the audit after ten minutes looks at the clock again
            left if !left.is_zero() => due.by(Instant::now() + left.min(AUDIT)),
            _ if own.renewed.elapsed() < RENEWALS => due.by(own.renewed + RENEWALS),
            _ => {
                written(self.store.renew(&own.key, &own.value, &own.value, own.ttl()).await)?;
                own.renewed = Instant::now();
                due.by(own.renewed + RENEWALS);
                tracing::debug!(lease = own.key, "lease renewed");
            }
        }
        Ok(())
    }

    /// Publishes what changed, now that the kernel is ready for what the peers will do.
    pub(super) async fn publish(&mut self, attrs: &LeaseAttrs, due: &mut Due) -> Result<(), String> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let value = attrs.to_json().into_bytes();
        if value == own.value {
            return Ok(());
        }
        if let Some(after) = self.publish_after.filter(|after| *after > Instant::now()) {
            due.by(after);
            return Ok(());
        }
        match self.store.renew(&own.key, &own.value, &value, own.ttl()).await {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Conflict) => return Err(format!("{}: somebody else wrote this host's lease", own.key)),
            Err(error) => return Err(error.to_string()),
        }
        own.value = value;
        own.renewed = Instant::now();
        tracing::info!(lease = own.key, backend = attrs.backend_type, "lease published");
        let own = own.clone();
        self.settle(&own).await;
        Ok(())
    }

    /// Waits until the view shows what was written, so that the next pass does not take its own write for another's.
    async fn settle(&self, own: &Own) {
        let mut view = self.view.clone();
        let shown = view.wait_for(|view| standing(own, view) == Standing::Held);
        let _ = tokio::time::timeout(SETTLE, shown).await;
    }
}

fn written(outcome: Result<Outcome, crate::store::StoreError>) -> Result<(), NoLease> {
    match outcome {
        Ok(Outcome::Done) => Ok(()),
        Ok(Outcome::Conflict) => Err(NoLease::Later("another host was faster to write this lease".into())),
        Err(error) => Err(NoLease::Later(error.to_string())),
    }
}

/// From the kernel; none of it is a secret.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    // a machine without entropy yet: two hosts that draw alike find out at the creation of the key
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}
