//! Serves `/healthz`, `/readyz` and `/metrics` over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::metrics::{Exposition, Metrics};
use crate::supervise::{Ended, Task};
use overlay::status::rfc3339;
use store::backoff::Backoff;

/// The time limit for a request. A probe sends its request at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most connections at a time.
const MOST: usize = 64;

/// The longest pause after a connection could not be accepted. A probe waits for a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// The answer of `/readyz`: this host is ready while all conditions hold. Clones share the conditions.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Conditions>>);

#[derive(Debug, Default)]
struct Conditions {
    /// The conditions by name, each with the reason if it does not hold.
    all: BTreeMap<&'static str, Result<(), String>>,
    /// Since when the store cannot be read, and why; `None` if it can. The host stays ready.
    stale: Option<(SystemTime, Arc<str>)>,
}

impl Readiness {
    /// Sets a condition. Its owner must set it before anybody asks.
    pub fn set(&self, name: &'static str, holds: Result<(), String>) {
        self.lock().all.insert(name, holds);
    }

    /// Sets since when the store cannot be read, and why.
    pub fn set_stale(&self, stale: Option<(SystemTime, Arc<str>)>) {
        self.lock().stale = stale;
    }

    /// Whether there is a condition and all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    fn lock(&self) -> MutexGuard<'_, Conditions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status code and text of the answer.
    fn answer(&self) -> (StatusCode, String) {
        let conditions = self.lock();
        let (status, mut text) = match conditions.is_ready() {
            true => (StatusCode::OK, "flanneld is ready".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet".to_owned()),
        };
        let unmet = conditions.all.iter().filter_map(|(name, holds)| Some((name, holds.as_ref().err()?)));
        for (name, why) in unmet {
            text.push_str(&format!("\n{name}: {why}"));
        }
        if let Some((since, why)) = &conditions.stale {
            let age = SystemTime::now().duration_since(*since).unwrap_or_default().as_secs();
            text.push_str(&format!("\nthe store cannot be read for {age} s, since {}: {why}", rfc3339(*since)));
        }
        if text.contains('\n') {
            text.push('\n');
        }
        (status, text)
    }
}

impl Conditions {
    fn is_ready(&self) -> bool {
        !self.all.is_empty() && self.all.values().all(Result::is_ok)
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    task: Task,
}

impl Health {
    /// Serves on `address`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn serve(address: SocketAddr, ready: Readiness, metrics: Metrics) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = Task::spawn("the health server", accept(listener, ready, metrics));
        Ok(Self { address, task })
    }

    /// The address that it is bound to. If port 0 was requested, this has the assigned port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.task.ended().await
    }
}

/// Accepts connections while it is polled. Every connection is served: if there are too many, or no descriptor is left,
/// the one that has been idle for longest is closed.
async fn accept(listener: TcpListener, ready: Readiness, metrics: Metrics) {
    let (mut places, mut conversations) = (Places::default(), JoinSet::new());
    let mut backoff = Backoff::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                backoff.reset();
                while conversations.try_join_next().is_some() {}
                let (ready, metrics, used) = (ready.clone(), metrics.clone(), places.take());
                let task = conversations.spawn({
                    let used = used.clone();
                    async move { converse(stream, &ready, &metrics, &used).await }
                });
                places.put(used, task);
            }
            // the peer has gone, or no descriptor is left; other connections may still be served
            Err(error) => {
                let wait = backoff.next();
                tracing::debug!(%error, retry_ms = wait.as_millis() as u64, "health: a connection cannot be accepted");
                places.free_one();
                tokio::time::sleep(wait.min(LONGEST_PAUSE)).await;
            }
        }
    }
}

/// The time of a connection's last use, as a count of all uses.
type Used = Arc<AtomicU64>;

/// The open connections.
#[derive(Debug, Default)]
struct Places {
    open: Vec<(Used, AbortHandle)>,
    count: Arc<AtomicU64>,
}

impl Places {
    /// Makes room for one more connection.
    fn take(&mut self) -> Use {
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() >= MOST {
            self.free_one();
        }
        let used = Use { used: Arc::default(), count: self.count.clone() };
        used.now();
        used
    }

    fn put(&mut self, used: Use, task: AbortHandle) {
        self.open.push((used.used, task));
    }

    /// Closes the connection that has been idle for longest.
    fn free_one(&mut self) {
        let idlest = self.open.iter().enumerate().min_by_key(|(_, (used, _))| used.load(Ordering::Relaxed));
        if let Some(at) = idlest.map(|(at, _)| at) {
            self.open.swap_remove(at).1.abort();
        }
    }
}

/// Notes each use of a connection.
#[derive(Debug, Clone)]
struct Use {
    used: Used,
    count: Arc<AtomicU64>,
}

impl Use {
    fn now(&self) {
        self.used.store(self.count.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

async fn converse(stream: TcpStream, ready: &Readiness, metrics: &Metrics, used: &Use) {
    let service = service_fn(|request: Request<Incoming>| {
        used.now();
        let response = answer(&request, ready, metrics);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "health: a connection ended");
    }
}

/// Upstream's answers; the method does not matter.
fn answer(request: &Request<Incoming>, ready: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let exposition = Exposition::accepted(accept);
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, TEXT, "flanneld is running".to_owned()),
        "/readyz" => {
            let (status, text) = ready.answer();
            (status, TEXT, text)
        }
        "/metrics" => {
            metrics.set_ready(ready.is_ready());
            (StatusCode::OK, exposition.content_type(), metrics.text(exposition))
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn probes_get_upstreams_answers() {
        let ready = Readiness::default();
        let metrics = Metrics::default();
        let health = Health::serve("127.0.0.1:0".parse().unwrap(), ready.clone(), metrics.clone()).unwrap();
        let at = health.address();
        let ends = |text: String, status: &str, body: &str| {
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")) && text.ends_with(body), "{text}");
        };
        ends(get(at, "GET /healthz").await, "200", "\r\n\r\nflanneld is running");
        ends(get(at, "POST /readyz").await, "503", "\r\n\r\nflanneld is not ready yet");
        ready.set("overlay", Ok(()));
        ready.set("subnet file", Err("disk full".into()));
        let why = "\r\n\r\nflanneld is not ready yet\nsubnet file: disk full\n";
        ends(get(at, "GET /readyz").await, "503", why);
        ready.set("subnet file", Ok(()));
        ends(get(at, "GET /readyz?verbose").await, "200", "\r\n\r\nflanneld is ready");
        let since = SystemTime::now() - Duration::from_secs(90);
        ready.set_stale(Some((since, "connection refused".into())));
        let text = get(at, "GET /readyz").await;
        assert!(text.contains("\r\n\r\nflanneld is ready\nthe store cannot be read for 9"), "{text}");
        ends(text, "200", ": connection refused\n");
        assert!(get(at, "GET /metrics").await.contains("content-type: text/plain; version=0.0.4"));
        let mut stream = TcpStream::connect(at).await.unwrap();
        let accept =
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: application/openmetrics-text\r\n\r\n";
        stream.write_all(accept).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        ends(text, "200", "# EOF\n");
        ends(get(at, "GET /").await, "404", "404 page not found\n");
        assert!(Health::serve(at, ready, metrics).is_err(), "the port is taken");
    }

    /// Sends a request, keeps the connection open, and reads the answer.
    async fn ask(stream: &mut TcpStream) -> io::Result<String> {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut text = Vec::new();
        while !text.ends_with(b"flanneld is running") {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn connected(health: &Health, how_many: usize) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for _ in 0..how_many {
            streams.push(TcpStream::connect(health.address()).await.unwrap());
        }
        streams
    }

    fn serve() -> Health {
        Health::serve("127.0.0.1:0".parse().unwrap(), Readiness::default(), Metrics::default()).unwrap()
    }

    /// Waits for at most 5 s; a probe waits for a second or more.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), what).await.expect("healthz does not answer")
    }

    #[tokio::test]
    async fn those_who_stay_do_not_keep_others_out() {
        for asks in [true, false] {
            let health = serve();
            let mut others = Vec::new();
            for _ in 0..70 {
                others.extend(connected(&health, 1).await);
                if let (true, Some(last)) = (asks, others.last_mut()) {
                    soon(ask(last)).await.unwrap();
                }
            }
            assert!(soon(get(health.address(), "GET /healthz")).await.ends_with("flanneld is running"), "{asks}");
        }
    }

    #[tokio::test]
    async fn the_one_that_is_idle_for_longest_goes() {
        let health = serve();
        let mut streams = connected(&health, MOST).await;
        for stream in &mut streams {
            soon(ask(stream)).await.unwrap();
        }
        // use the first one again
        soon(ask(&mut streams[0])).await.unwrap();
        let mut more = connected(&health, 1).await;
        soon(ask(&mut more[0])).await.unwrap();
        soon(ask(&mut streams[0])).await.unwrap();
        assert!(soon(ask(&mut streams[1])).await.is_err(), "the idlest is closed");
        soon(ask(&mut streams[2])).await.unwrap();
    }

    #[tokio::test]
    async fn requests_in_parts_and_answers_that_nobody_reads_do_not_keep_others_out() {
        let health = serve();
        let mut streams = connected(&health, 2 * MOST).await;
        for (n, stream) in streams.iter_mut().enumerate() {
            let part: &[u8] = if n % 2 == 0 { b"GET /met" } else { b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" };
            // the server has already closed the first ones
            let _ = stream.write_all(part).await;
        }
        assert!(soon(get(health.address(), "GET /healthz")).await.ends_with("flanneld is running"));
    }
}
