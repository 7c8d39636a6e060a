//! What a plugin is, and the door through which a runtime reaches it.

mod door;
pub(crate) mod panic;
#[cfg(test)]
mod tests;

use crate::conf::{Conf, Head};
use crate::delegate::Delegates;
use crate::env::{Command, Env};
use crate::error::{Error, code};
use crate::quote;
use crate::result::AddResult;
use crate::version::Version;

pub use door::serve;

/// What a plugin is asked to do.
pub struct Request<'a> {
    /// The variables, checked for the command.
    pub env: &'a Env,
    /// The configuration, its version agreed on.
    pub conf: Conf,
    /// The way to other plugins.
    pub delegates: &'a Delegates<'a>,
}

impl Request<'_> {
    /// A line on stderr, which runtimes log: for what a person may need to know although the request is served.
    pub fn warn(&self, plugin: &str, text: impl std::fmt::Display) {
        self.delegates.say(format!("{plugin}: {text}\n").as_bytes());
    }
}

/// One plugin, whatever executable it lives in.
pub trait Plugin: Sync {
    /// Its `type` in a configuration, and its file name.
    fn name(&self) -> &'static str;

    /// What it speaks, oldest first.
    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    /// Refuses a namespace that it must not work in. Called before ADD and CHECK; this crate opens no namespace. To DEL such a
    /// namespace is one that is gone.
    fn admit(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches the container, or leaves nothing behind.
    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error>;

    /// Undoes ADD as far as there is something to undo. The namespace, `prevResult` and the device may be gone.
    fn del(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Says what differs from what ADD left.
    fn check(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Removes what belongs to none of [`Conf::valid_attachments`]. Not called without such a list; an empty one says
    /// that nothing is valid.
    fn gc(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Whether an ADD could be served: codes 50 and 51 say no.
    fn status(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The plugin that an executable of this name is (the last component of `argv0`).
pub fn find<'a>(suite: &[&'a dyn Plugin], argv0: &str) -> Option<&'a dyn Plugin> {
    let name = argv0.rsplit('/').next().unwrap_or(argv0);
    suite.iter().copied().find(|plugin| plugin.name() == name)
}

/// Agrees on the version and reads what depends on it.
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
    match (prev, command) {
        (Err(bad), Command::Add | Command::Check) => return Err(bad),
        // a DEL that fails for a damaged cache would fail for ever
        (Err(bad), _) => request.warn(plugin.name(), format_args!("{command} goes on without prevResult: {bad}")),
        (Ok(()), _) => {}
    }
    Ok(request)
}

/// Some for ADD, none for the others.
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
            // nothing is known about what is valid: to remove everything would take the network from running pods
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

/// Major, minor, micro of one to three numbers; the empty text is 0.1.0.
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
