//! A client that shows what a server answers, and interprets nothing.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error>;

/// The content type of a strategic merge patch.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A user's way to a server. Each call connects: a server may have been restarted since the last one.
pub struct Caller {
    runtime: Runtime,
    config: Config,
}

/// The kubeconfig of a user of the server at `url`, whose authority is in the file `ca`.
pub fn kubeconfig(url: &str, ca: Option<&Path>, token: &str) -> Value {
    let mut cluster = json!({ "server": url });
    if let Some(ca) = ca {
        cluster["certificate-authority"] = ca.display().to_string().into();
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "u", "user": { "token": token } }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
    })
}

impl Caller {
    /// A client with this kubeconfig.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub fn new(kubeconfig: &Value) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let parsed = Kubeconfig::from_yaml(&kubeconfig.to_string())?;
        let options = KubeConfigOptions::default();
        let mut config = runtime.block_on(Config::from_custom_kubeconfig(parsed, &options))?;
        config.default_retry = false;
        Ok(Self { runtime, config })
    }

    /// The status and the object of an answer.
    ///
    /// # Errors
    /// There is no answer, or it is not JSON.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), Failure> {
        let kind = if method == "PATCH" { STRATEGIC } else { "application/json" };
        self.call_with(method, path, kind, body)
    }

    /// The same with a content type.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub fn call_with(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<(u16, Value), Failure> {
        let text = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(text.into())?;
        let answer = async {
            let response = Client::try_from(self.config.clone())?.send(request).await?;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            let object = serde_json::from_slice(&bytes);
            let object = object.map_err(|error| format!("{code} {error}: {}", String::from_utf8_lossy(&bytes)))?;
            Ok((code, object))
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await })?
    }

    /// The object of an answer that must be a success.
    ///
    /// # Errors
    /// The server refuses, or as [`Caller::call`].
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        match self.call(method, path, body)? {
            (200..300, object) => Ok(object),
            (code, object) => Err(format!("{method} {path}: {code} {object}").into()),
        }
    }

    /// The events of a watch, until one is as wanted or the server ends it.
    ///
    /// # Errors
    /// The server refuses, an event is not JSON, or neither happens in time.
    pub fn watch(&self, query: &str, last: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Failure> {
        let path = format!("/api/v1/nodes?watch=true&{query}");
        let request = Request::get(&path).body(Vec::new().into())?;
        let read = async {
            let response = Client::try_from(self.config.clone())?.send(request).await?;
            let code = response.status().as_u16();
            let mut frames = response.into_body().into_data_stream();
            let (mut text, mut events) = (Vec::new(), Vec::new());
            while let Some(frame) = frames.next().await {
                text.extend_from_slice(&frame?);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let event: Value = serde_json::from_slice(&text.drain(..=end).collect::<Vec<_>>())?;
                    events.push(event);
                    if events.last().is_some_and(&last) {
                        return Ok(events);
                    }
                }
            }
            match code {
                200 => Ok(events),
                _ => Err(format!("GET {path}: {code} {}", String::from_utf8_lossy(&text)).into()),
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, read).await })?
    }
}
