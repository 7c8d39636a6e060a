//! firewalld, over D-Bus: the pod's addresses are sources of a zone.

use cni::error::{Error, code};

use super::bus::{BUS, Bus, BusError, Target};
use super::message::Value;

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

/// Adds `sources` to a zone, at runtime: a reload of firewalld forgets them.
///
/// # Errors
/// firewalld does not run, does not answer (code 11) or refuses.
pub fn add(zone: &str, sources: &[String]) -> Result<(), Error> {
    let mut bus = Bus::system().map_err(|error| failed(&error))?;
    sources.iter().try_for_each(|source| match bus.call(ZONES, "addSource", &[zone, source]) {
        Err(BusError::Refused { text, .. }) if begins(&text, &PRESENT) => Ok(()),
        other => other.map(drop).map_err(|error| failed(&error).context(format_args!("add {source} to zone {zone}"))),
    })
}

/// Removes `sources` from a zone. A host without firewalld has none.
///
/// # Errors
/// firewalld does not answer (code 11) or refuses.
pub fn remove(zone: &str, sources: &[String]) -> Result<(), Error> {
    let mut bus = match Bus::system() {
        Err(BusError::Absent(_)) => return Ok(()),
        bus => bus.map_err(|error| failed(&error))?,
    };
    for source in sources {
        match bus.call(ZONES, "removeSource", &[zone, source]) {
            Err(BusError::Refused { text, .. }) if begins(&text, &GONE) => {}
            Err(error) if is_not_running(&error) => return Ok(()),
            Err(error) => return Err(failed(&error).context(format_args!("remove {source} from zone {zone}"))),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The commands that would add what the zone has not.
///
/// # Errors
/// firewalld does not run, does not answer (code 11) or refuses.
pub fn missing(zone: &str, sources: &[String]) -> Result<Vec<String>, Error> {
    let mut bus = Bus::system().map_err(|error| failed(&error))?;
    let mut all = Vec::new();
    for source in sources {
        let answer = bus.call(ZONES, "querySource", &[zone, source]).map_err(|error| failed(&error))?;
        if answer != [Value::Flag(true)] {
            all.push(format!("firewall-cmd --zone={zone} --add-source={source}"));
        }
    }
    Ok(all)
}

/// Whether firewalld runs.
///
/// # Errors
/// The bus does not answer (code 11).
pub fn runs() -> Result<bool, Error> {
    let answer = match Bus::system() {
        Err(BusError::Absent(_)) => return Ok(false),
        bus => bus.and_then(|mut bus| bus.call(BUS, "NameHasOwner", &[ZONES.service])),
    };
    Ok(answer.map_err(|error| failed(&error))? == [Value::Flag(true)])
}

fn begins(text: &str, codes: &[&str]) -> bool {
    codes.iter().any(|code| text.starts_with(code))
}

fn is_not_running(error: &BusError) -> bool {
    matches!(error, BusError::Refused { name, .. } if NOT_RUNNING.contains(&&**name))
}

fn failed(error: &BusError) -> Error {
    let advice = "start firewalld, or configure another \"backend\"";
    match error {
        BusError::Absent(_) => Error::internal(format_args!("firewalld: {error}")).with_details(advice),
        BusError::Silent(_) => Error::new(code::TRY_AGAIN, format!("firewalld: {error}")),
        error if is_not_running(error) => Error::internal("firewalld does not run").with_details(advice),
        error => Error::internal(format_args!("firewalld: {error}")),
    }
}
