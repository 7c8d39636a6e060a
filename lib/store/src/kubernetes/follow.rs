//! Follows all Nodes: a list, or a streaming list, and then a watch. After a failure the watch continues where it
//! ended, unless the server has forgotten that place.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use kube::core::WatchEvent;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Api, From};
use super::config::{self, ConfigFile};
use super::error::{Cause, KubeError};
use super::nodes::{Nodes, Rules};
use super::options::{NodeName, Options};
use super::own::{Own, OwnNode};
use super::saved::Saved;
use super::wire::{Node, Page};
use crate::backoff::Backoff;
use crate::error::StoreError;
use crate::feed::Publisher;
use crate::snapshot::Event;

/// The bookmark that ends the first events of a streaming list has this annotation.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Between two writes of the file of the last known leases. With 10,000 Nodes it has 2.5 MB.
const SAVE: Duration = Duration::from_secs(2);

/// The pause before the next attempt to write it.
const SAVE_AGAIN: Duration = Duration::from_secs(60);

/// Why a watch ended without an error.
enum Ended {
    /// Its time is up.
    ByServer,
    /// The configuration has other families, with which all Nodes must be read again.
    ByConfig,
}

/// Publishes the Nodes as leases.
pub(super) struct Follower {
    /// The name of the store in messages.
    name: Arc<str>,
    options: Arc<Options>,
    feed: Publisher,
    own: Arc<watch::Sender<Own>>,
    api: Option<Api>,
    /// Whether the server can send a list as a watch, as far as is known.
    streaming: bool,
    /// The Nodes, once they are known.
    nodes: Option<Nodes>,
    /// The version up to which the Nodes are known.
    version: Option<String>,
    config: Option<Arc<[u8]>>,
    /// When the last known leases are saved; `None`: they are.
    save: Option<Instant>,
}

impl Follower {
    pub(super) fn new(name: Arc<str>, options: Arc<Options>, feed: Publisher, own: Arc<watch::Sender<Own>>) -> Self {
        let (api, nodes, version, config, save) = (None, None, None, None, None);
        Self { name, options, feed, own, api, streaming: true, nodes, version, config, save }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.follow(&mut backoff).await;
            if self.save.is_some() {
                // the watch that would have saved them later has ended
                self.save().await;
            }
            if let StoreError::Kube(error) = &error {
                self.forget(error);
            }
            self.remember().await;
            let asked = if let StoreError::Kube(error) = &error { error.retry_after() } else { None };
            let wait = asked.unwrap_or_default().max(backoff.next());
            if self.feed.fail(&error, SystemTime::now()) {
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "cannot follow the store; keeping its last known leases");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Forgets what an error makes useless.
    fn forget(&mut self, error: &KubeError) {
        if error.is_gone() {
            self.version = None;
        }
        if error.needs_new_client() {
            self.api = None;
        }
    }

    /// Follows until an error.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, StoreError> {
        // the watch starts before the first reading, so that no change falls between the two
        let mut file = ConfigFile::watch(&self.options.net_config)?;
        if self.read_config()? {
            self.version = None;
        }
        let api = self.connect().await?;
        loop {
            if self.version.is_none() {
                self.read_all(&api).await?;
            }
            match self.watch(&api, &mut file, backoff).await {
                Err(StoreError::Kube(error)) if error.is_gone() => self.version = None,
                Ok(Ended::ByConfig) => {
                    self.version = None;
                    continue;
                }
                Ok(Ended::ByServer) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn connect(&mut self) -> Result<Api, StoreError> {
        let api = match &self.api {
            Some(api) => api.clone(),
            None => {
                self.streaming = true;
                Api::new(&self.options).await?
            }
        };
        let known = self.own.borrow().name.clone();
        let name: Arc<str> = match known {
            Some(name) => name,
            None => api.node_name(&self.options.node).await?.into(),
        };
        self.name = format!("kubernetes {}", api.server()).into();
        self.api = Some(api.clone());
        self.own.send_modify(|own| (own.api, own.name) = (Some(api.clone()), Some(name)));
        Ok(api)
    }

    /// Reads the configuration. Returns whether other families are on, so that Nodes must be read again.
    fn read_config(&mut self) -> Result<bool, StoreError> {
        self.config = config::read(&self.options.net_config)?;
        self.feed.apply([Event::Config(self.config.clone())]);
        let on = config::families(self.config.as_ref());
        Ok(self.nodes.as_ref().is_some_and(|nodes| nodes.rules().on != on))
    }

    fn fresh(&self) -> Nodes {
        Nodes::new(Rules { keys: self.options.keys.clone(), on: config::families(self.config.as_ref()) })
    }

    /// Reads all Nodes, and publishes them at once.
    async fn read_all(&mut self, api: &Api) -> Result<(), StoreError> {
        let (nodes, own, version) = match self.streaming {
            true => match self.stream(api).await {
                Err(StoreError::Kube(error)) if error.lacks_streaming() => {
                    tracing::debug!(%error, "the server sends no list as a watch; reading pages");
                    self.streaming = false;
                    self.list(api).await?
                }
                read => read?,
            },
            false => self.list(api).await?,
        };
        self.set_own(own);
        self.feed.replace(self.name.clone(), nodes.snapshot(self.config.clone()));
        (self.nodes, self.version) = (Some(nodes), Some(version));
        self.save.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn own_name(&self) -> Arc<str> {
        self.own.borrow().name.clone().unwrap_or_default()
    }

    fn set_own(&self, own: Option<OwnNode>) {
        self.own.send_modify(|known| (known.node, known.read) = (own, true));
    }

    /// Reads pages.
    async fn list(&self, api: &Api) -> Result<(Nodes, Option<OwnNode>, String), StoreError> {
        let (mut nodes, mut own, name) = (self.fresh(), None, self.own_name());
        let mut token = String::new();
        loop {
            let Page { metadata, items } = api.page(&token).await?;
            for node in items {
                if *node.metadata.name == *name {
                    own = Some(OwnNode::new(&node, &self.options));
                }
                nodes.put(&node);
            }
            match metadata.next.is_empty() {
                true => return Ok((nodes, own, metadata.resource_version)),
                false => token = metadata.next,
            }
        }
    }

    /// Reads a streaming list up to its bookmark.
    async fn stream(&self, api: &Api) -> Result<(Nodes, Option<OwnNode>, String), StoreError> {
        let (mut nodes, mut own, name) = (self.fresh(), None, self.own_name());
        let mut events = pin!(api.watch(&From::All).await?);
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                    if *node.metadata.name == *name {
                        own = Some(OwnNode::new(&node, &self.options));
                    }
                    nodes.put(&node);
                }
                WatchEvent::Deleted(node) => {
                    if *node.metadata.name == *name {
                        own = None;
                    }
                    nodes.remove(&node.metadata.name);
                }
                WatchEvent::Bookmark(mark) if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) => {
                    return Ok((nodes, own, mark.metadata.resource_version));
                }
                WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
            }
        }
        let (op, server) = ("list nodes".to_owned(), api.server().to_owned());
        Err(KubeError { op, server, cause: Cause::Cut }.into())
    }

    /// Follows changes until the watch ends. One that has lasted starts the back-off over: the Nodes may be known from before,
    /// and a server may end each watch at once.
    async fn watch(&mut self, api: &Api, file: &mut ConfigFile, backoff: &mut Backoff) -> Result<Ended, StoreError> {
        let from = From::Version(self.version.clone().unwrap_or_default());
        let events = api.watch(&from).await?;
        self.feed.resume(self.name.clone());
        let opened = Instant::now();
        let ended = self.take_all(events, file).await;
        backoff.lasted(opened.elapsed());
        ended
    }

    async fn take_all(
        &mut self,
        events: impl Stream<Item = Result<WatchEvent<Node>, KubeError>>,
        file: &mut ConfigFile,
    ) -> Result<Ended, StoreError> {
        let mut events = pin!(events);
        loop {
            let save = self.save;
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event?),
                    None => return Ok(Ended::ByServer),
                },
                changed = file.changed() => {
                    changed?;
                    if self.read_config()? {
                        return Ok(Ended::ByConfig);
                    }
                }
                () = until(save) => self.save().await,
            }
        }
    }

    /// Takes one event of the watch.
    fn take(&mut self, event: WatchEvent<Node>) {
        let Some(nodes) = &mut self.nodes else { return };
        let (node, gone) = match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => (node, false),
            WatchEvent::Deleted(node) => (node, true),
            WatchEvent::Bookmark(mark) => {
                self.version = Some(mark.metadata.resource_version);
                return;
            }
            WatchEvent::Error(_) => return,
        };
        let name = &node.metadata.name;
        let events = if gone { nodes.remove(name) } else { nodes.put(&node) };
        let own = self.own.borrow().name.as_deref() == Some(name);
        self.version = Some(node.metadata.resource_version.clone());
        let of_host = own && self.own_is((!gone).then(|| OwnNode::new(&node, &self.options)));
        if !events.is_empty() || of_host {
            self.save.get_or_insert_with(|| Instant::now() + SAVE);
        }
        if !events.is_empty() {
            self.feed.apply(events);
        }
        if of_host {
            self.feed.nudge();
        }
    }

    /// Remembers this host's Node. Returns whether it has changed.
    fn own_is(&self, node: Option<OwnNode>) -> bool {
        self.own.send_if_modified(|own| {
            let changed = own.node != node;
            own.node = node;
            changed
        })
    }

    /// Saves the last known leases.
    async fn save(&mut self) {
        self.save = None;
        let Some(nodes) = &self.nodes else { return };
        let saved = {
            let own = self.own.borrow();
            Saved::now(own.name.as_deref().unwrap_or_default(), own.node.as_ref(), nodes)
        };
        let path: PathBuf = self.options.saved.clone();
        let written = crate::thread::run(move || saved.write(&path)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%error, "the last known leases are not saved");
        self.save = Some(Instant::now() + SAVE_AGAIN);
    }

    /// While nothing was read yet, publishes what was saved.
    async fn remember(&mut self) {
        if self.nodes.is_some() || self.config.is_none() {
            return;
        }
        let path = self.options.saved.clone();
        let Ok(Some(saved)) = crate::thread::run(move || Saved::read(&path)).await else { return };
        let at = saved.at();
        let (name, own) = saved.own();
        if matches!(&self.options.node, NodeName::Named(named) if named != name) {
            return;
        }
        self.own.send_modify(|known| {
            known.name.get_or_insert_with(|| name.into());
            known.node = Some(own);
        });
        let mut nodes = self.fresh();
        saved.restore(&mut nodes);
        tracing::warn!(
            leases = nodes.len(),
            "the API server does not answer: starting with the leases that were saved"
        );
        self.feed.remember(self.name.clone(), nodes.snapshot(self.config.clone()), at);
        self.nodes = Some(nodes);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
