//! Host ports of a container on several networks. One network has the port; when it goes, another one gets it.

use std::path::Path;

use attachment::Key;
use attachment::record::{DIRECTORY, Locked, RecordError, list, networks};
use attachment::section::{Kept, Section};
use cni::error::Error;
use kernel::conntrack::Conntrack;
use kernel::{Kernel, KernelError};

use super::join;
use super::sections::Book;

/// How a record is locked: with or without waiting for others.
pub(super) type Lock = for<'a> fn(&Path, Key<'a>) -> Result<Option<Locked>, RecordError>;

/// Gives what `gone` has just removed for the attachment `key` to other attachments of the same container that wait for it.
pub(super) fn hand_over(host: &mut Kernel, key: Key<'_>, gone: &Section, lock: Lock) -> Result<(), Error> {
    if !gone.has_elements() {
        return Ok(());
    }
    let directory = Path::new(DIRECTORY);
    let mut outcomes = Vec::new();
    for network in networks(directory).map_err(Error::internal)? {
        let names = list(directory, &network).map_err(Error::internal)?;
        for (container, ifname) in names.iter().filter(|(container, _)| container == key.container) {
            let other = Key { network: &network, container, ifname };
            if other != key {
                let locked = lock(directory, other).map_err(Error::internal)?;
                let book = locked.map_or(Ok(None), |locked| Book::of(gone.plugin(), other, locked))?;
                outcomes.push(book.map_or(Ok(()), |book| receive(host, book)));
            }
        }
    }
    join(outcomes)
}

/// Adds what the attachment waits for, and nobody else has. Its record says so before.
fn receive(host: &mut Kernel, mut book: Book<'_>) -> Result<(), Error> {
    let Some(kept) = book.section().filter(|kept| kept.committed && kept.netns.is_there()).cloned() else {
        return Ok(());
    };
    let Some(whole) = kept.section.with_standby() else { return Ok(()) };
    let failed = |cause: KernelError| Error::internal(format!("{}: {cause}", whole.plugin()));
    let mut taken = Vec::new();
    for rules in whole.rules(book.key()) {
        match rules.taken(host) {
            // without the table nobody has any
            Err(error) if error.is_absent() => {}
            found => taken.extend(found.map_err(failed)?),
        }
    }
    let section = whole.without(&taken);
    if section == kept.section {
        return Ok(());
    }
    book.write(Kept { section: section.clone(), ..kept.clone() })?;
    for rules in section.rules(book.key()) {
        if let Err(cause) = rules.add(host) {
            book.write(kept)?;
            return Err(Error::internal(format!("{}: table {}: {cause}", whole.plugin(), rules.table)));
        }
    }
    if !section.outdates_connections() {
        return Ok(());
    }
    let mut conntrack = Conntrack::open().map_err(failed)?;
    section.forget_before(&mut conntrack).map_err(failed)
}
