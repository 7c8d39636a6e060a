//! `/healthz`, `/readyz` and `/metrics`, by HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::metrics::{self, Metrics};
use crate::status::rfc3339;

/// A probe sends its request at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at a time; the next one waits.
const MOST: usize = 64;

/// What `/readyz` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    /// The host's own data path is up, and it was made from all that the store held.
    pub ready: bool,
    /// Since when the store cannot be followed, and why; `None` while it is.
    pub stale: Option<(SystemTime, Arc<str>)>,
}

impl Ready {
    /// What a person should know beside the answer, as lines.
    fn note(&self) -> String {
        let Some((since, why)) = &self.stale else { return String::new() };
        let age = SystemTime::now().duration_since(*since).unwrap_or_default().as_secs();
        format!("\nthe store was last heard {age} s ago, at {}: {why}\n", rfc3339(*since))
    }
}

/// The server. It ends with this.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Health {
    /// Serves on `address`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn serve(address: SocketAddr, ready: watch::Receiver<Ready>, metrics: Metrics) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(accept(listener, ready, metrics)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens: with port 0 asked for, the one that was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, ready: watch::Receiver<Ready>, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (ready, metrics) = (ready.clone(), metrics.clone());
                tokio::spawn(async move {
                    converse(stream, &ready, &metrics).await;
                    drop(place);
                });
            }
            // the peer has gone, or there is no descriptor left: others may still be served
            Err(error) => {
                tracing::debug!(%error, "health: a connection cannot be accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn converse(stream: TcpStream, ready: &watch::Receiver<Ready>, metrics: &Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.uri().path(), &ready.borrow(), metrics);
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

/// Upstream's answers, to any method.
fn answer(path: &str, ready: &Ready, metrics: &Metrics) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, text) = match path {
        "/healthz" => (StatusCode::OK, TEXT, "flanneld is running".to_owned()),
        "/readyz" if ready.ready => (StatusCode::OK, TEXT, format!("flanneld is ready{}", ready.note())),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("flanneld is not ready yet{}", ready.note())),
        "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, metrics.text()),
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
        let (tell, ready) = watch::channel(Ready::default());
        let metrics = Metrics::default();
        let health = Health::serve("127.0.0.1:0".parse().unwrap(), ready.clone(), metrics.clone()).unwrap();
        let at = health.address();
        let ends = |text: String, status: &str, body: &str| {
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")) && text.ends_with(body), "{text}");
        };
        ends(get(at, "GET /healthz").await, "200", "\r\n\r\nflanneld is running");
        ends(get(at, "POST /readyz").await, "503", "\r\n\r\nflanneld is not ready yet");
        tell.send_replace(Ready { ready: true, stale: None });
        ends(get(at, "GET /readyz?verbose").await, "200", "\r\n\r\nflanneld is ready");
        let since = SystemTime::now() - Duration::from_secs(90);
        tell.send_replace(Ready { ready: true, stale: Some((since, "connection refused".into())) });
        let text = get(at, "GET /readyz").await;
        assert!(text.contains("\r\n\r\nflanneld is ready\nthe store was last heard 9"), "{text}");
        ends(text, "200", ": connection refused\n");
        ends(get(at, "GET /metrics").await, "200", "# EOF\n");
        ends(get(at, "GET /").await, "404", "404 page not found\n");
        assert!(Health::serve(at, ready, metrics).is_err(), "the port is taken");
    }

    #[tokio::test]
    async fn those_who_say_nothing_do_not_keep_others_out() {
        let (_tell, ready) = watch::channel(Ready::default());
        let health = Health::serve("127.0.0.1:0".parse().unwrap(), ready, Metrics::default()).unwrap();
        let mut silent = Vec::new();
        for _ in 0..MOST / 2 {
            silent.push(TcpStream::connect(health.address()).await.unwrap());
        }
        assert!(get(health.address(), "GET /healthz").await.ends_with("flanneld is running"));
    }
}
