//! Requests and answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Faults, Refusal, Shared, Streaming};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let served = shared.clone();
            let service = service_fn(move |request| answer(served.clone(), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = shared.hang_up.notified() => {}
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let asked = format!("{} {}", request.method(), request.uri());
    let refused = {
        let mut state = shared.lock();
        state.requests.push(asked.clone());
        let token = state.faults.token.clone();
        let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        match token {
            Some(token) if bearer != Some(&format!("Bearer {token}")) => {
                Some(Refusal { code: 401, reason: "Unauthorized", message: "Unauthorized".into(), retry_after: 0 })
            }
            _ => state.faults.refuse.pop_front(),
        }
    };
    Ok(match refused {
        Some(refusal) => status(&refusal),
        None => route(shared, request).await,
    })
}

async fn route(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = query(request.uri().query().unwrap_or_default());
    match (request.method().clone(), parts.as_slice()) {
        (Method::GET, ["api", "v1", "nodes"]) if query.get("watch").is_some_and(|watch| watch == "true") => {
            watch(shared, &query)
        }
        (Method::GET, ["api", "v1", "nodes"]) => {
            let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or_default();
            let token = query.get("continue").cloned().unwrap_or_default();
            let (page, cut) = {
                let state = shared.lock();
                (state.objects.page(limit, &token), state.faults.cut)
            };
            whole(StatusCode::OK, &page, cut)
        }
        (Method::GET, ["api", "v1", "nodes", name]) => found(name, shared.lock().objects.node(name).cloned()),
        (Method::PATCH, ["api", "v1", "nodes", name, "status"]) => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let patch = serde_json::from_slice(&body).unwrap_or_default();
            let patched = shared.lock().objects.patch(name, &patch);
            shared.changed.notify_waiters();
            found(name, patched)
        }
        (Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
            let node = shared.lock().objects.pod_node(namespace, name).map(str::to_owned);
            found(
                name,
                node.map(|node| json!({ "kind": "Pod", "metadata": { "name": name }, "spec": { "nodeName": node } })),
            )
        }
        _ => status(&Refusal {
            code: 404,
            reason: "NotFound",
            message: "the server could not find the requested resource".into(),
            retry_after: 0,
        }),
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.replace("%3D", "="))).collect()
}

fn found(name: &str, object: Option<Value>) -> Response<Body> {
    match object {
        Some(object) => whole(StatusCode::OK, &object, None),
        None => {
            let message = format!("nodes {name:?} not found");
            status(&Refusal { code: 404, reason: "NotFound", message, retry_after: 0 })
        }
    }
}

fn object(refusal: &Refusal) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": refusal.message,
        "reason": refusal.reason, "code": refusal.code, "details": { "retryAfterSeconds": refusal.retry_after },
    })
}

fn status(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(code, &object(refusal), None)
}

/// A whole answer, or its first bytes and then the end of the connection.
fn whole(code: StatusCode, object: &Value, cut: Option<usize>) -> Response<Body> {
    let text = object.to_string();
    let body = match cut {
        None => Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync(),
        Some(most) => {
            let part = Bytes::from(text.as_bytes()[..most.min(text.len())].to_vec());
            let broken = std::io::Error::other("cut");
            let frames = futures_util::stream::iter([Ok(Frame::data(part)), Err(broken)]);
            StreamBody::new(frames).boxed_unsync()
        }
    };
    response(code, body)
}

fn response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn watch(shared: Arc<Shared>, query: &BTreeMap<String, String>) -> Response<Body> {
    let all = query.get("sendInitialEvents").is_some_and(|all| all == "true");
    let faults = shared.lock().faults.clone();
    if all && faults.streaming == Streaming::Forbidden {
        let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
                       forbidden for watch";
        return status(&Refusal { code: 422, reason: "Invalid", message: message.into(), retry_after: 0 });
    }
    let version = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let asked = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let life = asked.unwrap_or(faults.watches).min(faults.watches);
    let (lines, mut receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        // the client may be gone, or its time is up
        let _ = tokio::time::timeout(life, follow(shared, version, all, faults, lines)).await;
    });
    let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let frames = frames.map(|line: String| Ok(Frame::data(Bytes::from(line))));
    response(StatusCode::OK, StreamBody::new(frames).boxed_unsync())
}

/// Sends the lines of a watch.
async fn follow(
    shared: Arc<Shared>,
    mut version: u64,
    all: bool,
    faults: Faults,
    lines: mpsc::Sender<String>,
) -> Result<(), mpsc::error::SendError<String>> {
    let line = |event: Value| format!("{event}\n");
    if all && faults.streaming == Streaming::NoProgress {
        let message = "a watch stream was requested by the client but the required storage feature RequestWatchProgress is \
                       disabled";
        let refusal = Refusal { code: 500, reason: "InternalError", message: message.into(), retry_after: 0 };
        return lines.send(line(json!({ "type": "ERROR", "object": object(&refusal) }))).await;
    }
    if all {
        let nodes: Vec<Value> = {
            let state = shared.lock();
            version = state.objects.version();
            state.objects.all().cloned().collect()
        };
        let mut sent = 0;
        for node in nodes {
            let text = line(json!({ "type": "ADDED", "object": node }));
            sent += text.len();
            if faults.cut.is_some_and(|cut| sent > cut) {
                return Ok(());
            }
            lines.send(text).await?;
        }
        lines.send(line(bookmark(version, true))).await?;
    }
    let mut bookmarks = tokio::time::interval(faults.bookmarks);
    bookmarks.tick().await;
    loop {
        let mut changed = std::pin::pin!(shared.changed.notified());
        changed.as_mut().enable();
        let changes: Option<Vec<_>> = shared.lock().objects.since(version).map(<[_]>::to_vec);
        let Some(changes) = changes else {
            let message = format!("too old resource version: {version}");
            let gone = Refusal { code: 410, reason: "Expired", message, retry_after: 0 };
            return lines.send(line(json!({ "type": "ERROR", "object": object(&gone) }))).await;
        };
        for change in changes {
            version = change.version;
            lines.send(line(change.event)).await?;
        }
        tokio::select! {
            () = changed => {}
            _ = bookmarks.tick() => lines.send(line(bookmark(version, false))).await?,
        }
    }
}

fn bookmark(version: u64, end: bool) -> Value {
    let mut metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
    if end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    json!({ "type": "BOOKMARK", "object": { "kind": "Node", "apiVersion": "v1", "metadata": metadata } })
}
