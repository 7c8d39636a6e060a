//! Calls of the API server. Each is bounded in time, and its error names the operation and the server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http::Request;
use kube::api::{GetParams, ListParams, Patch, PatchParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde::de::DeserializeOwned;

use super::error::{Cause, KubeError};
use super::options::{NodeName, Options};
use super::wire::{Conditioned, Node, Page, Pod};

/// Nodes per page. A Node has about 12 KB, and a page is in memory as a whole.
const PAGE: u32 = 100;

/// How long the server keeps a watch, in seconds. Not so long that a connection which died unnoticed costs much.
const WATCH: u32 = 290;

/// How long a watch may be silent: the server ends it before, and sends bookmarks about once a minute.
const SILENCE: Duration = Duration::from_secs(WATCH as u64 + 30);

const NODES: &str = "/api/v1/nodes";

/// A connection to the API server.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    server: String,
    /// How long a call may take.
    answer: Duration,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Api").field(&self.server).finish()
    }
}

/// The events of a watch.
type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent<Node>, kube::Error>> + Send>>;

/// Where a watch starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// At this version: changes only.
    Version(String),
    /// With all Nodes as they are, then a bookmark, then changes (Kubernetes 1.32 and later).
    All,
}

impl Api {
    /// Reads the credentials, and makes a client. It connects with its first call.
    pub(super) async fn new(options: &Options) -> Result<Self, KubeError> {
        let failed = |cause| KubeError { op: "read the credentials".into(), server: named(options), cause };
        let config = config(options).await.map_err(failed)?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| failed(Cause::config(error)))?;
        Ok(Self { client, server, answer: options.answer })
    }

    /// The server's URL.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    fn failed(&self, op: &str) -> impl Fn(Cause) -> KubeError + use<> {
        let (op, server) = (op.to_owned(), self.server.clone());
        move |cause| KubeError { op: op.clone(), server: server.clone(), cause }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        op: &str,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, KubeError> {
        let failed = self.failed(op);
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error).into()))?;
        bounded(self.answer, self.client.request(request)).await.map_err(failed)
    }

    /// A page of the list of Nodes. An empty token asks for the first one.
    pub(super) async fn page(&self, token: &str) -> Result<Page, KubeError> {
        let mut params = ListParams::default().limit(PAGE);
        if !token.is_empty() {
            params = params.continue_token(token);
        }
        self.call("list nodes", kube::core::Request::new(NODES).list(&params)).await
    }

    /// Starts a watch. The stream ends when the server ends the watch, and with an error when it is silent: for the time of an
    /// answer while it sends all Nodes, and for longer than its bookmarks take while it sends changes.
    pub(super) async fn watch(
        &self,
        from: &From,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Node>, KubeError>> + use<>, KubeError> {
        let failed = self.failed("watch nodes");
        let params = WatchParams::default().timeout(WATCH);
        let request = kube::core::Request::new(NODES);
        let request = match from {
            From::Version(version) => request.watch(&params, version),
            From::All => request.watch(&params.initial_events(), "0"),
        };
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error).into()))?;
        let events = bounded(self.answer, self.client.request_events::<Node>(request)).await.map_err(&failed)?;
        let events: Events = Box::pin(events);
        let silence = if *from == From::All { self.answer } else { SILENCE };
        Ok(futures_util::stream::unfold((events, failed, silence), async |(mut events, failed, silence)| {
            let event = match tokio::time::timeout(silence, events.next()).await {
                Ok(event) => event?.map_err(|error| failed(error.into())),
                Err(_) => Err(failed(Cause::Timeout(silence))),
            };
            let event = event.and_then(|event| match event {
                WatchEvent::Error(status) => Err(failed(Cause::Answer(status))),
                event => Ok(event),
            });
            Some((event, (events, failed, silence)))
        }))
    }

    /// The name of this host's Node.
    pub(super) async fn node_name(&self, node: &NodeName) -> Result<String, KubeError> {
        let (namespace, pod) = match node {
            NodeName::Named(name) => return Ok(name.clone()),
            NodeName::OfPod { namespace, pod } => (namespace, pod),
        };
        let op = format!("find the node of pod {namespace}/{pod}");
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let answer: Pod = self.call(&op, kube::core::Request::new(path).get(pod, &GetParams::default())).await?;
        match answer.spec.node_name.is_empty() {
            true => Err(self.failed(&op)(Cause::Cut)),
            false => Ok(answer.spec.node_name),
        }
    }

    /// One Node with its conditions.
    pub(super) async fn conditions(&self, name: &str) -> Result<Conditioned, KubeError> {
        let op = format!("read the node {name}");
        self.call(&op, kube::core::Request::new(NODES).get(name, &GetParams::default())).await
    }

    /// Changes a Node's annotations or conditions, through its status, as upstream does. Returns the changed Node.
    pub(super) async fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<Node, KubeError> {
        let request = kube::core::Request::new(NODES);
        let request = request.patch_subresource("status", name, &PatchParams::default(), &Patch::Strategic(patch));
        self.call(&format!("patch the node {name}"), request).await
    }
}

/// What messages call the server before its URL is known.
pub(super) fn named(options: &Options) -> String {
    options.api_url.clone().unwrap_or_else(|| "the API server".to_owned())
}

/// Waits for an answer, but not for ever.
async fn bounded<T>(limit: Duration, answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Cause> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(Cause::from),
        Err(_) => Err(Cause::Timeout(limit)),
    }
}

/// The credentials: of the kubeconfig file, or of the pod's service account. Certificates and tokens are read again at
/// each call of this function, because they are renewed.
async fn config(options: &Options) -> Result<Config, Cause> {
    let mut config = match (&options.kubeconfig, &options.api_url) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(Cause::config)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(Cause::config)?
        }
        (None, Some(url)) => Config::new(uri(url)?),
        (None, None) => Config::incluster().map_err(Cause::config)?,
    };
    if let (Some(_), Some(url)) = (&options.kubeconfig, &options.api_url) {
        config.cluster_url = uri(url)?;
    }
    if config.cluster_url.scheme_str() == Some("http") {
        // else the client looks for the system's certificates, which it would not use and an image may not have
        config.root_cert = Some(Vec::new());
    }
    // silence is bounded here, and the follower tries again and says why
    (config.read_timeout, config.default_retry) = (Some(SILENCE + options.answer), false);
    Ok(config)
}

/// As client-go, a URL without a scheme is `http`.
fn uri(url: &str) -> Result<http::Uri, Cause> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    whole.parse().map_err(Cause::config)
}
