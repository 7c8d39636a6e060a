//! Removes what an attachment left on the host.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kernel::message::link::SeenLink;
use kernel::removal::{clear, delete_and_wait};
use kernel::state::Scope;
use kernel::types::{IfName, Mac};
use kernel::{Kernel, KernelError};

use crate::Key;
use crate::record::{HostLink, Record};
use crate::reservations::{DEFAULT_DATA_DIR, ReservationError, Reservations, Unreleased};
use crate::rules::iptables::{self, RemovalError};
use crate::rules::{macspoof, masquerade};
use crate::section::Section;

/// flannel's default for `dataDir`.
const STATES: &str = "/var/lib/cni/flannel";

/// The only IPAM plugin of the suite that keeps reservations.
const HOST_LOCAL: &str = "host-local";

/// Why something stays.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The kernel refuses it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Rules in the tables of iptables stay.
    #[error(transparent)]
    Iptables(#[from] RemovalError),
    /// The reservations cannot be read.
    #[error(transparent)]
    Reservations(#[from] ReservationError),
    /// Addresses stay reserved.
    #[error(transparent)]
    Unreleased(#[from] Unreleased),
    /// The reservations are not where the record says.
    #[error("{} has no reservations: mount it, or release the address by hand", .0.display())]
    NoReservations(PathBuf),
    /// A file stays.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        cause: io::Error,
    },
    /// Another plugin than host-local gave the address.
    #[error("the address is of the IPAM plugin {0}, whose DEL must release it")]
    Ipam(String),
    /// firewalld has the pod's addresses in a zone.
    #[error("firewalld has the pod's addresses in the zone {0}: the firewall plugin's DEL or GC removes them")]
    Firewalld(String),
}

/// The host's end of the attachment's link, if it still exists.
///
/// # Errors
/// The kernel refuses to say.
pub fn has_link(host: &mut Kernel, record: &Record) -> Result<Option<SeenLink>, KernelError> {
    let Some(HostLink { name, mac, .. }) = &record.host else { return Ok(None) };
    let (Ok(name), Ok(mac)) = (IfName::new(name), mac.parse::<Mac>()) else { return Ok(None) };
    Ok(host.link(&name)?.filter(|seen| seen.link.mac == Some(mac)))
}

/// Removes everything that the record names, the address last: until then nobody else gets it. Continues after a failure, and
/// returns all of them. The record itself stays.
pub fn remove(host: &mut Kernel, key: Key<'_>, record: &Record) -> Vec<ReclaimError> {
    let mut errors = Vec::new();
    errors.extend(remove_link(host, record).err().map(ReclaimError::from));
    for rules in [masquerade::rules(key, &[], &[]), macspoof::rules(key, None)] {
        errors.extend(rules.remove(host, &record.rules_of(&rules.table)).err().map(ReclaimError::from));
    }
    if record.iptables {
        errors.extend(iptables::remove(host, &iptables::masquerade::removal(key)).err().map(ReclaimError::from));
    }
    for kept in &record.sections {
        remove_section(host, key, &kept.section, &mut errors);
    }
    if errors.is_empty() {
        errors.extend(release(key, record).err());
    }
    errors.extend(remove_states(Path::new(STATES), key).err());
    errors
}

fn remove_link(host: &mut Kernel, record: &Record) -> Result<(), KernelError> {
    match has_link(host, record)? {
        Some(seen) => delete_and_wait(host, &seen).map(drop),
        None => Ok(()),
    }
}

fn remove_section(host: &mut Kernel, key: Key<'_>, section: &Section, errors: &mut Vec<ReclaimError>) {
    for rules in section.rules(key) {
        errors.extend(rules.remove(host, &[]).err().map(ReclaimError::from));
    }
    if let Some((_, removal)) = section.iptables(key) {
        errors.extend(iptables::remove(host, &removal).err().map(ReclaimError::from));
    }
    if let Some((zone, _)) = section.sources() {
        errors.push(ReclaimError::Firewalld(zone.to_owned()));
    }
    let (_, scope) = section.host();
    if scope != Scope::default() {
        errors.extend(clear(host, &scope).into_iter().map(ReclaimError::from));
    }
    errors.extend(section.forget_after_alone().err().map(ReclaimError::from));
}

fn release(key: Key<'_>, record: &Record) -> Result<(), ReclaimError> {
    match record.ipam.as_deref() {
        // static keeps nothing
        None | Some("static") => return Ok(()),
        Some(HOST_LOCAL) => {}
        Some(other) => return Err(ReclaimError::Ipam(other.to_owned())),
    }
    let folder = record.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR));
    let Some(mut reservations) = Reservations::existing(folder, key.network)? else {
        // an ADD that was killed may not have come so far
        let made = record.committed.then(|| ReclaimError::NoReservations(folder.join(key.network)));
        return made.map_or(Ok(()), Err);
    };
    reservations.release_all(key.into())?;
    reservations.close();
    Ok(())
}

/// Removes the state of the `flannel` plugin: its own name, and upstream's if that is the same file.
fn remove_states(folder: &Path, key: Key<'_>) -> Result<(), ReclaimError> {
    let own = folder.join(format!("{}@{}", key.container, key.ifname));
    let upstreams = folder.join(key.container);
    let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let Some(id) = inode(&own) else { return Ok(()) };
    let same = (inode(&upstreams) == Some(id)).then_some(upstreams);
    for path in same.into_iter().chain([own]) {
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(ReclaimError::File { path, cause }),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'_> = Key { network: "net", container: "c1", ifname: "eth0" };

    #[test]
    fn both_names_of_a_state_go_and_anothers_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("c1@eth0"), "{}").unwrap();
        fs::hard_link(file("c1@eth0"), file("c1")).unwrap();
        remove_states(dir.path(), KEY).unwrap();
        assert!(!file("c1").exists() && !file("c1@eth0").exists());
        fs::write(file("c1@eth0"), "{}").unwrap();
        fs::write(file("c1"), "of another interface").unwrap();
        remove_states(dir.path(), KEY).unwrap();
        assert!(file("c1").exists() && !file("c1@eth0").exists());
        remove_states(&file("none"), KEY).unwrap();
    }

    fn record(ipam: Option<&str>, dir: &Path) -> Record {
        let (ipam, data_dir) = (ipam.map(str::to_owned), Some(dir.to_owned()));
        Record { ipam, data_dir, committed: true, ..Record::default() }
    }

    #[test]
    fn the_address_is_released_where_it_was_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let network = dir.path().join("net");
        fs::create_dir(&network).unwrap();
        fs::write(network.join("10.1.0.2"), "c1\r\neth0").unwrap();
        fs::write(network.join("10.1.0.3"), "c1\r\neth1").unwrap();
        release(KEY, &record(Some(HOST_LOCAL), dir.path())).unwrap();
        assert!(!network.join("10.1.0.2").exists() && network.join("10.1.0.3").exists());
        release(KEY, &record(Some(HOST_LOCAL), dir.path())).unwrap();
        release(KEY, &record(Some("static"), dir.path())).unwrap();
        release(KEY, &record(None, dir.path())).unwrap();
    }

    #[test]
    fn an_address_that_is_elsewhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = release(KEY, &record(Some(HOST_LOCAL), dir.path())).unwrap_err();
        assert!(matches!(&error, ReclaimError::NoReservations(path) if *path == dir.path().join("net")), "{error}");
        let begun = Record { committed: false, ..record(Some(HOST_LOCAL), dir.path()) };
        release(KEY, &begun).unwrap();
        let error = release(KEY, &record(Some("dhcp"), dir.path())).unwrap_err();
        assert!(error.to_string().contains("dhcp"), "{error}");
    }
}
