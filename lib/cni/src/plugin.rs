//! The [`Plugin`] trait, and [`serve`], which a runtime's call enters.

mod entry;
pub(crate) mod panic;
#[cfg(test)]
mod tests;

use crate::conf::{Conf, Head};
use crate::delegate::Delegates;
use crate::env::{Command, Env};
use crate::error::{Error, code};
use crate::quote;
use crate::result::AddResult;
use crate::trace::TRACEPARENT;
use crate::version::Version;

pub use entry::serve;

/// One call of a plugin.
pub struct Request<'a> {
    /// The `CNI_*` variables, checked for the command.
    pub env: &'a Env,
    /// The configuration, in the negotiated version.
    pub conf: Conf,
    /// Calls other plugins.
    pub delegates: &'a Delegates<'a>,
}

impl Request<'_> {
    /// Writes a line to stderr, which runtimes log. For facts that an operator may need although the call succeeds.
    pub fn warn(&self, plugin: &str, text: impl std::fmt::Display) {
        self.delegates.say(format!("{plugin}: {text}\n").as_bytes());
    }
}

/// A plugin, independent of the executable that contains it.
pub trait Plugin: Sync {
    /// The plugin's `type` in configurations, and its file name.
    fn name(&self) -> &'static str;

    /// The versions that it supports, oldest first. Default: all.
    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    /// Rejects a namespace that the plugin must not work in. Called before ADD and CHECK only, because this crate opens
    /// no namespace. DEL treats such a namespace as gone. Default: accepts every namespace.
    fn admit(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches the container. On an error, leaves nothing behind.
    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error>;

    /// Undoes ADD, whatever of it is left. The namespace, `prevResult` and the device may be gone.
    fn del(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Fails if something differs from what ADD made.
    fn check(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Removes what belongs to none of [`Conf::valid_attachments`]. Not called without that list. With an empty list no
    /// attachment is valid. Default: removes nothing.
    fn gc(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Fails if no ADD could be served: codes 50 and 51. Default: succeeds.
    fn status(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The plugin whose name is the last component of `argv0`.
pub fn find<'a>(suite: &[&'a dyn Plugin], argv0: &str) -> Option<&'a dyn Plugin> {
    let name = argv0.rsplit('/').next().unwrap_or(argv0);
    suite.iter().copied().find(|plugin| plugin.name() == name)
}

/// Negotiates the version and reads the fields that depend on it.
pub(crate) fn prepare<'a>(
    plugin: &dyn Plugin,
    command: Command,
    env: &'a Env,
    head: Head,
    delegates: &'a Delegates<'a>,
) -> Result<Request<'a>, Error> {
    let version = negotiate(plugin.versions(), command, &head.version)?;
    let (conf, prev) = head.into_conf(version)?;
    let request = Request { env, conf, delegates };
    if let Some(trace) = env.trace {
        let Env { container_id, ifname, .. } = env;
        request.warn(plugin.name(), format_args!("{command} of {container_id}@{ifname}: {TRACEPARENT}={trace}"));
    }
    match (prev, command) {
        (Err(bad), Command::Add | Command::Check) => return Err(bad),
        // otherwise a damaged cache would make every DEL fail, for ever
        (Err(bad), _) => request.warn(plugin.name(), format_args!("{command} continues without prevResult: {bad}")),
        (Ok(()), _) => {}
    }
    Ok(request)
}

/// Carries out the command. Returns `Some` for ADD and `None` for the others.
pub(crate) fn perform(
    plugin: &dyn Plugin,
    command: Command,
    request: &Request<'_>,
) -> Result<Option<AddResult>, Error> {
    if matches!(command, Command::Add | Command::Check) {
        plugin.admit(request)?;
    }
    match command {
        Command::Add => plugin.add(request).map(Some),
        Command::Del => plugin.del(request).map(|()| None),
        Command::Check => plugin.check(request).map(|()| None),
        Command::Gc if request.conf.valid_attachments.is_none() => {
            // without the list, removing everything would cut off running pods
            request.warn(plugin.name(), "GC without cni.dev/valid-attachments removes nothing");
            Ok(None)
        }
        Command::Gc => plugin.gc(request).map(|()| None),
        Command::Status => plugin.status(request).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn negotiate(supported: &[Version], command: Command, text: &str) -> Result<Version, Error> {
    let since = match command {
        Command::Check => Some(Version::V040),
        Command::Gc | Command::Status => Some(Version::V110),
        _ => None,
    };
    if let Some(since) = since
        && numbers(text)? < numbers(since.as_str())?
    {
        return Err(incompatible(format!("config version does not allow {command}")));
    }
    let version = text.parse().ok().filter(|v| supported.contains(v));
    version.ok_or_else(|| {
        let list = supported.iter().map(|v| quote(v.as_str())).collect::<Vec<_>>().join(" ");
        let config = if text.is_empty() { Version::V010.as_str() } else { text };
        let details = format!("config is {}, plugin supports [{list}]", quote(config));
        incompatible("incompatible CNI versions").with_details(details)
    })
}

fn incompatible(msg: impl Into<String>) -> Error {
    Error::new(code::INCOMPATIBLE_VERSION, msg)
}

/// Major, minor and patch number of a version of one to three numbers. The empty text is 0.1.0.
fn numbers(text: &str) -> Result<[u32; 3], Error> {
    let mut out = [0; 3];
    let parts: Vec<&str> = if text.is_empty() { vec!["0", "1"] } else { text.split('.').collect() };
    let invalid = || Error::new(code::DECODE, format!("invalid version {}", quote(text)));
    if parts.len() > out.len() {
        return Err(invalid());
    }
    for (place, part) in out.iter_mut().zip(parts) {
        *place = part.parse().map_err(|_| invalid())?;
    }
    Ok(out)
}
