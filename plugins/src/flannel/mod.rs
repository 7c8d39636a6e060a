//! `flannel` attaches a pod to the subnet that flanneld leased for this host, through a delegate whose configuration
//! it generates. `vxlan`, `direct-routing` and `host-gw` do the same for a network that requires one data path, or
//! that has no flanneld and lists its hosts in the configuration.

mod delegate;
mod host;
mod inline;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use cni::conf;
use cni::error::Error;
use cni::plugin::Request;
use gojson::Json;
use kernel::state::{Scope, State};
use kernel::survey::Survey;
use overlay::subnet_env::SubnetEnv;

use delegate::Mistake;
use host::{Daemon, DataPath, Host};
use inline::Network;

use crate::attach::{Delegate, Delegating, HostFacts, HostPart, Planned};

/// Upstream's folder for the states of attachments; `dataDir` in the configuration sets another.
const DEFAULT_DIR: &str = "/var/lib/cni/flannel";

/// The plugin, under one of its names.
pub struct Flannel {
    wanted: Option<DataPath>,
}

/// Uses the data path that flanneld runs.
pub const FLANNEL: Flannel = Flannel { wanted: None };
/// VXLAN for every peer, with or without flanneld.
pub const VXLAN: Flannel = Flannel { wanted: Some(DataPath::Vxlan) };
/// VXLAN, but direct routes to peers on the same segment; with or without flanneld.
pub const DIRECT_ROUTING: Flannel = Flannel { wanted: Some(DataPath::DirectRouting) };
/// Direct routes only, with or without flanneld.
pub const HOST_GW: Flannel = Flannel { wanted: Some(DataPath::HostGw) };

/// A checked configuration, with the contents of the host's files.
pub enum Conf {
    /// flanneld leased this, or the reason why no pod can be attached yet.
    Leased(Result<SubnetEnv, Error>),
    /// The configuration contains the network.
    Carried {
        /// The network in the configuration.
        network: Box<Network>,
        /// A flanneld that runs on this host nevertheless.
        daemon: Option<Daemon>,
    },
}

impl Delegating for Flannel {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        self.wanted.map_or("flannel", DataPath::name)
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        let host = Host::of(&request.conf);
        if let Some(network) = self.network(&request.conf)? {
            return Ok(Conf::Carried { network: Box::new(network), daemon: host.daemon() });
        }
        let mistakes = mistakes_of(&request.conf);
        if mistakes.is_empty() {
            Ok(Conf::Leased(host.leased(self.wanted)))
        } else {
            Err(Error::config(mistakes.join("; ")))
        }
    }

    fn folder(&self, conf: &conf::Conf) -> PathBuf {
        let given = conf.tree().get("dataDir").and_then(Json::as_str).filter(|dir| !dir.is_empty());
        given.unwrap_or(DEFAULT_DIR).into()
    }

    fn has_host_part(&self, conf: &conf::Conf) -> bool {
        self.carries_network(conf).is_some()
    }

    fn plan(&self, conf: &Conf, request: &Request<'_>, facts: HostFacts<'_>) -> Result<Planned, Error> {
        let (host, env) = match conf {
            Conf::Leased(leased) => (HostPart::default(), leased.clone()?),
            Conf::Carried { network, daemon } => {
                let names = (request.conf.kind.as_str(), request.conf.name.as_str());
                inline::host(network, names, daemon.as_ref(), facts)?
            }
        };
        Ok(Planned { delegate: delegate::build(&request.conf, Some(&env)).0, host })
    }

    fn without(&self, network: &str, facts: HostFacts<'_>) -> (State, Scope) {
        let nothing = Survey::default();
        inline::removal(network, facts.survey.unwrap_or(&nothing), facts.recorded.to_vec())
    }

    fn rebuilt(&self, request: &Request<'_>) -> Delegate {
        let env = match self.carries_network(&request.conf) {
            Some(path) => Network::read(path, request.conf.tree()).ok().map(|network| network.env_for_del()),
            None => Host::of(&request.conf).leased(None).ok(),
        };
        delegate::build(&request.conf, env.as_ref()).0
    }
}

impl Flannel {
    /// The mistakes in the network of a configuration for this plugin that can be found without the host; `None` when
    /// it contains no network.
    pub fn mistakes(&self, conf: &Json) -> Option<Vec<String>> {
        let path = self.wanted.filter(|_| inline::given(conf))?;
        Some(Network::read(path, conf).err().unwrap_or_default())
    }

    /// The data path of a network in the configuration, which takes precedence over subnet.env. `flannel` always uses
    /// flanneld.
    fn carries_network(&self, conf: &conf::Conf) -> Option<DataPath> {
        self.wanted.filter(|_| inline::given(conf.tree()))
    }

    /// The network in the configuration. All its mistakes, and those of the rest, are reported at once.
    fn network(&self, conf: &conf::Conf) -> Result<Option<Network>, Error> {
        let Some(path) = self.carries_network(conf) else { return Ok(None) };
        let others = mistakes_of(conf);
        match Network::read(path, conf.tree()) {
            Ok(network) if others.is_empty() => Ok(Some(network)),
            read => {
                let mistakes = [read.err().unwrap_or_default(), others].concat();
                Err(Error::config(format!("{}: {}", path.name(), mistakes.join("; "))))
            }
        }
    }
}

/// The mistakes in the delegate's part of a configuration.
fn mistakes_of(conf: &conf::Conf) -> Vec<String> {
    delegate::build(conf, None).1.iter().map(Mistake::to_string).collect()
}

/// Parses the delegate's type and document from a state file of ADD, including Go flannel's; `None` for other
/// content.
pub fn read_state(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let delegate = Delegate::from_state(bytes)?;
    let document = delegate.bytes();
    Some((delegate.kind, document))
}
