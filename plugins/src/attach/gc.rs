//! GC removes every recorded attachment of the network that is no longer valid, as DEL does.

use cni::error::Error;
use cni::plugin::Request;

use super::{del, join, rules, runtimes};

/// Needs no valid configuration, continues after a failure, and reports all failures.
pub(super) fn gc(request: &Request<'_>) -> Result<(), Error> {
    let attachments = runtimes::each_stale(request, del::collect);
    let ipam = match del::ipam_kind(request) {
        Some(kind) => request.delegates.gc(kind, &request.conf.bytes, request.env),
        None => Ok(()),
    };
    join([attachments, ipam, rules::collect(request)])
}
