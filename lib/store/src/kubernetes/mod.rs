//! Kubernetes as a store: a Node's podCIDR is its lease, and annotations say how to reach it, as upstream's `kube`
//! subnet manager has it. The controller manager assigns the subnets; no host chooses one.

mod client;
mod condition;
mod config;
mod error;
mod follow;
mod nodes;
mod options;
mod own;
mod saved;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;

use overlay::lease::{LeaseAttrs, NodeError};
use overlay::net::ByFamily;
use tokio::sync::watch;

pub use error::{Cause, KubeError};
pub use options::{ANSWER, HYSTERESIS, NodeName, Options};

use crate::feed::Feed;
use client::named;
use follow::Follower;
use own::{Keeper, Own};

/// This host's Node, and the writer of its annotations.
#[derive(Debug)]
pub struct Kubernetes {
    keeper: Keeper,
    own: watch::Receiver<Own>,
    ready: watch::Sender<Option<bool>>,
    options: Arc<Options>,
}

impl Kubernetes {
    /// Follows all Nodes. Needs a tokio runtime. Never fails: the feed's health reports errors, and the follower retries.
    pub(crate) fn open(options: Options) -> (Self, Feed) {
        let options = Arc::new(options);
        let (sender, own) = watch::channel(Own::default());
        let sender = Arc::new(sender);
        let keeper = Keeper::new(options.clone(), sender.clone());
        let name: Arc<str> = format!("kubernetes {}", named(&options)).into();
        let followed = options.clone();
        let feed = Feed::start(name.clone(), move |feed| Follower::new(name, followed, feed, sender).run());
        let (ready, reported) = watch::channel(None);
        if let Some(hysteresis) = options.set_network_unavailable {
            // it ends with the sender of `ready`
            tokio::spawn(condition::keep(own.clone(), reported, hysteresis));
        }
        (Self { keeper, own, ready, options }, feed)
    }

    pub(crate) fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    pub(crate) fn held(&self) -> Option<crate::Held> {
        self.keeper.held()
    }

    pub(crate) fn published(&self) -> Option<LeaseAttrs> {
        self.keeper.published()
    }

    /// Reports whether pods of this host can reach others, for the Node's condition.
    pub(crate) fn network_is(&self, up: bool) {
        self.ready.send_if_modified(|before| before.replace(up) != Some(up));
    }

    /// The addresses that the operator sets in the Node's annotations instead of flags.
    ///
    /// # Errors
    /// An annotation is not an address.
    pub(crate) fn own_addresses(&self) -> Result<ByFamily<Option<IpAddr>>, NodeError> {
        let own = self.own.borrow();
        let node = own.node.as_ref();
        node.map_or_else(|| Ok(ByFamily::default()), |node| self.options.keys.own_addresses(&node.annotations))
    }

    /// The address of the API server, if its URL has one.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let own = self.own.borrow();
        let uri = own.api.as_ref().and_then(|api| api.server().parse::<http::Uri>().ok());
        let host = uri.as_ref().and_then(http::Uri::host);
        host.and_then(|host| host.trim_matches(['[', ']']).parse().ok()).into_iter().collect()
    }
}
