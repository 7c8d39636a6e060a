//! Opens CNI_NETNS once per process, and refuses this process's own namespace.

use cni::error::{Error, code};
use cni::plugin::Request;
use cni::quote;
use kernel::netns::{Netns, NetnsError};
use kernel::{Kernel, KernelError};

/// Opens the request's namespace. The host's own is refused unless CNI_NETNS_OVERRIDE allows it.
pub fn open(request: &Request<'_>) -> Result<Netns, NetnsError> {
    let (env, path) = (request.env, request.env.netns.as_str());
    let file = env.opened.get_or_open(|| {
        let opened = if env.netns_override { Netns::open(path) } else { Netns::open_other(path) };
        opened.map(|netns| netns.file())
    });
    file.map(Netns::of)
}

/// A socket in the namespace. One that cannot be entered is another kind of namespace.
pub fn kernel(request: &Request<'_>, netns: Netns) -> Result<Kernel, Error> {
    let path = quote(&request.env.netns);
    let refused = |e: KernelError| Error::new(code::INVALID_NETNS, format!("netns {path}: {e}"));
    Kernel::open_in(netns).map_err(refused)
}

/// A socket in the namespace for DEL, if the namespace still exists. A path to something else, or to the host's own
/// namespace, means that it is gone.
///
/// # Errors
/// Errors that do not depend on the namespace: too many open files, or missing permission.
pub fn remaining(request: &Request<'_>) -> Result<Option<Kernel>, Error> {
    if request.env.netns.is_empty() {
        return Ok(None);
    }
    inside(&request.env.netns, open(request))
}

/// The same for a recorded path.
pub fn recorded(path: &str) -> Result<Option<Kernel>, Error> {
    if path.is_empty() {
        return Ok(None);
    }
    inside(path, Netns::open_other(path))
}

fn inside(path: &str, netns: Result<Netns, NetnsError>) -> Result<Option<Kernel>, Error> {
    let refused_by = |e: KernelError| NetnsError::Refused { path: path.to_owned(), errno: e.errno };
    match netns.and_then(|netns| Kernel::open_in(netns).map_err(refused_by)) {
        Ok(kernel) => Ok(Some(kernel)),
        Err(error) if error.leads_to_none() => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// Refuses the host's own namespace. A path such as `/proc/<pid>/ns/net` may lead there after its process has ended,
/// and the plugin would then change the host's interfaces (containernetworking/plugins#714). Other errors are
/// reported by the code that enters the namespace.
pub fn admit(request: &Request<'_>) -> Result<(), Error> {
    if request.env.netns.is_empty() {
        return Ok(());
    }
    match open(request) {
        Err(own @ NetnsError::Own { .. }) => Err(refused(&own)),
        _ => Ok(()),
    }
}

/// An error with code 8.
pub fn refused(error: &NetnsError) -> Error {
    match error {
        NetnsError::Own { path } => {
            let words = "plugin's netns and netns from CNI_NETNS should not be the same";
            let details = format!("CNI_NETNS={}: is the container gone?", quote(path));
            Error::new(code::INVALID_NETNS, words).with_details(details)
        }
        other => Error::new(code::INVALID_NETNS, other.to_string()),
    }
}
