//! The plugin that attaches the pod, with its configuration.

use cni::conf::Conf;
use gojson::Json;

/// A plugin and its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// Its `type`.
    pub kind: String,
    /// The JSON document that it is called with.
    pub conf: Json,
}

impl Delegate {
    /// Parses what an ADD left for DEL. Returns `None` when the content is incomplete, or from another program.
    pub fn from_state(bytes: &[u8]) -> Option<Self> {
        let conf = Json::parse(bytes).ok()?;
        let kind = conf.get("type")?.as_str().filter(|kind| !kind.is_empty())?.to_owned();
        Some(Self { kind, conf })
    }

    /// The document for the delegate.
    pub fn bytes(&self) -> Vec<u8> {
        self.conf.compact().into_bytes()
    }

    /// Adds the members `keys` of the request, which the runtime sets for this one call.
    pub(super) fn with(mut self, conf: &Conf, keys: &[&str]) -> Self {
        for key in keys {
            if let Some(value) = conf.tree().get(key) {
                self.conf.set(key, value.clone());
            }
        }
        self
    }

    /// The name of its network.
    pub(super) fn network(&self) -> Option<&str> {
        self.conf.get("name").and_then(Json::as_str)
    }
}
