//! GC removes every recorded attachment of the network that is no longer valid, as DEL does.

use std::path::Path;

use attachment::Key;
use attachment::record::{DIRECTORY, Locked, list};
use cni::error::Error;
use cni::plugin::Request;

use super::{del, join, rules, runtimes};

/// Needs no valid configuration, continues after a failure, and reports all failures.
pub(super) fn gc(request: &Request<'_>) -> Result<(), Error> {
    let attachments = remove_stale(request);
    let ipam = match del::ipam_kind(request) {
        Some(kind) => request.delegates.gc(kind, &request.conf.bytes, request.env),
        None => Ok(()),
    };
    join([attachments, ipam, rules::collect(request)])
}

fn remove_stale(request: &Request<'_>) -> Result<(), Error> {
    let (directory, network) = (Path::new(DIRECTORY), request.conf.name.as_str());
    let valid = runtimes::kept(request);
    let recorded = list(directory, network).map_err(Error::internal)?;
    let stale = recorded
        .iter()
        .filter(|(container, ifname)| !valid.iter().any(|a| a.container_id == *container && a.ifname == *ifname));
    join(stale.map(|(container, ifname)| {
        let key = Key { network, container, ifname };
        match Locked::at_once(directory, key).map_err(Error::internal)? {
            Some(locked) => del::collect(key, locked),
            // An ADD or a DEL works on the attachment.
            None => Ok(()),
        }
    }))
}
