//! Connections and requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use super::access::Asked;
use super::answer::{self, Body, error, list, refused, status, whole};
use super::objects;
use super::patch::Kind;
use super::watch::watch;

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let identity = shared.lock().identity.clone();
        tokio::spawn(async move {
            match identity {
                None => serve(stream, shared).await,
                Some(identity) => {
                    if let Ok(stream) = identity.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let served = shared.clone();
    let service = service_fn(move |request| respond(served.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = shared.hang_up.notified() => {}
    }
}

async fn respond(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = query(request.uri().query().unwrap_or_default());
    let refused = refuse(&shared, &request, &parts, &query);
    let silent = shared.lock().faults.silent;
    if silent {
        std::future::pending::<()>().await;
    }
    Ok(match refused {
        Some(refusal) => refusal,
        None => route(shared, request, &parts, &query).await,
    })
}

/// The answer to a request that is refused, before it is looked at.
fn refuse(
    shared: &Shared,
    request: &Request<Incoming>,
    parts: &[&str],
    query: &BTreeMap<String, String>,
) -> Option<Response<Body>> {
    let mut state = shared.lock();
    state.requests.push(format!("{} {}", request.method(), request.uri()));
    let users = state.faults.users.clone();
    let asked = of_api(parts).and_then(|parts| Asked::of(request.method().as_str(), is_watch(query), parts));
    if !users.is_empty() {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        let Some(user) = users.iter().find(|user| Some(user.token.as_str()) == token) else {
            return Some(error(401, "Unauthorized", "Unauthorized".into()));
        };
        if let Some(asked) = asked.as_ref().filter(|asked| !asked.is_allowed(user)) {
            return Some(error(403, "Forbidden", asked.forbidden(&user.name)));
        }
    }
    if asked.is_none() {
        return Some(error(404, "NotFound", "the server could not find the requested resource".into()));
    }
    state.faults.refuse.pop_front().map(|refusal| status(&refusal))
}

fn of_api<'a, 'b>(parts: &'a [&'b str]) -> Option<&'a [&'b str]> {
    match parts {
        ["api", "v1", rest @ ..] => Some(rest),
        _ => None,
    }
}

fn is_watch(query: &BTreeMap<String, String>) -> bool {
    query.get("watch").is_some_and(|watch| watch == "true" || watch == "1")
}

/// Percent-decoded pairs (application/x-www-form-urlencoded).
fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn route(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    parts: &[&str],
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let name = |parts: &[&str]| parts.get(1).copied().unwrap_or_default().to_owned();
    match (request.method().clone(), of_api(parts).unwrap_or_default()) {
        (Method::GET, ["nodes"]) if is_watch(query) => watch(shared, query),
        (Method::GET, ["nodes"]) => page(&shared, query),
        (Method::GET, ["nodes", name]) => {
            let node = shared.lock().objects.text(name);
            found(node, "nodes", name)
        }
        (Method::POST, ["nodes"]) => {
            let node = body(request).await;
            let created = shared.lock().objects.create(node.clone());
            shared.changed.notify_waiters();
            changed(created, StatusCode::CREATED, node["metadata"]["name"].as_str().unwrap_or_default())
        }
        (Method::DELETE, ["nodes", name]) => {
            let was = shared.lock().objects.delete(name);
            shared.changed.notify_waiters();
            if was { answer::success() } else { refused(name, &objects::Refused::Absent) }
        }
        (Method::PATCH, parts @ (["nodes", _] | ["nodes", _, "status"])) => {
            let (name, status) = (name(parts), parts.len() == 3);
            patch(&shared, request, &name, status).await
        }
        (Method::GET, ["namespaces", namespace, "pods", name]) => {
            let pod = shared.lock().objects.find_pod(namespace, name).map(Value::to_string);
            found(pod, "pods", name)
        }
        (Method::POST, ["namespaces", namespace, "pods"]) => {
            let namespace = (*namespace).to_owned();
            let pod = body(request).await;
            shared.lock().objects.put_pod(&namespace, pod.clone());
            whole(StatusCode::CREATED, pod.to_string(), None)
        }
        _ => error(405, "MethodNotAllowed", "the server does not allow this method on the requested resource".into()),
    }
}

async fn body(request: Request<Incoming>) -> Value {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    serde_json::from_slice(&body).unwrap_or_default()
}

fn page(shared: &Shared, query: &BTreeMap<String, String>) -> Response<Body> {
    let given = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    // from its cache the server sends all, whatever the limit
    let cached = given("resourceVersion") == "0";
    let limit = if cached { 0 } else { given("limit").parse().unwrap_or_default() };
    let mut state = shared.lock();
    let Some(page) = state.objects.page(limit, given("continue")) else {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                       list without the continue parameter.";
        return error(410, "Expired", message.into());
    };
    whole(StatusCode::OK, list(&page), state.faults.cut)
}

async fn patch(shared: &Shared, request: Request<Incoming>, name: &str, status: bool) -> Response<Body> {
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok()).and_then(Kind::of);
    let Some(kind) = kind else {
        return error(415, "UnsupportedMediaType", "415: Unsupported Media Type".into());
    };
    let patch = body(request).await;
    let refused = shared.lock().faults.refuse_patches.clone();
    if let Some(refusal) = refused {
        return answer::status(&refusal);
    }
    let patched = shared.lock().objects.patch(name, &patch, kind, status);
    shared.changed.notify_waiters();
    changed(patched, StatusCode::OK, name)
}

fn changed(outcome: Result<String, objects::Refused>, code: StatusCode, name: &str) -> Response<Body> {
    match outcome {
        Ok(text) => whole(code, text, None),
        Err(why) => refused(name, &why),
    }
}

fn found(text: Option<String>, kind: &str, name: &str) -> Response<Body> {
    match text {
        Some(text) => whole(StatusCode::OK, text, None),
        None => error(404, "NotFound", format!("{kind} {name:?} not found")),
    }
}
