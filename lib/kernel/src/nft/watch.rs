//! Announcements of nf_tables: which of our tables were changed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;

use super::batch::{SUBSYSTEM, attr, msg};
use super::error::NftError;
use super::types::{ChainKind, NftFamily, TableKey};
use crate::netlink::client::{Client, Protocol};
use crate::netlink::wire::Incoming;
use crate::netlink::{Errno, KernelError};

/// NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
const GROUP: u32 = 7;
/// The first attribute of tables, chains, rules, sets and elements is their table's name (NFTA_*_TABLE).
const TABLE_NAME: u16 = 1;
/// While announcements are lost, all tables count as changed at most once in this time.
const REST: Duration = Duration::from_millis(50);

/// Watches some tables for changes (`nft monitor`). Announcements of other tables cost a comparison each. If they come
/// faster than they are read, the kernel drops some. Then all watched tables count as changed, at most every 50 ms.
#[derive(Debug)]
pub struct NftWatch {
    client: Client,
    tables: BTreeSet<TableKey>,
    /// Base chains of this type are watched in all tables.
    kind: Option<ChainKind>,
    /// Whether announcements were lost and that is not yet reported.
    lost: bool,
    /// When all tables were last reported as changed because of a loss.
    reported: Option<Instant>,
}

impl NftWatch {
    /// Watches `tables` in the thread's network namespace.
    pub fn open(tables: impl IntoIterator<Item = TableKey>) -> Result<Self, NftError> {
        let mut client = Client::open(Protocol::Netfilter)?;
        client.join(GROUP)?;
        Ok(Self { client, tables: tables.into_iter().collect(), kind: None, lost: false, reported: None })
    }

    /// Also watches all tables for new base chains of a type, and for new policies of such chains.
    pub fn with_base_chains(self, kind: ChainKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Watches `tables` from now on, in place of those before.
    pub fn set_tables(&mut self, tables: impl IntoIterator<Item = TableKey>) {
        self.tables = tables.into_iter().collect();
    }

    /// Waits for at most `patience` until a watched table changes. Returns the tables that changed or may have changed.
    pub fn wait(&mut self, patience: Duration) -> Result<BTreeSet<TableKey>, NftError> {
        let end = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let until = match self.rest() {
                // the kernel drops what is announced meanwhile, which costs nothing
                Some(until) if until > now => until,
                _ => {
                    let changed = self.take(now)?;
                    if !changed.is_empty() {
                        return Ok(changed);
                    }
                    if self.lost { continue } else { end }
                }
            };
            if now >= end {
                return Ok(BTreeSet::new());
            }
            self.pause(until.min(end).saturating_duration_since(now))?;
        }
    }

    fn rests_until(&self) -> Option<Instant> {
        self.reported.map(|reported| reported + REST)
    }

    /// The watched tables that have changed since the last call, or may have. Does not wait: for callers that wait for
    /// the socket themselves, and not before [`NftWatch::rest`].
    ///
    /// # Errors
    /// The kernel refused an operation. Lost announcements are no error.
    pub fn changed(&mut self) -> Result<BTreeSet<TableKey>, NftError> {
        self.take(Instant::now())
    }

    /// After announcements were lost: the time before which reading them has no use.
    pub fn rest(&self) -> Option<Instant> {
        self.rests_until().filter(|_| self.lost)
    }

    /// Reads the announcements that are ready. Returns the watched tables that changed.
    fn take(&mut self, now: Instant) -> Result<BTreeSet<TableKey>, NftError> {
        let mut changed = BTreeSet::new();
        loop {
            let Self { client, tables, kind, .. } = self;
            let mut note = |message: &Incoming<'_>| {
                changed.extend(watched(tables, message));
                changed.extend(kind.and_then(|kind| chain_of(kind, message)));
            };
            let read = client.announcements(RecvFlags::DONTWAIT, &mut note);
            match read {
                Ok(true) => {}
                Ok(false) => break,
                Err(Errno(libc::ENOBUFS)) => self.lost = true,
                Err(errno) => return Err(KernelError::new("read nf_tables' announcements", errno).into()),
            }
        }
        if self.lost && self.rests_until().is_none_or(|until| until <= now) {
            (self.lost, self.reported) = (false, Some(now));
            changed.clone_from(&self.tables);
        }
        Ok(changed)
    }

    /// Waits until something is announced; during a rest it waits the whole time.
    fn pause(&self, time: Duration) -> Result<(), NftError> {
        let timeout = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let socket = [PollFd::new(&self.client, PollFlags::IN)];
        let mut fds = if self.lost { Vec::new() } else { socket.into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => {
                Err(KernelError::new("wait for nf_tables' announcements", Errno(errno.raw_os_error())).into())
            }
        }
    }
}

impl AsFd for NftWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

/// The watched table that a message is about.
fn watched(tables: &BTreeSet<TableKey>, message: &Incoming<'_>) -> Option<TableKey> {
    if message.kind >> 8 != SUBSYSTEM {
        return None;
    }
    let (family, attributes) = (NftFamily::from_number(message.family())?, message.attributes());
    tables.iter().find(|key| key.family == family && attributes.is_text(TABLE_NAME, &key.name)).cloned()
}

/// The table of a base chain of this type that a message announces.
fn chain_of(kind: ChainKind, message: &Incoming<'_>) -> Option<TableKey> {
    if message.kind != SUBSYSTEM << 8 | msg::NEWCHAIN {
        return None;
    }
    let (family, attributes) = (NftFamily::from_number(message.family())?, message.attributes());
    attributes.nested(attr::CHAIN_HOOK)?;
    let name = attributes.text(attr::CHAIN_TABLE)?;
    attributes.is_text(attr::CHAIN_TYPE, kind.name()).then_some(TableKey { family, name })
}
