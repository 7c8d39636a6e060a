//! Answers, whole, cut off, or late.

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::objects::{Page, Refused};
use super::{Cut, Refusal};

pub(super) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

pub(super) fn object(refusal: &Refusal) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": refusal.message,
        "reason": refusal.reason, "code": refusal.code, "details": { "retryAfterSeconds": refusal.retry_after },
    })
}

pub(super) fn status(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(code, object(refusal).to_string(), None)
}

pub(super) fn error(code: u16, reason: &'static str, message: String) -> Response<Body> {
    status(&Refusal { code, reason, message, retry_after: 0 })
}

/// The server's words for a change that it refuses.
pub(super) fn refused(name: &str, why: &Refused) -> Response<Body> {
    match why {
        Refused::Absent => error(404, "NotFound", format!("nodes {name:?} not found")),
        Refused::Exists => error(409, "AlreadyExists", format!("nodes {name:?} already exists")),
        Refused::Conflict => error(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on nodes {name:?}: the object has been modified; please apply your changes \
                 to the latest version and try again"
            ),
        ),
        Refused::Annotations => error(
            422,
            "Invalid",
            format!("Node {name:?} is invalid: metadata.annotations: Too long: must have at most 262144 bytes"),
        ),
    }
}

pub(super) fn success() -> Response<Body> {
    whole(StatusCode::OK, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }).to_string(), None)
}

/// A page as the server sends it.
pub(super) fn list(page: &Page) -> String {
    let mut metadata = json!({ "resourceVersion": page.version.to_string() });
    if !page.next.is_empty() {
        metadata["continue"] = page.next.clone().into();
    }
    let mut text = format!(r#"{{"kind":"NodeList","apiVersion":"v1","metadata":{metadata},"items":["#);
    for (n, item) in page.items.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push_str("]}");
    text
}

/// A whole answer, or its first bytes and then the end of the connection, or nothing more.
pub(super) fn whole(code: StatusCode, text: String, cut: Option<Cut>) -> Response<Body> {
    let body = match cut {
        None => Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync(),
        Some(cut) => {
            let part = Bytes::from(text.as_bytes()[..cut.after.min(text.len())].to_vec());
            let first = futures_util::stream::iter([Ok(Frame::data(part))]);
            let end = futures_util::stream::once(async move {
                match cut.then_silent {
                    true => std::future::pending().await,
                    false => Err(std::io::Error::other("cut")),
                }
            });
            StreamBody::new(futures_util::StreamExt::chain(first, end)).boxed_unsync()
        }
    };
    response(code, body)
}

pub(super) fn response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
