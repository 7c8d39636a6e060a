//! A double of the Kubernetes API server, for faults, for scale, and for answers that the real server of the tests is
//! too old to give. A table of cases runs against both: [`cases`].

mod access;
mod answer;
pub mod cases;
pub mod client;
mod objects;
mod patch;
mod serve;
pub mod tls;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

pub use access::User;
pub use objects::Objects;

/// How the server answers a watch that asks for all Nodes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Streaming {
    /// With all Nodes and a bookmark, as since 1.32.
    #[default]
    Full,
    /// 422, as before 1.27.
    Forbidden,
    /// An ERROR event, as with an etcd that lacks RequestWatchProgress.
    NoProgress,
}

/// An answer instead of the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The `reason` of the Status object.
    pub reason: &'static str,
    /// The `message`.
    pub message: String,
    /// `retryAfterSeconds`; 0 for none.
    pub retry_after: u32,
}

/// How an answer ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The bytes that are sent of each list or watch.
    pub after: usize,
    /// Whether nothing follows, instead of the end of the connection.
    pub then_silent: bool,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Answers to the next requests, one each.
    pub refuse: VecDeque<Refusal>,
    /// The answer to all patches.
    pub refuse_patches: Option<Refusal>,
    /// How lists as watches are answered.
    pub streaming: Streaming,
    /// Lists and watches end too early.
    pub cut: Option<Cut>,
    /// Requests are read, and not answered.
    pub silent: bool,
    /// The users, one of whose tokens a request must have. None: everybody may do everything.
    pub users: Vec<User>,
    /// Between two bookmarks of a watch.
    pub bookmarks: Duration,
    /// The longest life of a watch, whatever the client asks for.
    pub watches: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            refuse: VecDeque::new(),
            refuse_patches: None,
            streaming: Streaming::Full,
            cut: None,
            silent: false,
            users: Vec::new(),
            bookmarks: Duration::from_secs(60),
            watches: Duration::from_secs(3600),
        }
    }
}

/// What the server has, does wrong, and was asked.
#[derive(Default)]
struct State {
    objects: Objects,
    /// The certificate, for TLS.
    identity: Option<TlsAcceptor>,
    faults: Faults,
    requests: Vec<String>,
}

/// The state, and who waits for changes of it.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// All connections end.
    hang_up: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it ends it and all its connections.
pub struct Apiserver {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Apiserver {
    /// Serves on `listener`, in the network namespace where that was bound.
    ///
    /// # Errors
    /// No thread or runtime can be made.
    pub fn start(listener: TcpListener, objects: Objects) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        shared.lock().objects = objects;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = shared.clone();
        let thread = std::thread::Builder::new().name("apiserver".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// The URL for `--kube-api-url`.
    pub fn url(&self) -> String {
        let scheme = if self.shared.lock().identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves new connections by TLS with this certificate; `None`: without.
    pub fn identify(&self, identity: Option<TlsAcceptor>) {
        self.shared.lock().identity = identity;
    }

    /// Stops the server, and returns what it has, for another one.
    pub fn stop(self) -> Objects {
        std::mem::take(&mut self.shared.lock().objects)
    }

    /// Reads or changes the objects. Watches see changes.
    pub fn objects<T>(&self, work: impl FnOnce(&mut Objects) -> T) -> T {
        let done = work(&mut self.shared.lock().objects);
        self.shared.changed.notify_waiters();
        done
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.lock().faults);
    }

    /// Ends all connections.
    pub fn hang_up(&self) {
        self.shared.hang_up.notify_waiters();
    }

    /// The requests since the last call: method, path and query.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().requests)
    }
}

/// A Node as the kubelet registers it, with a podCIDR unless that is empty.
pub fn node(name: &str, pod_cidrs: &[&str]) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name },
            "annotations": { "volumes.kubernetes.io/controller-managed-attach-detach": "true" } },
        "spec": { "podCIDR": pod_cidrs.first().unwrap_or(&""), "podCIDRs": pod_cidrs },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    })
}

/// A Node that a flanneld with the backend host-gw has claimed.
pub fn claimed(name: &str, pod_cidr: &str, public_ip: &str) -> Value {
    let mut node = node(name, &[pod_cidr]);
    let prefix = "flannel.alpha.coreos.com/";
    for (key, value) in [
        ("kube-subnet-manager", "true"),
        ("backend-type", "host-gw"),
        ("backend-data", "null"),
        ("public-ip", public_ip),
    ] {
        node["metadata"]["annotations"][format!("{prefix}{key}")] = value.into();
    }
    node
}
