//! Links that come into a namespace from its parent: created there through the parent's socket, or moved.

use std::os::fd::{AsRawFd, RawFd};

use crate::apply::Report;
use crate::diff::{LinkChange, Step};
use crate::kernel::Kernel;
use crate::link::text::{Creation, descriptor};
use crate::message::Request;
use crate::message::{ADD, link};
use crate::netlink::{Errno, KernelError};
use crate::netns::{Netns, NetnsError};
use crate::state::{Birth, Link};
use crate::types::{IfIndex, IfName};

/// The number of indexes to try: the chance that one of 2²⁰ is taken is small.
const TRIES: usize = 4;

/// Indexes that the kernel does not reach by counting, and that fit wherever programs store one.
const INDEXES: std::ops::Range<u32> = 1 << 20..1 << 21;

impl Kernel {
    /// Like [`Kernel::apply`], for a namespace that gets links from `parent`, as their [`Link::birth`] says.
    ///
    /// # Errors
    /// In the report: EEXIST if this namespace has a link of that name; ENODEV if the parent does not have the link
    /// to move, or the lower link. Nothing is left of a link that failed, and a link that should have moved is back.
    pub fn apply_from(&mut self, parent: &mut Self, steps: &[Step]) -> Report {
        self.take(Some(parent), steps)
    }

    /// Creates or moves `link`, whose birth is not `Here`.
    pub(crate) fn bear(&mut self, parent: Option<&mut Self>, name: &IfName, link: &Link) -> Result<(), KernelError> {
        let Some(parent) = parent else {
            let text = Some("it comes from another namespace, which the caller did not give".to_owned());
            return Err(KernelError {
                text,
                ..KernelError::new(Creation::new(name, link).to_string(), Errno(libc::EINVAL))
            });
        };
        let own = self.descriptor()?;
        let netns = own.as_raw_fd();
        let outcome = match &link.birth {
            Birth::Moved(from) => self.move_here(parent, netns, (name, link), from),
            _ => self.bear_from(parent, netns, name, link),
        };
        outcome.map_err(|error| explain(error, Creation { name, link, netns: &descriptor(netns) }))
    }

    /// An open file of this namespace.
    fn descriptor(&self) -> Result<Descriptor, KernelError> {
        match &self.netns {
            Some(netns) => Ok(Descriptor::Borrowed(netns.as_raw_fd())),
            None => match Netns::current() {
                Ok(netns) => Ok(Descriptor::Owned(netns)),
                Err(NetnsError::Refused { errno, .. }) => Err(KernelError::new("open the current netns", errno)),
                Err(_) => Err(KernelError::new("open the current netns", Errno(libc::ENOENT))),
            },
        }
    }

    fn bear_from(&mut self, parent: &mut Self, netns: RawFd, name: &IfName, link: &Link) -> Result<(), KernelError> {
        if let Some(lower) = link.kind.lower() {
            parent.index(lower)?;
        }
        if let Some(Some(master)) = &link.master {
            self.index(master)?;
        }
        let Err(mut error) = self.create_from(parent, netns, None, (name, link)) else { return Ok(()) };
        // Before Linux 6.13 the kernel looks up the name in the sender's namespace, unless the link has an index
        // (__rtnl_newlink, net/core/rtnetlink.c).
        // (__rtnl_newlink, net/core/rtnetlink.c)
        if !error.is_already() || self.link(name)?.is_some() {
            return Err(error);
        }
        for _ in 0..TRIES {
            let index = random_index()?;
            match self.create_from(parent, netns, Some(index), (name, link)) {
                Ok(()) => {
                    self.seen.add(index, name.clone());
                    return Ok(());
                }
                Err(next) => error = next,
            }
            // EBUSY means that the index is taken, or that the lower link is in use by something else.
            if error.errno.0 != libc::EBUSY {
                return Err(error);
            }
        }
        let lower =
            link.kind.lower().map(|lower| format!("{lower} is in use by something else, or ")).unwrap_or_default();
        let text = Some(format!("{lower}every index that was tried is taken in one of the namespaces"));
        Err(KernelError { text, ..error })
    }

    fn create_from(
        &self,
        parent: &mut Self,
        netns: RawFd,
        index: Option<IfIndex>,
        (name, link): (&IfName, &Link),
    ) -> Result<(), KernelError> {
        let message = link::create_in(netns, index, (name, link), (self.names(), parent.names()));
        let Some(message) = message else { return Err(KernelError::new("", Errno(libc::ENODEV))) };
        parent.socket.ask(Request::new(message, ADD, "")).map(drop)
    }

    fn move_here(
        &mut self,
        parent: &mut Self,
        netns: RawFd,
        (name, link): (&IfName, &Link),
        from: &IfName,
    ) -> Result<(), KernelError> {
        let absent = || KernelError::new(format!("ip link show {from}"), Errno(libc::ENODEV));
        let before = parent.link(from)?.ok_or_else(absent)?;
        let message = link::move_to(netns, before.index, name, link.birth_alias(from));
        let moved = parent.socket.ask(Request::new(message, 0, ""));
        parent.seen.remove(from);
        let Err(error) = moved else { return Ok(()) };
        if parent.name(before.index.0)?.is_some() {
            return Err(error);
        }
        // The kernel has moved the link under its old name, and could not rename it.
        let here = if error.is_already() || self.link(name)?.is_none() { from } else { name };
        match self.give_back(parent, here, (from, &before.link)) {
            Ok(()) => Err(error),
            Err(second) => {
                Err(KernelError { text: Some(format!("{here} stays where it was moved to: {second}")), ..error })
            }
        }
    }

    /// Moves the link `here` back to `parent`, to its state `before`.
    fn give_back(
        &mut self,
        parent: &mut Self,
        here: &IfName,
        (name, before): (&IfName, &Link),
    ) -> Result<(), KernelError> {
        let home = parent.descriptor()?;
        let index = self.index(here)?;
        self.seen.remove(here);
        let alias = before.alias.as_deref().unwrap_or_default();
        let what = format!("ip link set dev {here} netns {} name {name}", descriptor(home.as_raw_fd()));
        self.socket.ask(Request::new(link::move_to(home.as_raw_fd(), index, name, alias), 0, what))?;
        match before.up {
            true => parent.apply(&[Step::ChangeLink(name.clone(), LinkChange::up())]).ok(),
            false => Ok(()),
        }
    }
}

/// A namespace's file: that of its [`Kernel`], or one opened for this purpose.
enum Descriptor {
    Borrowed(RawFd),
    Owned(Netns),
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Owned(netns) => netns.as_raw_fd(),
        }
    }
}

/// Puts the whole command first, and the part that failed after it.
fn explain(error: KernelError, command: Creation<'_>) -> KernelError {
    let text = match (error.text, error.errno.0) {
        (None, libc::EEXIST) => Some(format!("{} is taken there", command.name)),
        (None, _) if !error.what.is_empty() => Some(error.what),
        (text, _) => text,
    };
    crate::apply::explain_kind(&command.link.kind, KernelError { what: command.to_string(), errno: error.errno, text })
}

fn random_index() -> Result<IfIndex, KernelError> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| KernelError::new("choose the index of a link", Errno(e.raw_os_error())))?;
    Ok(IfIndex(INDEXES.start + u32::from_ne_bytes(bytes) % (INDEXES.end - INDEXES.start)))
}
