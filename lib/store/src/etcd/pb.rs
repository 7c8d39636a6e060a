//! etcd's messages, written by hand: those of the calls that this client makes, with the field numbers of etcd's API
//! (`api/etcdserverpb/rpc.proto`, `api/mvccpb/kv.proto`). The decoder skips every other field.

/// The header of every answer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResponseHeader {
    /// The cluster's ID. A cluster that was recreated with the same members has the same ID.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// The ID of the member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision at the time of the answer.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// The key's bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The revision that created the key.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The revision of its last write.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The number of writes since the key was created.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value's bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
    /// The etcd lease that the key ends with; 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// Reads the keys from `key` up to `range_end`, or one key when there is no end.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The largest number of keys to read; 0 for all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// The revision to read at; 0 for the newest.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Omit the values.
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
}

/// The answer to [`RangeRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RangeResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The keys, in order.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// More keys exist than the limit allows.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// The etcd lease to attach the key to; 0 for none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// The answer to [`PutRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PutResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Deletes the keys from `key` up to `range_end`, or one key when there is no end.
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
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The number of deleted keys.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Compare {
    /// The relation: `EQUAL` is 0.
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub result: i32,
    /// The property of the key that is compared.
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// The value to compare with.
    #[prost(oneof = "CompareWith", tags = "4, 7")]
    pub with: Option<CompareWith>,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CompareResult {
    /// The two are equal.
    Equal = 0,
}

/// The property of a key that a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CompareTarget {
    /// The number of writes since the key was created; 0 when the key does not exist.
    Version = 0,
    /// The value; a key that is not there equals nothing.
    Value = 3,
}

/// The value that a condition compares with.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum CompareWith {
    /// For [`CompareTarget::Version`].
    #[prost(int64, tag = "4")]
    Version(i64),
    /// For [`CompareTarget::Value`].
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

/// The kinds of steps.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Request {
    /// Reads keys.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// Writes a key.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// Deletes keys.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

/// The result of a step.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResponseOp {
    /// The answer to the step.
    #[prost(oneof = "Response", tags = "1, 2, 3")]
    pub response: Option<Response>,
}

/// The answer to a step.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Response {
    /// The answer to a read.
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    /// The answer to a write.
    #[prost(message, tag = "2")]
    Put(PutResponse),
    /// The answer to a deletion.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeResponse),
}

/// Runs all steps of `success` atomically if every condition holds, else those of `failure`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// The steps for the case that all conditions hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// The steps for the other case.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// The result of a transaction.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TxnResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether every condition held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One answer for each step that ran.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Creates an etcd lease.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseGrantRequest {
    /// The shortest lifetime without renewal, in seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// The lease's ID; 0 lets etcd choose one.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// The answer to [`LeaseGrantRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseGrantResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// The lifetime without renewal, in seconds.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Ends an etcd lease and deletes all keys that are attached to it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseRevokeRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// The answer to [`LeaseRevokeRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseRevokeResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Renews an etcd lease.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseKeepAliveRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// The answer to [`LeaseKeepAliveRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseKeepAliveResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// The lifetime from now on, in seconds; 0 when the lease does not exist.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Asks how long an etcd lease still lives.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseTimeToLiveRequest {
    /// The etcd lease's id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Include the keys that are attached to the lease.
    #[prost(bool, tag = "2")]
    pub keys: bool,
}

/// The answer to [`LeaseTimeToLiveRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseTimeToLiveResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The etcd lease's id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// The remaining seconds; -1 when the lease does not exist.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
    /// The lifetime that the lease was granted with, in seconds.
    #[prost(int64, tag = "4")]
    pub granted_ttl: i64,
    /// The keys attached to it.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub keys: Vec<Vec<u8>>,
}

/// A message to a watch stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchRequest {
    /// The request.
    #[prost(oneof = "WatchAsk", tags = "1")]
    pub ask: Option<WatchAsk>,
}

/// The kinds of requests on a watch stream.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum WatchAsk {
    /// Starts a watch.
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
}

/// Asks for every change of the keys from `key` up to `range_end`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchCreateRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The first revision whose changes are sent.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Send the current revision from time to time while nothing changes.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// Split a large answer into several messages.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// A message from a watch stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watch has started.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// When not 0, the reason why the watch ended: older revisions are compacted.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Otherwise the reason why the watch ended.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More changes of the same revision follow.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// The changes, ordered by revision.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// The kind of change.
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    /// The key; a deletion has no value.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// The kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// A write.
    Put = 0,
    /// A deletion, by a client or with the key's lease.
    Delete = 1,
}

/// Logs in.
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

/// The answer to [`AuthenticateRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct AuthenticateResponse {
    /// The store that answered, and its revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The token for further calls; never printed.
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
