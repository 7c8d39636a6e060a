//! The life of the addresses of an attachment: ADD, DEL, CHECK, GC and STATUS of IPAM plugins.

use cni::conf::Attachment;
use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;

use crate::netns;

/// A plugin that gives addresses: what is particular to it. It decides nothing about when addresses are given or taken
/// back.
pub trait Ipam: Sync {
    /// Its configuration, checked.
    type Conf;

    /// Its `type` in `ipam`.
    fn name(&self) -> &'static str;

    /// The configuration of a request, whole, or every mistake in one error. DEL and GC need none.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// Reserves for the attachment what the configuration asks for: all of it, or nothing. What the attachment has
    /// already is left alone.
    fn reserve(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<AddResult, Error>;

    /// Releases all that the attachment has. It goes on behind a failure, and to have nothing is a success.
    fn release(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Releases what the network has for others than the `valid` attachments. It goes on behind a failure.
    fn retain(&self, request: &Request<'_>, valid: &[Attachment]) -> Result<(), Error>;

    /// For CHECK: what of ADD's answer is not reserved for the attachment.
    fn differences(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<Vec<String>, Error>;

    /// For STATUS: every reason why no ADD could be served.
    fn obstacles(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<Vec<String>, Error>;
}

/// An [`Ipam`] as a plugin.
pub struct Addresses<I>(pub I);

impl<I: Ipam> Plugin for Addresses<I> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        self.0.reserve(&self.0.load(request)?, request)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        self.0.release(request)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let found = self.0.differences(&self.0.load(request)?, request)?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format_args!("{}: {}", self.name(), found.join("; "))))
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        self.0.retain(request, request.conf.valid_attachments.as_deref().unwrap_or_default())
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let unavailable = |error: Error| Error { code: code::NOT_AVAILABLE, ..error };
        let found = self.0.obstacles(&conf, request).map_err(unavailable)?;
        if found.is_empty() { Ok(()) } else { Err(Error::new(code::NOT_AVAILABLE, found.join("; "))) }
    }
}
