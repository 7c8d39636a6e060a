//! The variable TRACEPARENT: which trace a call belongs to (W3C Trace Context, "traceparent"; the name of the variable is
//! OpenTelemetry's).

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

/// The variable's name.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// A place in a trace: the trace, and the span whose children follow.
///
/// ```
/// use cni::trace::Trace;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let trace: Trace = text.parse().unwrap();
/// assert_eq!(trace.to_string(), text);
/// let child = trace.child().to_string();
/// assert_eq!((&child[..36], &child[52..]), (&text[..36], &text[52..]));
/// assert!("00-00000000000000000000000000000000-00f067aa0ba902b7-01".parse::<Trace>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    span: u64,
    flags: u8,
}

/// The text is no traceparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be VERSION-TRACE-SPAN-FLAGS in hexadecimal digits")]
pub struct NoTrace;

impl Trace {
    /// A new trace, which is recorded (the flag `sampled`).
    pub fn begin() -> Self {
        Self { id: u128::from(random()) << 64 | u128::from(random()), span: random(), flags: 1 }
    }

    /// A new span of the same trace.
    pub fn child(self) -> Self {
        Self { span: random(), ..self }
    }
}

/// A number that is not 0. It needs to be unlike others, not secret.
fn random() -> u64 {
    // each has keys of its own, which the operating system has seeded
    RandomState::new().build_hasher().finish().max(1)
}

impl FromStr for Trace {
    type Err = NoTrace;

    /// Reads what is known of any version. Version ff and numbers of 0 are invalid.
    fn from_str(text: &str) -> Result<Self, NoTrace> {
        let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let mut parts = text.split('-');
        let mut next = |length| parts.next().filter(|part| part.len() == length).filter(is_hex).ok_or(NoTrace);
        let (version, id, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let is_longer = parts.next().is_some();
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| NoTrace);
        let id = u128::from_str_radix(id, 16).map_err(|_| NoTrace)?;
        let (span, flags) = (number(span)?, number(flags)? as u8);
        let valid = version != "ff" && !(version == "00" && is_longer) && id != 0 && span != 0;
        if valid { Ok(Self { id, span, flags }) } else { Err(NoTrace) }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let good = Trace::begin().to_string();
        assert_eq!(good.parse::<Trace>().unwrap().to_string(), good);
        let later = format!("01{}-more", &good[2..]);
        assert_eq!(later.parse::<Trace>().unwrap().to_string(), good);
        let bad = [
            String::new(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("{good} "),
            format!("ff{}", &good[2..]),
            good.to_uppercase().replace('0', "A"),
            format!("{}{}", &good[..36], "0000000000000000-01"),
            good.replace('-', "+"),
        ];
        for text in bad {
            assert_eq!(text.parse::<Trace>(), Err(NoTrace), "{text:?}");
        }
        for end in 0..good.len() {
            assert!(good[..end].parse::<Trace>().is_err());
        }
    }

    #[test]
    fn spans_differ_and_their_trace_does_not() {
        let trace = Trace::begin();
        let (one, two) = (trace.child(), trace.child());
        assert!(one != two && one != trace && (one.id, one.flags) == (two.id, two.flags));
        assert_ne!(Trace::begin().id, trace.id);
    }
}
