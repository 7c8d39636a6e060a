//! firewalld, over D-Bus: pods' addresses are sources of a zone.

mod bus;
pub mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use bus::BusError;
use bus::{BUS, Bus, Target};
use message::Value;

const ZONES: Target = Target {
    service: "org.fedoraproject.FirewallD1",
    path: "/org/fedoraproject/FirewallD1",
    interface: "org.fedoraproject.FirewallD1.zone",
};

/// firewalld's errors for a source that the zone has already. Others begin with their code, too (firewall/errors.py).
const PRESENT: [&str; 2] = ["ZONE_ALREADY_SET", "ALREADY_ENABLED"];
/// firewalld's errors for a source that the zone has not.
const GONE: [&str; 3] = ["UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE"];
/// D-Bus' errors for a service that does not run.
const NOT_RUNNING: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];

/// A change of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add this source to this zone.
    Add(String, String),
    /// Remove this source from this zone.
    Remove(String, String),
}

/// firewalld did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{}firewalld{}", Before(change.as_ref()), After(cause))]
pub struct FirewalldError {
    /// The change that failed; `None`: reading.
    pub change: Option<Change>,
    /// Why.
    pub cause: BusError,
}

impl FirewalldError {
    /// Whether another try may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.cause, BusError::Silent(_))
    }

    /// Whether firewalld does not run.
    pub fn is_absent(&self) -> bool {
        matches!(self.cause, BusError::Absent(_)) || is_not_running(&self.cause)
    }
}

impl From<BusError> for FirewalldError {
    fn from(cause: BusError) -> Self {
        Self { change: None, cause }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(source, zone) => write!(f, "add {source} to zone {zone}"),
            Self::Remove(source, zone) => write!(f, "remove {source} from zone {zone}"),
        }
    }
}

struct Before<'a>(Option<&'a Change>);

impl fmt::Display for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |change| write!(f, "{change}: "))
    }
}

struct After<'a>(&'a BusError);

impl fmt::Display for After<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_not_running(self.0) { f.write_str(" does not run") } else { write!(f, ": {}", self.0) }
    }
}

/// Adds `sources` to a zone, at runtime: a reload of firewalld forgets them.
///
/// # Errors
/// firewalld does not run, does not answer or refuses.
pub fn add(zone: &str, sources: &[String]) -> Result<(), FirewalldError> {
    let mut bus = Bus::system()?;
    sources.iter().try_for_each(|source| add_one(&mut bus, zone, source).map(drop))
}

/// Whether the zone had not the source.
fn add_one(bus: &mut Bus, zone: &str, source: &str) -> Result<bool, FirewalldError> {
    match bus.call(ZONES, "addSource", &[zone, source]) {
        Err(BusError::Refused { text, .. }) if begins(&text, &PRESENT) => Ok(false),
        Err(cause) => Err(FirewalldError { change: Some(Change::Add(source.to_owned(), zone.to_owned())), cause }),
        Ok(_) => Ok(true),
    }
}

/// Removes `sources` from a zone. A host without firewalld has none.
///
/// # Errors
/// firewalld does not answer or refuses.
pub fn remove(zone: &str, sources: &[String]) -> Result<(), FirewalldError> {
    let mut bus = match Bus::system() {
        Err(BusError::Absent(_)) => return Ok(()),
        bus => bus?,
    };
    for source in sources {
        match bus.call(ZONES, "removeSource", &[zone, source]) {
            Err(BusError::Refused { text, .. }) if begins(&text, &GONE) => {}
            Err(cause) if is_not_running(&cause) => return Ok(()),
            Err(cause) => {
                let change = Some(Change::Remove(source.clone(), zone.to_owned()));
                return Err(FirewalldError { change, cause });
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The commands that would add what the zone has not.
///
/// # Errors
/// firewalld does not run, does not answer or refuses.
pub fn missing(zone: &str, sources: &[String]) -> Result<Vec<String>, FirewalldError> {
    let mut bus = Bus::system()?;
    let mut all = Vec::new();
    for source in sources {
        if bus.call(ZONES, "querySource", &[zone, source])? != [Value::Flag(true)] {
            all.push(command(zone, source));
        }
    }
    Ok(all)
}

fn command(zone: &str, source: &str) -> String {
    format!("firewall-cmd --zone={zone} --add-source={source}")
}

/// The sources of each zone that it has not. One question per zone, whatever the number of sources.
///
/// # Errors
/// firewalld does not run, does not answer or refuses.
pub fn lost(desired: &BTreeMap<&str, BTreeSet<String>>) -> Result<BTreeSet<(String, String)>, FirewalldError> {
    let mut bus = Bus::system()?;
    let mut all = BTreeSet::new();
    for (zone, sources) in desired {
        let answer = bus.call(ZONES, "getSources", &[zone])?;
        let Some(Value::Texts(found)) = answer.into_iter().next() else { return Err(BusError::Malformed.into()) };
        let absent = sources.iter().filter(|source| !found.contains(source));
        all.extend(absent.map(|source| ((*zone).to_owned(), source.clone())));
    }
    Ok(all)
}

/// Adds what a zone has lost, and returns the commands that do the same.
///
/// # Errors
/// As [`add`].
pub fn restore(zone: &str, sources: &[String]) -> Result<Vec<String>, FirewalldError> {
    let mut bus = Bus::system()?;
    let mut all = Vec::new();
    for source in sources {
        if add_one(&mut bus, zone, source)? {
            all.push(command(zone, source));
        }
    }
    Ok(all)
}

/// Whether firewalld runs.
///
/// # Errors
/// The bus does not answer.
pub fn runs() -> Result<bool, FirewalldError> {
    let mut bus = match Bus::system() {
        Err(BusError::Absent(_)) => return Ok(false),
        bus => bus?,
    };
    Ok(bus.call(BUS, "NameHasOwner", &[ZONES.service])? == [Value::Flag(true)])
}

fn begins(text: &str, codes: &[&str]) -> bool {
    codes.iter().any(|code| text.starts_with(code))
}

fn is_not_running(error: &BusError) -> bool {
    matches!(error, BusError::Refused { name, .. } if NOT_RUNNING.contains(&&**name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_tried() {
        let error = |name: &str, change| {
            let cause = BusError::Refused { name: name.into(), text: "INVALID_ZONE: x".into() };
            FirewalldError { change, cause }
        };
        let change = Change::Add("10.1.2.3/32".into(), "pods".into());
        let refused = error("org.fedoraproject.FirewallD1.Exception", Some(change.clone()));
        assert_eq!(
            refused.to_string(),
            "add 10.1.2.3/32 to zone pods: firewalld: INVALID_ZONE: x (org.fedoraproject.FirewallD1.Exception)"
        );
        assert!(!refused.is_absent() && !refused.is_temporary());
        let absent = error(NOT_RUNNING[0], None);
        assert_eq!((absent.to_string().as_str(), absent.is_absent()), ("firewalld does not run", true));
        assert!(FirewalldError::from(BusError::Silent("x")).is_temporary());
        let removed = Change::Remove("fd00::3/128".into(), "pods".into());
        assert_eq!(removed.to_string(), "remove fd00::3/128 from zone pods");
    }
}
