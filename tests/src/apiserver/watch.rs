//! Watches: all Nodes first where that is asked for, then changes and bookmarks.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{self, Body, error, response};
use super::objects::{Change, whole};
use super::{Faults, Refusal, Shared, Streaming};

/// How much is sent at once of the Nodes at the start, in bytes.
const CHUNK: usize = 64 * 1024;

/// How long before its end a watch gets a last bookmark (`nextBookmarkTime` in apiserver's cacher).
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

type Gone = mpsc::error::SendError<String>;

/// What a client asks of a watch.
struct Asked {
    /// The version after which changes are sent. `None`: all Nodes come first.
    after: Option<u64>,
    /// Whether a bookmark ends the Nodes at the start.
    mark_end: bool,
    bookmarks: bool,
    /// When the server ends it.
    end: Instant,
}

pub(super) fn watch(shared: Arc<Shared>, query: &BTreeMap<String, String>) -> Response<Body> {
    let given = |key: &str| query.get(key).map(String::as_str);
    let mark_end = given("sendInitialEvents") == Some("true");
    let faults = shared.lock().faults.clone();
    if mark_end && faults.streaming == Streaming::Forbidden {
        let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
                       forbidden for watch";
        return error(422, "Invalid", message.into());
    }
    let version = given("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let seconds = given("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let asked = Asked {
        after: (version > 0 && !mark_end).then_some(version),
        mark_end,
        bookmarks: given("allowWatchBookmarks") == Some("true"),
        end: Instant::now() + seconds.unwrap_or(faults.watches).min(faults.watches),
    };
    let (lines, mut receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let end = asked.end;
        // the client may be gone, or its time is up
        let _ = tokio::time::timeout_at(end, follow(shared, asked, faults, lines)).await;
    });
    let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let frames = frames.map(|line: String| Ok(Frame::data(Bytes::from(line))));
    response(StatusCode::OK, StreamBody::new(frames).boxed_unsync())
}

/// Sends the lines of a watch.
async fn follow(shared: Arc<Shared>, asked: Asked, faults: Faults, lines: mpsc::Sender<String>) -> Result<(), Gone> {
    if asked.mark_end && faults.streaming == Streaming::NoProgress {
        let message = "a watch stream was requested by the client but the required storage feature RequestWatchProgress is \
                       disabled";
        return fail(&lines, 500, "InternalError", message.into()).await;
    }
    let mut version = match asked.after {
        Some(version) => version,
        None => match send_all(&shared, &asked, &faults, &lines).await? {
            Some(version) => version,
            None => return Ok(()),
        },
    };
    let mut bookmarks = tokio::time::interval(faults.bookmarks);
    bookmarks.tick().await;
    let last = asked.end.checked_sub(LAST_BOOKMARK).filter(|last| *last > Instant::now());
    let mut before_end = tokio::time::interval_at(last.unwrap_or(asked.end), LAST_BOOKMARK * 2);
    loop {
        let mut changed = std::pin::pin!(shared.changed.notified());
        changed.as_mut().enable();
        let changes: Option<Vec<Change>> = shared.lock().objects.since(version).map(<[_]>::to_vec);
        let Some(changes) = changes else {
            return fail(&lines, 410, "Expired", format!("too old resource version: {version}")).await;
        };
        for change in changes {
            version = change.version;
            lines.send(event(change.kind, &change.object)).await?;
        }
        tokio::select! {
            () = changed => continue,
            _ = bookmarks.tick() => {}
            _ = before_end.tick() => {}
        }
        if asked.bookmarks {
            lines.send(bookmark(version, false)).await?;
        }
    }
}

/// Sends all Nodes, and returns their version; `None` if the connection ends before the end, as a fault.
async fn send_all(
    shared: &Shared,
    asked: &Asked,
    faults: &Faults,
    lines: &mpsc::Sender<String>,
) -> Result<Option<u64>, Gone> {
    let (version, nodes) = {
        let state = shared.lock();
        (state.objects.version(), state.objects.all())
    };
    let (mut chunk, mut sent) = (String::new(), 0);
    for node in nodes {
        let start = chunk.len();
        chunk.push_str(&event("ADDED", &node));
        sent += chunk.len() - start;
        if let Some(cut) = faults.cut.filter(|cut| sent > cut.after) {
            chunk.truncate(start);
            lines.send(chunk).await?;
            if cut.then_silent {
                std::future::pending::<()>().await;
            }
            return Ok(None);
        }
        if chunk.len() >= CHUNK {
            lines.send(std::mem::take(&mut chunk)).await?;
        }
    }
    if asked.mark_end {
        chunk.push_str(&bookmark(version, true));
    }
    if !chunk.is_empty() {
        lines.send(chunk).await?;
    }
    Ok(Some(version))
}

async fn fail(lines: &mpsc::Sender<String>, code: u16, reason: &'static str, message: String) -> Result<(), Gone> {
    let refusal = Refusal { code, reason, message, retry_after: 0 };
    lines.send(format!("{}\n", json!({ "type": "ERROR", "object": answer::object(&refusal) }))).await
}

fn event(kind: &str, object: &str) -> String {
    let mut line = String::with_capacity(object.len() + 80);
    // writing to a String does not fail
    let _ = writeln!(line, r#"{{"type":"{kind}","object":{}}}"#, whole(object));
    line
}

fn bookmark(version: u64, end: bool) -> String {
    let mut metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
    if end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    let object = json!({ "kind": "Node", "apiVersion": "v1", "metadata": metadata });
    format!("{}\n", json!({ "type": "BOOKMARK", "object": object }))
}
