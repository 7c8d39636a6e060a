//! The sections of chained plugins in attachments' records: written before the first step, removed after the last
//! object.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use attachment::record::{DIRECTORY, Locked, Record, list, networks};
use attachment::rules::{AddError, Rules, iptables, owner};
use attachment::section::{Kept, Section};
use attachment::{Key, firewalld};
use cni::error::{Error, code};
use cni::plugin::Request;
use kernel::child::leave_to_child;
use kernel::conntrack::Conntrack;
use kernel::nft::{ElementHandle, Nft};
use kernel::removal::clear;
use kernel::state::Scope;
use kernel::{Kernel, KernelError};

use super::rules::{by_firewalld, not_removed, refused};
use super::standby::hand_over;
use super::{join, runtimes};

/// How often elements of owners that are gone are taken over, because others may add the same ones meanwhile.
const TURNS: usize = 3;

/// The host's network namespace, which is opened at its first use.
#[derive(Default)]
pub struct Host {
    kernel: Option<Kernel>,
    /// Sections whose objects were removed.
    removed: Vec<Section>,
}

impl Host {
    /// The open namespace.
    pub fn kernel(&mut self) -> Result<&mut Kernel, Error> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open().map_err(Error::internal)?,
        };
        Ok(self.kernel.insert(kernel))
    }

    /// Removes what a section names.
    pub(super) fn remove(&mut self, key: Key<'_>, section: &Section) -> Result<(), Error> {
        let outcome = remove(self.kernel()?, key, section);
        self.removed.push(section.clone());
        outcome
    }

    /// Ends the use. What nobody needs to wait for is left to a child: tracked connections that `added`, or what was
    /// removed, made out of date, and the closing of the connection to nf_tables. Failures of it are not shown.
    pub(super) fn leave(mut self, added: Option<&Section>) {
        let nft: Option<Nft> = self.kernel.as_mut().and_then(Kernel::take_nft);
        let added = added.filter(|section| section.outdates_connections());
        self.removed.retain(Section::outdates_connections);
        if nft.is_some() || added.is_some() || !self.removed.is_empty() {
            leave_to_child(nft, || {
                let mut conntrack = Conntrack::open()?;
                let added = added.map(|section| section.forget_before(&mut conntrack));
                let removed = self.removed.iter().map(|section| section.forget_after(&mut conntrack));
                removed.chain(added).collect::<Result<(), _>>()?;
                Ok::<_, KernelError>(conntrack)
            });
        }
    }
}

/// The locked record of an attachment, on behalf of one chained plugin.
pub(super) struct Book<'a> {
    plugin: &'static str,
    key: Key<'a>,
    locked: Locked,
    /// The content; a new record if there is none.
    pub(super) record: Record,
}

impl<'a> Book<'a> {
    /// Opens and locks the record, which is made if there is none.
    pub(super) fn make(plugin: &'static str, key: Key<'a>) -> Result<Self, Error> {
        let mut locked = Locked::make(Path::new(DIRECTORY), key).map_err(Error::internal)?;
        let begun = || Record::begun().map_err(Error::internal);
        let record = locked.record.take().map_or_else(begun, Ok)?;
        Ok(Self { plugin, key, locked, record })
    }

    /// As [`Book::make`], but `None` if there is no record.
    pub(super) fn existing(plugin: &'static str, key: Key<'a>) -> Result<Option<Self>, Error> {
        let locked = Locked::existing(Path::new(DIRECTORY), key).map_err(Error::internal)?;
        locked.map_or(Ok(None), |locked| Self::of(plugin, key, locked))
    }

    /// `None` if the file is no record. An empty one is of an ADD that was killed before its first step, and is deleted.
    pub(super) fn of(plugin: &'static str, key: Key<'a>, mut locked: Locked) -> Result<Option<Self>, Error> {
        match locked.record.take() {
            Some(record) => Ok(Some(Self { plugin, key, locked, record })),
            None if locked.is_empty() => locked.delete().map(|()| None).map_err(Error::internal),
            None => Ok(None),
        }
    }

    /// The attachment.
    pub(super) fn key(&self) -> Key<'a> {
        self.key
    }

    /// The plugin's section.
    pub(super) fn section(&self) -> Option<&Kept> {
        self.record.section(self.plugin)
    }

    /// Writes the plugin's section.
    pub(super) fn write(&mut self, kept: Kept) -> Result<(), Error> {
        self.record.put_section(kept);
        self.locked.write(&self.record).map_err(Error::internal)
    }

    /// Notes that the plugin's ADD has succeeded, or that its DEL begins. Without a section nothing is written.
    pub(super) fn commit(&mut self, committed: bool) -> Result<(), Error> {
        let own = self.record.sections.iter_mut().find(|kept| kept.section.plugin() == self.plugin);
        match own {
            Some(kept) if kept.committed != committed => {
                kept.committed = committed;
                self.locked.write(&self.record).map_err(Error::internal)
            }
            _ => Ok(()),
        }
    }

    /// Removes what the section names, and then the section, and the record if nothing else is in it.
    pub(super) fn close(mut self, host: &mut Host) -> Result<(), Error> {
        let Some(kept) = self.section().cloned() else { return self.drop_empty() };
        let key = self.key;
        host.remove(key, &kept.section)?;
        self.record.drop_section(self.plugin);
        if self.is_empty() { self.drop_empty() } else { self.store() }?;
        // no lock is held while another one is waited for
        hand_over(host.kernel()?, key, &kept.section, Locked::existing)
    }

    fn store(mut self) -> Result<(), Error> {
        self.locked.write(&self.record).map_err(Error::internal)
    }

    fn is_empty(&self) -> bool {
        self.record.sections.is_empty() && self.record.has_no_links()
    }

    fn drop_empty(self) -> Result<(), Error> {
        if self.is_empty() { self.locked.delete().map_err(Error::internal) } else { Ok(()) }
    }

    /// Replaces the content of the plugin's section.
    pub(super) fn replace(&mut self, section: Section) -> Result<(), Error> {
        match self.section().cloned() {
            Some(kept) => self.write(Kept { section, ..kept }),
            None => Ok(()),
        }
    }

    /// Adds rules. Elements of attachments whose pods are gone are taken over; `refuse` is the error for an element of
    /// a living one, from the element and the owner's name. If the same container has elements on another network,
    /// nothing is added, and these are returned: they serve it already.
    pub(super) fn add(
        &self,
        host: &mut Kernel,
        rules: &Rules,
        refuse: &dyn Fn(&ElementHandle, &str) -> Error,
    ) -> Result<Vec<ElementHandle>, Error> {
        let failed =
            |cause: &dyn std::fmt::Display| Error::internal(format!("{}: table {}: {cause}", self.plugin, rules.table));
        for _ in 0..TURNS {
            let taken = match rules.add(host) {
                Ok(_) => return Ok(Vec::new()),
                Err(AddError::Taken(taken)) => taken,
                Err(AddError::Failed(cause)) => return Err(failed(&cause)),
            };
            let (mut own, mut refused) = (Vec::new(), BTreeMap::new());
            for handle in &taken {
                match living_owner(self.plugin, handle)? {
                    Some(owner) if owner.container == self.key.container => own.push(handle.clone()),
                    // a port has several elements
                    Some(owner) => {
                        let error = refuse(handle, &owner.to_string());
                        refused.insert(error.msg.clone(), Err(error));
                    }
                    None => {}
                }
            }
            join(refused.into_values())?;
            if !own.is_empty() {
                return Ok(own);
            }
            rules.take_over(host, &taken).map_err(|cause| failed(&cause))?;
        }
        Err(Error { code: code::TRY_AGAIN, ..failed(&"others keep adding the same elements") })
    }
}

/// An attachment by its names.
struct Owner {
    network: String,
    container: String,
    ifname: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.network, self.container, self.ifname)
    }
}

/// The attachment that an element belongs to, unless its pod is gone.
fn living_owner(plugin: &str, taken: &ElementHandle) -> Result<Option<Owner>, Error> {
    let comment = taken.element.comment.as_deref().unwrap_or_default();
    let Some((network, container, ifname)) = find_owner(comment)? else { return Ok(None) };
    let key = Key { network: &network, container: &container, ifname: &ifname };
    let record = Locked::glance(Path::new(DIRECTORY), key).map_err(Error::internal)?;
    let lives = record.is_some_and(|record| record.section(plugin).is_some_and(|kept| kept.netns.is_there()));
    Ok(lives.then_some(Owner { network, container, ifname }))
}

/// The section without what the same container has on another network.
pub(super) fn not_served(host: &mut Kernel, key: Key<'_>, section: &Section) -> Result<Section, Error> {
    let mut own = Vec::new();
    for rules in section.rules(key) {
        let failed = |cause: KernelError| Error::internal(format!("{}: {cause}", section.plugin()));
        let taken = match rules.taken(host) {
            // without the table there is none
            Err(error) if error.is_absent() => Vec::new(),
            taken => taken.map_err(failed)?,
        };
        for handle in taken {
            let owner = living_owner(section.plugin(), &handle)?;
            own.extend(owner.filter(|owner| owner.container == key.container).map(|_| handle));
        }
    }
    Ok(section.without(&own))
}

/// The attachment that a comment belongs to. A comment that was cut does not name it, so the records are searched.
fn find_owner(comment: &str) -> Result<Option<(String, String, String)>, Error> {
    if let Some(Key { network, container, ifname }) = owner::named(comment) {
        return Ok(Some((network.to_owned(), container.to_owned(), ifname.to_owned())));
    }
    let directory = Path::new(DIRECTORY);
    for network in networks(directory).map_err(Error::internal)? {
        for (container, ifname) in list(directory, &network).map_err(Error::internal)? {
            let key = Key { network: &network, container: &container, ifname: &ifname };
            if comment.starts_with(&owner::mark(key)) {
                return Ok(Some((network, container, ifname)));
            }
        }
    }
    Ok(None)
}

/// Makes what other programs make for a section: rules in the tables of iptables, and sources of firewalld's zones.
pub(super) fn make_by_programs(key: Key<'_>, section: &Section) -> Result<(), Error> {
    if let Some((parts, _)) = section.iptables(key) {
        iptables::put(&parts).map_err(|error| refused(&error).context(section.plugin()))?;
    }
    section
        .sources()
        .map_or(Ok(()), |(zone, sources)| firewalld::add(zone, &sources).map_err(|error| by_firewalld(&error)))
}

/// The commands that would make the rules of a section that are missing.
pub(super) fn missing(host: &mut Kernel, key: Key<'_>, section: &Section) -> Result<Vec<String>, Error> {
    let mut found = missing_in_nft(host, key, section)?;
    if !found.is_empty() {
        let rest = not_served(host, key, section)?;
        found = missing_in_nft(host, key, &rest)?;
    }
    if let Some((parts, _)) = section.iptables(key) {
        found.extend(iptables::differences(&parts).map_err(|error| refused(&error).context(section.plugin()))?);
    }
    if let Some((zone, sources)) = section.sources() {
        found.extend(firewalld::missing(zone, &sources).map_err(|error| by_firewalld(&error))?);
    }
    Ok(found)
}

fn missing_in_nft(host: &mut Kernel, key: Key<'_>, section: &Section) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for rules in section.rules(key) {
        found.extend(rules.differences(host).map_err(|error| Error::internal(error).context(section.plugin()))?);
    }
    Ok(found)
}

/// Removes what a section names.
fn remove(host: &mut Kernel, key: Key<'_>, section: &Section) -> Result<(), Error> {
    let failed = |cause: KernelError| Error::internal(format!("{}: {cause}", section.plugin()));
    let mut outcomes: Vec<Result<(), Error>> = Vec::new();
    for rules in section.rules(key) {
        outcomes.push(rules.remove(host, &[]).map_err(failed));
    }
    if let Some((_, removal)) = section.iptables(key) {
        outcomes.push(iptables::remove(host, &removal).map_err(not_removed));
    }
    if let Some((zone, sources)) = section.sources() {
        outcomes.push(firewalld::remove(zone, &sources).map_err(|error| by_firewalld(&error)));
    }
    let (_, scope) = section.host();
    if scope != Scope::default() {
        outcomes.extend(clear(host, &scope).into_iter().map(|cause| Err(failed(cause))));
    }
    join(outcomes)
}

/// Removes what all sections of a record name.
pub(super) fn remove_all(key: Key<'_>, record: Option<&Record>) -> Result<(), Error> {
    let Some(record) = record.filter(|record| !record.sections.is_empty()) else { return Ok(()) };
    let mut host = Host::default();
    let mut remove = |kept: &Kept| {
        host.remove(key, &kept.section)?;
        // the caller has this attachment's lock
        hand_over(host.kernel()?, key, &kept.section, Locked::at_once)
    };
    let removed: Vec<_> = record.sections.iter().map(&mut remove).collect();
    host.leave(None);
    join(removed)
}

/// Removes the plugin's sections of the network's attachments that are no longer valid, with what they name.
pub(super) fn collect(plugin: &'static str, request: &Request<'_>, host: &mut Host) -> Result<(), Error> {
    runtimes::each_stale(request, |key, locked| {
        let book = Book::of(plugin, key, locked)?;
        book.filter(|book| book.section().is_some()).map_or(Ok(()), |book| book.close(host))
    })
}
