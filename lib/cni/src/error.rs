//! The error object of the protocol (specification §"Error").

use gojson::Json;
use serde::{Deserialize, Serialize};

/// The codes of the specification, and the Go library's code for all other errors.
pub mod code {
    /// The plugin does not support the configuration's version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A `CNI_*` variable is missing or bad.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The input is not JSON, or has the wrong shape.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is invalid.
    pub const INVALID_NETNS: u32 = 8;
    /// A temporary failure: the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve an ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve an ADD, and running containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Any other error.
    pub const INTERNAL: u32 = 999;
}

/// The error object that a failed plugin prints: `{"code": …, "msg": …, "details": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub struct Error {
    /// One of [`code`], or 100 and above for a plugin's own codes. 0 if a delegate ended without an error object.
    #[serde(default)]
    pub code: u32,
    /// The error in one sentence.
    #[serde(default)]
    pub msg: String,
    /// Further details; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error with empty details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// Sets the details.
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// An error of code 999 with the text of `cause`.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(code::INTERNAL, cause.to_string())
    }

    /// An error of code 7 ([`code::INVALID_CONFIG`]).
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(code::INVALID_CONFIG, msg)
    }

    /// Puts `before` and `: ` in front of the message.
    pub fn context(mut self, before: impl std::fmt::Display) -> Self {
        self.msg = format!("{before}: {}", self.msg);
        self
    }

    /// The object as a plugin prints it: indented by 4 spaces, no final newline, `details` only if not empty.
    pub fn to_json(&self) -> String {
        let mut members = vec![("code", Json::from(self.code)), ("msg", Json::from(self.msg.as_str()))];
        if !self.details.is_empty() {
            members.push(("details", Json::from(self.details.as_str())));
        }
        Json::from_iter(members).pretty4()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_the_go_library_does() {
        let error = Error::new(7, "a <nil> & \"b\"");
        assert_eq!(error.to_json(), "{\n    \"code\": 7,\n    \"msg\": \"a \\u003cnil\\u003e \\u0026 \\\"b\\\"\"\n}");
        let error = error.with_details("d").context("bridge");
        assert_eq!(error.to_string(), "bridge: a <nil> & \"b\"; d");
        assert!(error.to_json().ends_with(",\n    \"details\": \"d\"\n}"));
        assert_eq!(gojson::decode::<Error>(error.to_json().as_bytes()).unwrap(), error);
    }
}
