//! The versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

/// A version of the CNI specification, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0
    V010,
    /// 0.2.0
    V020,
    /// 0.3.0: several addresses, interfaces
    V030,
    /// 0.3.1
    V031,
    /// 0.4.0: CHECK, prevResult for DEL
    V040,
    /// 1.0.0: no `version` in addresses
    V100,
    /// 1.1.0: GC, STATUS
    V110,
}

impl Version {
    /// All versions, oldest first.
    pub const ALL: &'static [Self] =
        &[Self::V010, Self::V020, Self::V030, Self::V031, Self::V040, Self::V100, Self::V110];

    /// The `cniVersion` in the reply to VERSION.
    pub const NEWEST: Self = Self::V110;

    /// The version as text, such as `1.0.0`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V010 => "0.1.0",
            Self::V020 => "0.2.0",
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a known version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of the CNI specification")]
pub struct UnknownVersion(pub String);

impl FromStr for Version {
    type Err = UnknownVersion;

    /// Accepts exactly the known texts. The empty text means 0.1.0, as does a configuration without `cniVersion`.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        if text.is_empty() {
            return Ok(Self::V010);
        }
        Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}
