//! Announcements of nf_tables: which of our tables somebody changed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;

use super::batch::SUBSYSTEM;
use super::error::NftError;
use super::types::{NftFamily, TableKey};
use crate::netlink::client::{Client, Protocol};
use crate::netlink::wire::Incoming;
use crate::netlink::{Errno, KernelError};

/// NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
const GROUP: u32 = 7;
/// The first attribute of tables, chains, rules, sets and elements is their table's name (NFTA_*_TABLE).
const TABLE_NAME: u16 = 1;
/// How often all tables are taken for changed at the most, while announcements are lost.
const REST: Duration = Duration::from_millis(50);

/// Hears which of some tables change (`nft monitor`). Announcements of other tables cost a comparison each; when they come
/// faster than they are read, the kernel drops some, and then all tables that are watched count as changed, at most every
/// 50 ms.
#[derive(Debug)]
pub struct NftWatch {
    client: Client,
    tables: BTreeSet<TableKey>,
    /// Announcements were lost, and that was not told yet.
    lost: bool,
    /// When all tables were last told as changed for a loss.
    told: Option<Instant>,
}

impl NftWatch {
    /// Watches `tables` in the thread's network namespace.
    pub fn open(tables: impl IntoIterator<Item = TableKey>) -> Result<Self, NftError> {
        let mut client = Client::open(Protocol::Netfilter)?;
        client.join(GROUP)?;
        Ok(Self { client, tables: tables.into_iter().collect(), lost: false, told: None })
    }

    /// Waits until a watched table changes, at most for `patience`; the tables that did, or may have.
    pub fn wait(&mut self, patience: Duration) -> Result<BTreeSet<TableKey>, NftError> {
        let end = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let until = match self.rest() {
                // what comes meanwhile is dropped by the kernel, and costs nothing
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
        self.told.map(|told| told + REST)
    }

    /// The watched tables that changed, or may have, since the last call, without waiting. For those who wait for the socket
    /// themselves, and not before [`NftWatch::rest`].
    ///
    /// # Errors
    /// What the kernel refuses; lost announcements are none.
    pub fn changed(&mut self) -> Result<BTreeSet<TableKey>, NftError> {
        self.take(Instant::now())
    }

    /// While announcements are lost: until when reading them would change nothing.
    pub fn rest(&self) -> Option<Instant> {
        self.rests_until().filter(|_| self.lost)
    }

    /// Reads what waits; the watched tables that changed.
    fn take(&mut self, now: Instant) -> Result<BTreeSet<TableKey>, NftError> {
        let mut changed = BTreeSet::new();
        loop {
            let Self { client, tables, .. } = self;
            let heard = client.hear(RecvFlags::DONTWAIT, &mut |message| changed.extend(watched(tables, message)));
            match heard {
                Ok(true) => {}
                Ok(false) => break,
                Err(Errno(libc::ENOBUFS)) => self.lost = true,
                Err(errno) => return Err(KernelError::new("read nf_tables' announcements", errno).into()),
            }
        }
        if self.lost && self.rests_until().is_none_or(|until| until <= now) {
            (self.lost, self.told) = (false, Some(now));
            changed.clone_from(&self.tables);
        }
        Ok(changed)
    }

    /// Until something is announced; during a rest, the whole time.
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
