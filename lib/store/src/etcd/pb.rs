//! etcd's messages, by hand: those of the calls that are made here, with the field numbers of its API (etcd's
//! `api/etcdserverpb/rpc.proto`, `api/mvccpb/kv.proto`). A field that is not named is skipped by the decoder.

/// In every answer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResponseHeader {
    /// Which cluster; not told apart by it are a cluster and one that was made anew with the same members.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Which member answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision when it answered.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key and what is stored under it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// The key's bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The revision at which the key came.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The revision of its last write.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Writes since it came.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value's bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
    /// The etcd lease with which the key ends; 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// Reads the keys from `key` up to `range_end`; without an end one key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The most keys that are read; 0 for all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// The revision to read at; 0 for the newest.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Read no values.
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
}

/// The answer to [`RangeRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RangeResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// In the order of the keys.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// There are more keys than the limit.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Its value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// The etcd lease to attach it to; 0 for none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// The answer to [`PutRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PutResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Deletes the keys from `key` up to `range_end`; without an end one key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteRangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
}

/// The answer to [`DeleteRangeRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DeleteRangeResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// How many there were.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Compare {
    /// How: `EQUAL` is 0.
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub result: i32,
    /// What of the key.
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// With what.
    #[prost(oneof = "CompareWith", tags = "4, 7")]
    pub with: Option<CompareWith>,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CompareResult {
    /// =
    Equal = 0,
}

/// What a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CompareTarget {
    /// How often it was written; 0 when it is not there.
    Version = 0,
    /// The value; a key that is not there equals nothing.
    Value = 3,
}

/// What a condition compares with.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum CompareWith {
    /// Of [`CompareTarget::Version`].
    #[prost(int64, tag = "4")]
    Version(i64),
    /// Of [`CompareTarget::Value`].
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestOp {
    /// The step.
    #[prost(oneof = "Request", tags = "1, 2, 3")]
    pub request: Option<Request>,
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Request {
    /// Reads.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// Writes.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// Deletes.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

/// What became of a step.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResponseOp {
    /// Its answer.
    #[prost(oneof = "Response", tags = "1, 2, 3")]
    pub response: Option<Response>,
}

/// The answer to a step.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Response {
    /// Of a read.
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    /// Of a write.
    #[prost(message, tag = "2")]
    Put(PutResponse),
    /// Of a deletion.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeResponse),
}

/// All steps of `success`, at once, if every condition holds; else those of `failure`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Done when all hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// Done when one does not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TxnResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Every condition held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One for each step that was done.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Makes an etcd lease.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseGrantRequest {
    /// The least time that the lease lives without renewal, seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// Its number; 0 lets etcd choose one.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// It was made.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseGrantResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// The time that it lives without renewal, seconds.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Ends an etcd lease and all keys attached to it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseRevokeRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// It was ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseRevokeResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Begins the life of an etcd lease anew.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseKeepAliveRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// It was begun anew.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseKeepAliveResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Its life from now on, seconds; 0 when there is no such lease.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Asks how long an etcd lease lives.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseTimeToLiveRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Name the keys attached to it, too.
    #[prost(bool, tag = "2")]
    pub keys: bool,
}

/// How long an etcd lease lives.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseTimeToLiveResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Seconds left; -1 when there is no such lease.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
    /// The time that it was granted for, seconds.
    #[prost(int64, tag = "4")]
    pub granted_ttl: i64,
    /// The keys attached to it.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub keys: Vec<Vec<u8>>,
}

/// What is sent on a stream of watches.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchRequest {
    /// The request.
    #[prost(oneof = "WatchAsk", tags = "1")]
    pub ask: Option<WatchAsk>,
}

/// What is asked of a stream of watches.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum WatchAsk {
    /// Begin a watch.
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
}

/// Tells of every change of the keys from `key` up to `range_end`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchCreateRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The first revision of which changes are sent.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Tell the revision now and then when nothing changes.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// Cut what is too large for one message into several.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// What a watch tells.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watch was begun.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Why it ended, when not 0: what is older than this is not told any more.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it ended, else.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// The changes, by revision.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// What was done.
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    /// The key; of a deletion without a value.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// The answer to [`PutRequest`].
    Put = 0,
    /// It was deleted, or it ended with its lease.
    Delete = 1,
}

/// Says who one is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct AuthenticateRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Never printed.
    #[prost(string, tag = "2")]
    pub password: String,
}

impl std::fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What to show from now on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct AuthenticateResponse {
    /// Which store answered, and its revision then.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Never printed.
    #[prost(string, tag = "2")]
    pub token: String,
}

impl std::fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthenticateResponse")
    }
}

#[cfg(test)]
#[path = "pb_tests.rs"]
mod tests;
