//! Writes, each with the condition under which it is right. Nothing is written over what somebody else wrote.

use std::time::Duration;

use super::super::halves::is_half_of_another;
use super::super::{Outcome, StoreError};
use super::Etcd;
use super::error::EtcdError;
use super::pb::{self, Compare, CompareResult, CompareTarget, CompareWith, Request, RequestOp, Response};
use crate::clock::Moment;

impl Etcd {
    /// Writes a lease under a key that is not there, and of which no other host holds a half: two hosts that chose at once
    /// may agree in one family and not in the other. The one that etcd wrote first has it.
    pub(in super::super) async fn create(
        &self,
        name: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        let key = self.key(name)?;
        self.settle_doubts().await;
        let lease = self.grant(ttl).await?;
        let (first, after) = self.keys.leases();
        let put = pb::PutRequest { key: key.clone(), value: value.into(), lease };
        let all = pb::RangeRequest { key: first, range_end: after, revision: 0 };
        let absent = compare(&key, CompareTarget::Version, CompareWith::Version(0));
        let answer = self.txn(absent, [Request::Put(put), Request::Range(all)], lease).await?;
        if !answer.succeeded {
            self.release(lease).await;
            return Ok(Outcome::Conflict);
        }
        if self.others(answer, &key).any(|(theirs, kv)| is_half_of_another(name, value, &theirs, || kv)) {
            tracing::debug!(key = name, "another host holds a half of it");
            self.delete(name, value).await?;
            return Ok(Outcome::Conflict);
        }
        Ok(Outcome::Done)
    }

    /// Replaces the value `old`. An unchanged lease is renewed without a write, which would wake every other host.
    pub(in super::super) async fn renew(
        &self,
        name: &str,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        let key = self.key(name)?;
        self.settle_doubts().await;
        let ask = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let answer = self.client.range(ask).await?;
        let Some(now) = answer.kvs.first().filter(|kv| kv.value == old) else { return Ok(Outcome::Conflict) };
        let lease = self.live_lease(now.lease, ttl).await?;
        if lease == now.lease && new == old {
            return Ok(Outcome::Done);
        }
        let put = pb::PutRequest { key: key.clone(), value: new.into(), lease };
        let same = compare(&key, CompareTarget::Value, CompareWith::Value(old.into()));
        let answer = self.txn(same, [Request::Put(put)], lease).await.inspect_err(|_| self.ends.doubt(now.lease))?;
        // what is not attached any more, or never was
        let idle = if answer.succeeded { now.lease } else { lease };
        if lease != now.lease {
            self.release(idle).await;
        }
        Ok(if answer.succeeded { Outcome::Done } else { Outcome::Conflict })
    }

    /// Removes the lease if its value is `old`.
    pub(in super::super) async fn delete(&self, name: &str, old: &[u8]) -> Result<Outcome, StoreError> {
        let key = self.key(name)?;
        let read = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let delete = pb::DeleteRangeRequest { key: key.clone(), range_end: Vec::new() };
        let same = compare(&key, CompareTarget::Value, CompareWith::Value(old.into()));
        let answer = self.txn(same, [Request::Range(read), Request::DeleteRange(delete)], 0).await?;
        if !answer.succeeded {
            return Ok(Outcome::Conflict);
        }
        let lease = ranges(answer).next().map_or(0, |kv| kv.lease);
        self.release(lease).await;
        Ok(Outcome::Done)
    }

    /// An etcd lease that lives for `ttl` from now: `id` if it can, else a new one.
    async fn live_lease(&self, id: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
        let Some(wanted) = ttl.filter(|_| id != 0) else { return self.grant(ttl).await };
        let asked = Moment::now();
        let seconds = self.client.keep_alive(id).await?;
        if seconds < seconds_of(wanted) {
            tracing::debug!(lease = id, seconds, "the etcd lease is too short; making another");
            return self.grant(ttl).await;
        }
        self.ends.renewed(id, end(asked, seconds));
        Ok(id)
    }

    /// A new etcd lease; 0, which is none, for what does not end.
    async fn grant(&self, ttl: Option<Duration>) -> Result<i64, StoreError> {
        let Some(ttl) = ttl else { return Ok(0) };
        let asked = Moment::now();
        let granted = self.client.grant(seconds_of(ttl)).await?;
        self.ends.granted(granted.id, end(asked, granted.ttl));
        Ok(granted.id)
    }

    /// `lease` is what the transaction would attach: after an error nobody knows whether it did.
    async fn txn<const N: usize>(
        &self,
        compare: Compare,
        success: [Request; N],
        lease: i64,
    ) -> Result<pb::TxnResponse, EtcdError> {
        let success = success.map(|request| RequestOp { request: Some(request) }).into();
        let ask = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        self.client.txn(ask).await.inspect_err(|_| self.ends.doubt(lease))
    }

    /// No key of ours is attached to it any more. If this process made it, it is ended.
    async fn release(&self, lease: i64) {
        if lease != 0
            && self.ends.released(lease)
            && let Err(error) = self.client.revoke(lease).await
        {
            tracing::debug!(%error, lease, "an etcd lease that nothing is attached to stays until it ends");
        }
    }

    /// Ends the leases of failed writes, unless they were done after all.
    async fn settle_doubts(&self) {
        for lease in self.ends.doubtful() {
            match self.client.time_to_live(lease).await {
                Ok(answer) if answer.ttl > 0 && !answer.keys.is_empty() => self.ends.trust(lease),
                Ok(_) => self.release(lease).await,
                // the write that comes will tell what is wrong
                Err(_) => return,
            }
        }
    }

    /// The leases of an answer but that at `key`.
    fn others(&self, answer: pb::TxnResponse, key: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
        let (first, _) = self.keys.leases();
        ranges(answer).filter(move |kv| kv.key != key).filter_map(move |kv| {
            let name = String::from_utf8(kv.key.strip_prefix(&first[..])?.to_vec()).ok()?;
            Some((name, kv.value))
        })
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

/// etcd counts from later than it was asked.
fn end(asked: Moment, seconds: i64) -> Moment {
    asked.after(Duration::from_secs(seconds.try_into().unwrap_or_default()))
}
