//! Writes to etcd, each with the condition under which it is correct. No write overwrites another writer's value.

use std::time::Duration;

use overlay::lease::Subnets;

use super::Etcd;
use super::error::EtcdError;
use super::pb::{self, Compare, CompareResult, CompareTarget, CompareWith, KeyValue, Request, RequestOp, Response};
use crate::clock::Moment;
use crate::compare::{CompareStore, Raw, Term, Written};
use crate::error::StoreError;
use crate::halves::{self, Halves};

impl CompareStore for Etcd {
    async fn read(&self, key: Subnets) -> Result<Option<Raw>, StoreError> {
        let now = self.get(self.key(key)).await?;
        Ok(now.map(|kv| Raw { value: kv.value, term: Term { id: id(kv.lease), end: None } }))
    }

    /// Writes a lease under a free key, unless another host holds one of its halves. Two hosts that choose at the
    /// same time may pick the same subnet in one family and different ones in the other; the one that etcd writes
    /// first gets it.
    async fn create(&self, key: Subnets, value: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        let name = self.key(key);
        self.settle_doubts().await;
        let (lease, term) = self.grant(ttl).await?;
        let put = pb::PutRequest { key: name.clone(), value: value.into(), lease };
        let absent = compare(&name, CompareTarget::Version, CompareWith::Version(0));
        let halves = self.where_halves_are(key);
        let answer = self.txn(absent, [Request::Put(put), Request::Range(halves)], lease).await?;
        if !answer.succeeded {
            self.release(lease).await;
            return Ok(Written::Conflict);
        }
        if self.is_half_taken(key, value, answer).await? {
            tracing::debug!(lease = %key, "another host holds a half of the lease");
            self.delete(key, value).await?;
            return Ok(Written::Conflict);
        }
        Ok(Written::Done(term))
    }

    /// Replaces the value `old`. An unchanged lease is renewed without a write, because a write would wake all other
    /// hosts.
    async fn renew(&self, key: Subnets, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        let name = self.key(key);
        self.settle_doubts().await;
        let Some(now) = self.get(name.clone()).await?.filter(|kv| kv.value == old) else {
            return Ok(Written::Conflict);
        };
        let (lease, term) = self.live_lease(now.lease, ttl).await?;
        if lease == now.lease && new == old {
            return Ok(Written::Done(term));
        }
        let put = pb::PutRequest { key: name.clone(), value: new.into(), lease };
        let same = compare(&name, CompareTarget::Value, CompareWith::Value(old.into()));
        let answer = self.txn(same, [Request::Put(put)], lease).await.inspect_err(|_| self.ends.doubt(now.lease))?;
        // The etcd lease that has no key attached now.
        let idle = if answer.succeeded { now.lease } else { lease };
        if lease != now.lease {
            self.release(idle).await;
        }
        Ok(if answer.succeeded { Written::Done(term) } else { Written::Conflict })
    }

    async fn delete(&self, key: Subnets, old: &[u8]) -> Result<Written, StoreError> {
        let name = self.key(key);
        let read = pb::RangeRequest { key: name.clone(), ..pb::RangeRequest::default() };
        let delete = pb::DeleteRangeRequest { key: name.clone(), range_end: Vec::new() };
        let same = compare(&name, CompareTarget::Value, CompareWith::Value(old.into()));
        let answer = self.txn(same, [Request::Range(read), Request::DeleteRange(delete)], 0).await?;
        if !answer.succeeded {
            return Ok(Written::Conflict);
        }
        let lease = ranges(answer).next().map_or(0, |kv| kv.lease);
        self.release(lease).await;
        Ok(Written::Done(Term::default()))
    }
}

impl Etcd {
    fn key(&self, subnets: Subnets) -> Vec<u8> {
        self.keys.lease(&subnets.to_string())
    }

    async fn get(&self, key: Vec<u8>) -> Result<Option<KeyValue>, EtcdError> {
        let answer = self.client.range(pb::RangeRequest { key, ..pb::RangeRequest::default() }).await?;
        Ok(answer.kvs.into_iter().next())
    }

    /// The range of keys that may share a half with `key`, without their values. Keys start with the IPv4 half, but
    /// an IPv6 half may be in any key.
    fn where_halves_are(&self, key: Subnets) -> pb::RangeRequest {
        let halves = Halves::of(key);
        let v4 = halves.v4().filter(|_| key.v6.is_none()).map(|half| {
            let first = self.keys.lease(half);
            let after = [&first[..], b"'"].concat();
            (first, after)
        });
        let (key, range_end) = v4.unwrap_or_else(|| self.keys.leases());
        pb::RangeRequest { key, range_end, keys_only: true, ..pb::RangeRequest::default() }
    }

    async fn is_half_taken(&self, key: Subnets, value: &[u8], answer: pb::TxnResponse) -> Result<bool, EtcdError> {
        let (halves, own, (folder, _)) = (Halves::of(key), self.key(key), self.keys.leases());
        let shares = |name: &[u8]| {
            let name = name.strip_prefix(&folder[..]).and_then(|name| std::str::from_utf8(name).ok());
            name.is_some_and(|name| halves.are_in(name))
        };
        for theirs in ranges(answer).map(|kv| kv.key).filter(|name| *name != own && shares(name)) {
            if self.get(theirs).await?.is_some_and(|kv| halves::is_of_another(key, value, &kv.value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An etcd lease that lives for `ttl` from now: the lease `id` if it can, else a new one.
    async fn live_lease(&self, id: i64, ttl: Option<Duration>) -> Result<(i64, Term), StoreError> {
        let Some(wanted) = ttl.filter(|_| id != 0) else { return self.grant(ttl).await };
        let asked = Moment::now();
        let seconds = self.client.keep_alive(id).await?;
        if seconds < seconds_of(wanted) {
            tracing::debug!(lease = id, seconds, "the etcd lease is too short; making another");
            return self.grant(ttl).await;
        }
        Ok((id, lasting(id, asked, seconds)))
    }

    /// Creates an etcd lease. Returns 0, which means none, for a lease without an end.
    async fn grant(&self, ttl: Option<Duration>) -> Result<(i64, Term), StoreError> {
        let Some(ttl) = ttl else { return Ok((0, Term::default())) };
        let asked = Moment::now();
        let granted = self.client.grant(seconds_of(ttl)).await?;
        self.ends.granted(granted.id);
        Ok((granted.id, lasting(granted.id, asked, granted.ttl)))
    }

    /// Runs a transaction. `lease` is the etcd lease that it attaches: after an error it is unknown whether it did.
    async fn txn(
        &self,
        compare: Compare,
        success: impl IntoIterator<Item = Request>,
        lease: i64,
    ) -> Result<pb::TxnResponse, EtcdError> {
        let success = success.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
        let ask = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        self.client.txn(ask).await.inspect_err(|_| self.ends.doubt(lease))
    }

    /// Ends an etcd lease that no key of ours is attached to, if this process created it.
    async fn release(&self, lease: i64) {
        if lease != 0
            && self.ends.released(lease)
            && let Err(error) = self.client.revoke(lease).await
        {
            tracing::debug!(%error, lease, "cannot revoke an unused etcd lease; it expires");
        }
    }

    /// Ends the etcd leases of failed writes, unless those writes were done after all.
    async fn settle_doubts(&self) {
        for lease in self.ends.doubtful() {
            match self.client.time_to_live(lease).await {
                Ok(answer) if answer.ttl > 0 && !answer.keys.is_empty() => self.ends.attached(lease),
                Ok(_) => self.release(lease).await,
                // The next write fails with the reason.
                Err(_) => return,
            }
        }
    }
}

fn ranges(answer: pb::TxnResponse) -> impl Iterator<Item = pb::KeyValue> {
    answer.responses.into_iter().flat_map(|op| match op.response {
        Some(Response::Range(range)) => range.kvs,
        _ => Vec::new(),
    })
}

fn compare(key: &[u8], target: CompareTarget, with: CompareWith) -> Compare {
    Compare { result: CompareResult::Equal.into(), target: target.into(), key: key.into(), with: Some(with) }
}

fn seconds_of(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)
}

/// The term of an etcd lease that was requested at `asked`. etcd starts to count later, so this end is not too late.
fn lasting(lease: i64, asked: Moment, seconds: i64) -> Term {
    Term { id: id(lease), end: Some(asked.after(Duration::from_secs(seconds.try_into().unwrap_or_default()))) }
}

fn id(lease: i64) -> Option<u64> {
    (lease != 0).then(|| lease.cast_unsigned())
}
