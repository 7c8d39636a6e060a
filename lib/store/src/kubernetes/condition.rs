//! The Node's condition NetworkUnavailable, which keeps pods off a Node whose network does not work.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::client::Api;
use super::error::KubeError;
use super::own::Own;
use super::wire::Condition;
use crate::backoff::Backoff;

const KIND: &str = "NetworkUnavailable";

/// The reasons that flannel writes; upstream has only the first.
const UP: &str = "FlannelIsUp";
const DOWN: &str = "FlannelIsDown";

/// What to write, if anything. `wrote`: this daemon has written the condition before.
///
/// The first time, a condition of the cloud provider is replaced: it waits for somebody to do that. If another program
/// writes the condition afterwards, it is that program's.
fn next(found: Option<&Condition>, up: bool, wrote: bool) -> Option<Value> {
    let ours = found.is_none_or(|condition| matches!(condition.reason.as_str(), UP | DOWN));
    if wrote && !ours {
        return None;
    }
    let (status, reason, message) = match up {
        true => ("False", UP, "Flannel is running on this node"),
        false => ("True", DOWN, "Flannel's data path on this node does not work: see flannelctl status there"),
    };
    // a daemon that starts up writes once, as upstream does
    if wrote && found.is_some_and(|condition| condition.status == status) {
        return None;
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Some(json!({ "status": { "conditions": [{
        "type": KIND, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }] } }))
}

/// Keeps the condition equal to what `ready` says, until its sender is gone. It says that the Node has no network after that has
/// been so for the time `hysteresis`.
pub(super) async fn keep(
    mut own: watch::Receiver<Own>,
    mut ready: watch::Receiver<Option<bool>>,
    hysteresis: Duration,
) {
    let mut wrote: Option<bool> = None;
    // a Node that is deleted and registered again has no condition of ours
    let mut node = None;
    let mut backoff = Backoff::default();
    loop {
        let now = created(&own.borrow_and_update()).or(node);
        if now != node {
            (node, wrote) = (now, None);
        }
        let wanted = *ready.borrow_and_update();
        let wait = match wanted {
            Some(up) if wrote == Some(up) => None,
            Some(true) => Some(Duration::ZERO),
            // before the first success the Node has the condition that the cluster gave it
            Some(false) if wrote.is_some() => Some(hysteresis),
            _ => None,
        };
        let settled = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = ready.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            Ok(_) = own.wait_for(|own| created(own).is_some_and(|now| Some(now) != node)) => continue,
            () = settled => {}
        }
        let Some(up) = wanted else { continue };
        match write(&own, up, wrote.is_some()).await {
            Ok(true) => {
                wrote = Some(up);
                backoff.reset();
            }
            Ok(false) => tokio::time::sleep(backoff.next()).await,
            Err(error) => {
                let wait = error.retry_after().unwrap_or_default().max(backoff.next());
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "the node's condition {KIND} is not written");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// When this host's Node was created, if it is known.
fn created(own: &Own) -> Option<u64> {
    own.node.as_ref().map(|node| node.created)
}

/// Writes the condition, if it is ours to write. False while there is no connection.
async fn write(own: &watch::Receiver<Own>, up: bool, wrote: bool) -> Result<bool, KubeError> {
    let (api, name): (Api, _) = match &*own.borrow() {
        Own { api: Some(api), name: Some(name), .. } => (api.clone(), name.clone()),
        _ => return Ok(false),
    };
    let found = api.conditions(&name).await?.status.conditions.into_iter().find(|condition| condition.kind == KIND);
    if let Some(patch) = next(found.as_ref(), up, wrote) {
        api.patch(&name, &patch).await?;
        tracing::info!(node = %name, unavailable = !up, "the node's condition {KIND} is written");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(status: &str, reason: &str) -> Condition {
        Condition { kind: KIND.into(), status: status.into(), reason: reason.into() }
    }

    #[test]
    fn the_first_condition_is_upstreams() {
        let patch = next(Some(&found("True", "NoRouteCreated")), true, false).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "FlannelIsUp");
        assert_eq!(condition["message"], "Flannel is running on this node");
        let time = condition["lastHeartbeatTime"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn another_writer_keeps_the_condition() {
        assert_eq!(next(Some(&found("False", "RouteCreated")), false, true), None);
        assert_eq!(next(Some(&found("True", "NoRouteCreated")), true, true), None);
        assert_eq!(next(Some(&found("False", UP)), true, true), None, "nothing to write");
        let down = next(Some(&found("False", UP)), false, true).unwrap();
        assert_eq!(down["status"]["conditions"][0]["status"], "True");
        assert!(next(None, false, true).is_some());
    }
}
