//! The connection to etcd: to the first member that accepts it, and to the next member when that one fails.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::PoisonError;

use tokio::sync::Mutex;
use tonic::{Status, Streaming};

use super::error::{EtcdError, Verdict, verdict};
use super::link::{Link, Method};
use super::options::{Address, Options};
use super::pb;

const RANGE: Method = Method { op: "read the leases", path: "/etcdserverpb.KV/Range" };
const TXN: Method = Method { op: "write the lease", path: "/etcdserverpb.KV/Txn" };
const GRANT: Method = Method { op: "grant a lease", path: "/etcdserverpb.Lease/LeaseGrant" };
const REVOKE: Method = Method { op: "revoke a lease", path: "/etcdserverpb.Lease/LeaseRevoke" };
const KEEP_ALIVE: Method = Method { op: "renew the lease", path: "/etcdserverpb.Lease/LeaseKeepAlive" };
const TIME_TO_LIVE: Method = Method { op: "read a lease's end", path: "/etcdserverpb.Lease/LeaseTimeToLive" };
const WATCH: Method = Method { op: "watch the leases", path: "/etcdserverpb.Watch/Watch" };

/// A client that talks to one member at a time.
#[derive(Debug)]
pub struct Client {
    options: Options,
    state: Mutex<State>,
    /// The members' addresses, as last resolved.
    addresses: std::sync::Mutex<Vec<BTreeSet<IpAddr>>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    /// The index of the endpoint to try first …
    next: usize,
    /// … and the number of the next connection.
    number: u64,
}

impl Client {
    /// Connects at the first call.
    pub fn new(options: Options) -> Self {
        let literal = |address: &Address| address.ip().into_iter().collect();
        let addresses = options.endpoints.iter().map(literal).collect();
        Self { options, state: Mutex::default(), addresses: std::sync::Mutex::new(addresses) }
    }

    /// The addresses of all members that have been resolved.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Resolves the members' names. A name that cannot be resolved now keeps its previous addresses.
    pub(super) async fn resolve(&self) {
        for (index, address) in self.options.endpoints.iter().enumerate().filter(|(_, address)| address.ip().is_none())
        {
            let found =
                tokio::time::timeout(self.options.timing.connect, tokio::net::lookup_host(&address.authority)).await;
            let Ok(Ok(found)) = found else { continue };
            let found = found.map(|socket| socket.ip()).collect();
            let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = known.get_mut(index) {
                *slot = found;
            }
        }
    }

    /// All endpoints, as text.
    pub fn endpoints(&self) -> String {
        self.options.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Reads keys.
    pub async fn range(&self, ask: pb::RangeRequest) -> Result<pb::RangeResponse, EtcdError> {
        self.repeat(RANGE, ask).await
    }

    /// Runs a transaction. After an error it may or may not have been done.
    pub async fn txn(&self, ask: pb::TxnRequest) -> Result<pb::TxnResponse, EtcdError> {
        self.once(TXN, ask).await
    }

    /// Creates an etcd lease of `ttl` seconds.
    pub async fn grant(&self, ttl: i64) -> Result<pb::LeaseGrantResponse, EtcdError> {
        // If the call is repeated, the lease that nobody knows about expires by itself.
        self.repeat(GRANT, pb::LeaseGrantRequest { ttl, id: 0 }).await
    }

    /// Ends an etcd lease. A lease that is already gone is not an error.
    pub async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        match self.repeat::<_, pb::LeaseRevokeResponse>(REVOKE, pb::LeaseRevokeRequest { id }).await {
            Err(EtcdError::Call { status, .. }) if status.code() == tonic::Code::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Reads how long an etcd lease still lives, and which keys are attached to it.
    pub async fn time_to_live(&self, id: i64) -> Result<pb::LeaseTimeToLiveResponse, EtcdError> {
        self.repeat(TIME_TO_LIVE, pb::LeaseTimeToLiveRequest { id, keys: true }).await
    }

    /// Renews an etcd lease. Returns its new lifetime in seconds, 0 when there is no such lease.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, EtcdError> {
        let ask = pb::LeaseKeepAliveRequest { id };
        let call = move |link: Link| async move { link.first::<_, pb::LeaseKeepAliveResponse>(KEEP_ALIVE, ask).await };
        Ok(self.tries(KEEP_ALIVE, self.options.endpoints.len() + 1, call).await?.ttl)
    }

    /// Starts a watch. The watch has ended when the stream ends, or when [`Link::left`] is notified.
    pub(super) async fn watch(
        &self,
        create: pb::WatchCreateRequest,
    ) -> Result<(Link, Streaming<pb::WatchResponse>), EtcdError> {
        let ask = pb::WatchRequest { ask: Some(pb::WatchAsk::Create(create)) };
        let call = |link: Link| {
            let ask = ask.clone();
            async move { Ok((link.clone(), link.stream(WATCH, ask).await?)) }
        };
        self.tries(WATCH, 1, call).await
    }

    async fn once<Q, A>(&self, method: Method, ask: Q) -> Result<A, EtcdError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.ask(method, 1, ask).await
    }

    /// Makes a call that may be made twice: asks each member after the one before it has failed, and at last the
    /// first one again, because the failed connection may be from before that member's restart.
    async fn repeat<Q, A>(&self, method: Method, ask: Q) -> Result<A, EtcdError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.ask(method, self.options.endpoints.len() + 1, ask).await
    }

    async fn ask<Q, A>(&self, method: Method, tries: usize, ask: Q) -> Result<A, EtcdError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = |link: Link| {
            let ask = ask.clone();
            async move { link.unary(method, ask).await }
        };
        self.tries(method, tries, call).await
    }

    async fn tries<A, F: Future<Output = Result<A, Status>> + Send>(
        &self,
        method: Method,
        mut tries: usize,
        call: impl Fn(Link) -> F,
    ) -> Result<A, EtcdError> {
        let mut logged_in = false;
        loop {
            let link = self.link().await?;
            let status = match call(link.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match verdict(&status) {
                // Nothing has been done, so the call can be repeated.
                Verdict::Login if !logged_in && self.options.login.is_some() => {
                    logged_in = true;
                    tracing::debug!(endpoint = %link.endpoint, %status, "logging in again");
                    self.log_in_anew(&link).await;
                    continue;
                }
                Verdict::Leave => {
                    self.leave(&link).await;
                    tries -= 1;
                    if tries > 0 {
                        tracing::debug!(endpoint = %link.endpoint, op = method.op, %status, "trying the next endpoint");
                        continue;
                    }
                }
                _ => {}
            }
            return Err(EtcdError::Call {
                endpoint: link.endpoint.to_string(),
                op: method.op,
                status: Box::new(status),
            });
        }
    }

    /// The open connection, or a new one to the first endpoint, starting at `next`, that accepts it.
    async fn link(&self) -> Result<Link, EtcdError> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            return Ok(link.clone());
        }
        let count = self.options.endpoints.len();
        let mut errors = Vec::new();
        let first = state.next;
        for index in (0..count).map(|n| (first + n) % count) {
            state.number += 1;
            match Link::open(&self.options, index, state.number).await {
                Ok(link) => {
                    tracing::debug!(endpoint = %link.endpoint, "connected to etcd");
                    state.next = index;
                    state.link = Some(link.clone());
                    return Ok(link);
                }
                Err(error) => errors.push((self.options.endpoints[index].to_string(), error)),
            }
        }
        Err(EtcdError::Unreachable(errors))
    }

    /// Drops a connection that failed, unless another has replaced it.
    pub(super) async fn leave(&self, link: &Link) {
        link.left.notify_one();
        let mut state = self.state.lock().await;
        if state.link.take_if(|open| open.number == link.number).is_some() {
            state.next = (link.index + 1) % self.options.endpoints.len();
        }
    }

    async fn log_in_anew(&self, old: &Link) {
        let mut state = self.state.lock().await;
        let Some(open) = state.link.as_mut().filter(|open| open.number == old.number && open.token == old.token) else {
            return;
        };
        if let Err(error) = open.log_in(&self.options).await {
            tracing::debug!(%error, "the login failed; connecting again");
            state.link = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Asked;
    use super::*;

    #[tokio::test]
    async fn addresses_are_literals_and_what_names_resolve_to() {
        let endpoints = Some("http://192.0.2.9:1,http://[2001:db8::9]:1,http://localhost:1".into());
        let client = Client::new(Options::check(Asked { endpoints, ..Asked::default() }).unwrap());
        let literals: Vec<IpAddr> = vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
        assert_eq!(client.addresses(), literals);
        client.resolve().await;
        let all = client.addresses();
        assert!(literals.iter().all(|literal| all.contains(literal)), "{all:?}");
        assert!(all.iter().any(IpAddr::is_loopback), "{all:?}");
    }
}
