//! The runtime's side of the protocol: lists of plugins, the order of calls, and the cache of results. It follows
//! libcni of the Go library, so that either library can take over a host from the other.

mod cache;
mod list;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::conf;
use crate::delegate::{Delegates, Environ};
use crate::env::{Command, Env, Opened, check_container_id, check_ifname};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::quote;
use crate::result::AddResult;
use crate::trace::Trace;
use crate::version::Version;

use cache::Cache;
pub use cache::CacheError;
use gojson::Json;
pub use list::{ListError, NetworkList, PluginConf};

/// One container's interface on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS: the path of the network namespace. May be empty for DEL.
    pub netns: String,
    /// CNI_IFNAME: the interface's name inside the container.
    pub ifname: String,
    /// CNI_ARGS: names and values, in order.
    pub args: Vec<(String, String)>,
    /// Values by capability. A plugin that declares the capability gets its value in `runtimeConfig`.
    pub capability_args: BTreeMap<String, Json>,
}

/// Runs the plugins of lists.
pub struct Runtime<'a> {
    /// CNI_PATH: directories of plugins, separated by `:`.
    pub path: String,
    /// The directory that holds `results`, such as `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// The plugins of this executable. One of them runs in this process when CNI_PATH leads to this very file. Usually
    /// none.
    pub suite: &'a [&'a dyn Plugin],
    /// The environment variables of plugins, besides `CNI_*`.
    pub environ: Environ,
    /// The span that the calls of plugins are children of; each gets one of its own in TRACEPARENT. `None`: they get none.
    pub trace: Option<Trace>,
    /// Receives what plugins write to stderr.
    pub stderr: &'a dyn Fn(&[u8]),
}

/// Why a call for a list failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The container ID or the interface name is invalid.
    #[error(transparent)]
    Attachment(Error),
    /// A plugin returned an error.
    #[error("plugin type={} name={} failed ({action}): {source}", quote(kind), quote(network))]
    Plugin {
        /// The operation: "add", "del", "check", "gc" or "status".
        action: &'static str,
        /// The plugin's `type`.
        kind: String,
        /// The network's `name`.
        network: String,
        /// The plugin's own error.
        source: Error,
    },
    /// The list's version cannot express a plugin's result.
    #[error("network {}: the result of {} cannot be passed on: {source}", quote(network), quote(kind))]
    Convert {
        /// The `type` of the plugin whose result it is.
        kind: String,
        /// The network's `name`.
        network: String,
        /// The reason, such as "cannot convert: no valid IP addresses".
        source: Error,
    },
    /// CHECK needs version 0.4.0 or later; the list has this one.
    #[error("configuration version {} does not support CHECK command", quote(.0.as_str()))]
    NoCheck(Version),
    /// The result cannot be cached or read from the cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// ADD failed, and so did the DEL that should undo it. Parts of the attachment may remain.
    #[error("{add}; and undoing it failed: {del}")]
    Undo {
        /// Why ADD failed.
        add: Box<RuntimeError>,
        /// Why DEL failed.
        del: Box<RuntimeError>,
    },
    /// Several steps failed; the others were still carried out.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<RuntimeError>),
}

impl<'a> Runtime<'a> {
    /// A runtime whose plugins inherit this process's environment, in a new trace. It discards what they write to stderr.
    pub fn new(path: impl Into<String>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_dir: cache_dir.into(),
            suite: &[],
            environ: Environ::Inherit,
            trace: Some(Trace::begin()),
            stderr: &|_| (),
        }
    }

    /// Calls ADD of each plugin in order, each with the previous result. Caches and returns the last result. A failure
    /// does not undo earlier plugins: see [`Runtime::add_or_undo`].
    pub fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<AddResult, RuntimeError> {
        check(attachment)?;
        let delegates = self.delegates();
        let mut prev: Option<AddResult> = None;
        for plugin in &list.plugins {
            let prev_json = prev.as_ref().map(|result| prev_result(list, &plugin.kind, result)).transpose()?;
            let conf = document(list, plugin, prev_json, Some(attachment));
            let result = delegates.add(&plugin.kind, &conf, &self.env(attachment));
            prev = Some(result.map_err(failed("add", list, plugin))?);
        }
        let result = prev.unwrap_or_default();
        self.cache().store(list, attachment, &result)?;
        Ok(result)
    }

    /// Calls ADD, and DEL if ADD fails. Then the error is ADD's.
    pub fn add_or_undo(&self, list: &NetworkList, attachment: &Attachment) -> Result<AddResult, RuntimeError> {
        self.add(list, attachment).map_err(|add| match self.del(list, attachment) {
            Ok(()) => add,
            Err(del) => RuntimeError::Undo { add: Box::new(add), del: Box::new(del) },
        })
    }

    /// Calls DEL of each plugin in reverse order and stops at the first failure. From 0.4.0 on, plugins get the cached
    /// result. A damaged cache is reported on `stderr` and does not stop DEL.
    pub fn del(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), RuntimeError> {
        check(attachment)?;
        let prev = if list.version >= Version::V040 { self.cached_or_none(list, attachment) } else { None };
        let delegates = self.delegates();
        for plugin in list.plugins.iter().rev() {
            let conf = document(list, plugin, prev.clone(), Some(attachment));
            let outcome = delegates.del(&plugin.kind, &conf, &self.env(attachment));
            outcome.map_err(failed("delete", list, plugin))?;
        }
        Ok(self.cache().remove(&list.name, attachment)?)
    }

    /// Calls CHECK of each plugin in order with the cached result and stops at the first failure.
    pub fn check(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), RuntimeError> {
        if list.version < Version::V040 {
            return Err(RuntimeError::NoCheck(list.version));
        }
        check(attachment)?;
        if list.disable_check {
            return Ok(());
        }
        let prev = match self.cache().load(list, attachment)? {
            Some(result) => Some(prev_result(list, "cache", &result)?),
            None => None,
        };
        let delegates = self.delegates();
        for plugin in &list.plugins {
            let conf = document(list, plugin, prev.clone(), Some(attachment));
            let outcome = delegates.check(&plugin.kind, &conf, &self.env(attachment));
            outcome.map_err(failed("check", list, plugin))?;
        }
        Ok(())
    }

    /// Calls DEL for every cached attachment of the network that is not in `valid`. From 1.1.0 on, then calls GC of
    /// each plugin. Continues after a failure and returns all errors.
    ///
    /// `None` makes every cached attachment stale, and plugins get no list of valid attachments.
    pub fn gc(&self, list: &NetworkList, valid: Option<&[conf::Attachment]>) -> Result<(), RuntimeError> {
        if list.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        let is_valid = |a: &Attachment| {
            valid.unwrap_or_default().iter().any(|v| v.container_id == a.container_id && v.ifname == a.ifname)
        };
        for stale in self.cache().attachments(&list.name)?.iter().filter(|a| !is_valid(a)) {
            errors.extend(self.del(list, stale).err());
        }
        if list.version >= Version::V110 {
            errors.extend(self.gc_plugins(list, valid));
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(RuntimeError::Several(errors)),
        }
    }

    fn gc_plugins(&self, list: &NetworkList, valid: Option<&[conf::Attachment]>) -> Vec<RuntimeError> {
        let delegates = self.delegates();
        let outcome = |plugin: &PluginConf| {
            let env = self.env(&Attachment::default());
            let mut tree = base(list, plugin);
            if let Some(valid) = valid {
                let valid = valid_json(valid);
                // libcni 1.1 first used this key
                tree.set("cni.dev/attachments", valid.clone());
                tree.set("cni.dev/valid-attachments", valid);
            }
            let conf = tree.sorted().compact();
            delegates.gc(&plugin.kind, conf.as_bytes(), &env).map_err(failed("gc", list, plugin))
        };
        list.plugins.iter().filter_map(|plugin| outcome(plugin).err()).collect()
    }

    /// Calls STATUS of each plugin in order and stops at the first failure. Below 1.1.0 it calls no plugin.
    pub fn status(&self, list: &NetworkList) -> Result<(), RuntimeError> {
        if list.version < Version::V110 {
            return Ok(());
        }
        let delegates = self.delegates();
        for plugin in &list.plugins {
            let (env, conf) = (self.env(&Attachment::default()), document(list, plugin, None, None));
            delegates.status(&plugin.kind, &conf, &env).map_err(failed("status", list, plugin))?;
        }
        Ok(())
    }

    /// The cached result of ADD, if there is one.
    pub fn cached(&self, list: &NetworkList, attachment: &Attachment) -> Result<Option<AddResult>, RuntimeError> {
        check(attachment)?;
        Ok(self.cache().load(list, attachment)?)
    }

    /// The network's attachments that have a cached result.
    pub fn attachments(&self, list: &NetworkList) -> Result<Vec<Attachment>, RuntimeError> {
        Ok(self.cache().attachments(&list.name)?)
    }

    fn cached_or_none(&self, list: &NetworkList, attachment: &Attachment) -> Option<Json> {
        let loaded = self
            .cached(list, attachment)
            .and_then(|result| result.map(|result| prev_result(list, "cache", &result)).transpose());
        loaded.unwrap_or_else(|cause| {
            (self.stderr)(
                format!("{}: {} continues without prevResult: {cause}\n", list.name, Command::Del).as_bytes(),
            );
            None
        })
    }

    fn cache(&self) -> Cache<'_> {
        Cache::new(&self.cache_dir)
    }

    fn delegates(&self) -> Delegates<'_> {
        Delegates::new(&self.path, self.suite, self.environ.clone(), self.stderr)
    }

    fn env(&self, attachment: &Attachment) -> Env {
        let args = attachment.args.iter().map(|(key, value)| format!("{key}={value}"));
        Env {
            container_id: attachment.container_id.clone(),
            netns: attachment.netns.clone(),
            ifname: attachment.ifname.clone(),
            args: args.collect::<Vec<_>>().join(";"),
            path: self.path.clone(),
            netns_override: false,
            trace: self.trace.map(Trace::child),
            opened: Opened::default(),
        }
    }
}

fn check(attachment: &Attachment) -> Result<(), RuntimeError> {
    check_container_id(&attachment.container_id).map_err(RuntimeError::Attachment)?;
    check_ifname(&attachment.ifname).map_err(RuntimeError::Attachment)
}

fn failed<'a>(
    action: &'static str,
    list: &'a NetworkList,
    plugin: &'a PluginConf,
) -> impl FnOnce(Error) -> RuntimeError + 'a {
    move |source| RuntimeError::Plugin { action, kind: plugin.kind.clone(), network: list.name.clone(), source }
}

fn prev_result(list: &NetworkList, kind: &str, result: &AddResult) -> Result<Json, RuntimeError> {
    let convert = |source| RuntimeError::Convert { kind: kind.to_owned(), network: list.name.clone(), source };
    result.to_json(list.version).map_err(convert)
}

/// The plugin's object with the list's name and version.
fn base(list: &NetworkList, plugin: &PluginConf) -> Json {
    let mut tree = plugin.conf.clone();
    tree.set("name", list.name.as_str().into());
    tree.set("cniVersion", list.version.as_str().into());
    tree
}

/// The document for stdin: keys sorted, no spaces.
fn document(list: &NetworkList, plugin: &PluginConf, prev: Option<Json>, attachment: Option<&Attachment>) -> Vec<u8> {
    let mut tree = base(list, plugin);
    if let Some(prev) = prev {
        tree.set("prevResult", prev);
    }
    let given = attachment.map(|a| &a.capability_args);
    let wanted = plugin.capabilities.iter().filter(|(_, wanted)| **wanted);
    let runtime_config: Json = wanted.filter_map(|(key, _)| Some((key.as_str(), given?.get(key)?.clone()))).collect();
    if runtime_config.as_object().is_some_and(|given| !given.is_empty()) {
        tree.set("runtimeConfig", runtime_config);
    }
    tree.sorted().compact().into_bytes()
}

fn valid_json(valid: &[conf::Attachment]) -> Json {
    let one = |a: &conf::Attachment| {
        Json::from_iter([
            ("containerID", Json::from(a.container_id.as_str())),
            ("ifname", Json::from(a.ifname.as_str())),
        ])
    };
    valid.iter().map(one).collect::<Vec<_>>().into()
}
