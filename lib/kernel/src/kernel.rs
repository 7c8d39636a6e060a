//! One network namespace, as this program accesses it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use netlink_packet_route::RouteNetlinkMessage;

use crate::message::link::SeenLink;
use crate::message::{Names, link};
use crate::message::{Request, Socket};
use crate::netlink::{Errno, KernelError};
use crate::netns::Netns;
use crate::nft::{Nft, NftError};
use crate::types::{IfIndex, IfName};
use crate::wireguard::Generic;

/// A socket in one network namespace, with the names and indexes of its links seen so far.
pub struct Kernel {
    pub(crate) socket: Socket,
    pub(crate) seen: Seen,
    /// Opened at the first use of WireGuard.
    pub(crate) generic: Option<Generic>,
    /// Opened at the first use of nf_tables.
    nft: Option<Nft>,
    /// The namespace of its sysctls, unless it is the thread's own.
    pub(crate) netns: Option<Netns>,
}

/// Maps names to indexes and back. A hash map would cost a system call for its first key.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: BTreeMap<u32, IfName>,
    indexes: BTreeMap<IfName, IfIndex>,
}

impl Seen {
    pub(crate) fn add(&mut self, index: IfIndex, name: IfName) {
        if let Some(old) = self.names.insert(index.0, name.clone())
            && old != name
        {
            self.indexes.remove(&old);
        }
        self.indexes.insert(name, index);
    }

    fn note(&mut self, message: &RouteNetlinkMessage) -> Option<SeenLink> {
        let seen = link::decode(message)?;
        self.add(seen.index, seen.name.clone());
        Some(seen)
    }

    pub(crate) fn remove(&mut self, name: &IfName) {
        if let Some(index) = self.indexes.remove(name) {
            self.names.remove(&index.0);
        }
    }
}

impl Names for Seen {
    fn name(&self, index: u32) -> Option<IfName> {
        self.names.get(&index).cloned()
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        self.indexes.get(name).copied()
    }
}

impl Kernel {
    /// Opens the thread's own namespace.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { socket: Socket::open()?, seen: Seen::default(), generic: None, nft: None, netns: None })
    }

    /// Opens another namespace: the socket is opened inside and stays there; sysctls are written by entering it.
    pub fn open_in(netns: Netns) -> Result<Self, KernelError> {
        let socket = netns.enter(Socket::open)??;
        Ok(Self { socket, seen: Seen::default(), generic: None, nft: None, netns: Some(netns) })
    }

    /// The namespace that this was opened in, unless it is the thread's own.
    pub fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }

    /// The socket, for requests that do not concern state.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The connection to WireGuard in this namespace.
    pub(crate) fn generic(&mut self) -> Result<&mut Generic, KernelError> {
        let generic = match self.generic.take() {
            Some(generic) => generic,
            None => self.inside(Generic::open)??,
        };
        Ok(self.generic.insert(generic))
    }

    /// The connection to nf_tables in this namespace.
    pub fn nft(&mut self) -> Result<&mut Nft, NftError> {
        let nft = match self.nft.take() {
            Some(nft) => nft,
            None => self.inside(Nft::open)??,
        };
        Ok(self.nft.insert(nft))
    }

    /// Gives up the connection to nf_tables. Closing it may take the kernel 8 to 16 ms: see
    /// [`leave_to_child`](crate::child::leave_to_child).
    pub fn take_nft(&mut self) -> Option<Nft> {
        self.nft.take()
    }

    /// Runs `work` in the namespace of this /proc/sys/net.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> Result<T, KernelError> {
        match &self.netns {
            Some(netns) => netns.enter(work),
            None => Ok(work()),
        }
    }

    /// Whether links, addresses and routes may be changed here. That takes CAP_NET_ADMIN in the user namespace that owns
    /// this network namespace; a process may have the capability and still not have it there.
    ///
    /// # Errors
    /// The kernel's answer is another one than to a request that names no link.
    pub fn may_change(&mut self) -> Result<bool, KernelError> {
        // the capability is looked for before the link is (rtnetlink_rcv_msg, net/core/rtnetlink.c)
        match self.socket.ask(Request::new(link::delete_by_index(IfIndex(0)), 0, "ip link del")) {
            Err(error) if error.is_denied() => Ok(false),
            Err(error) if !error.is_invalid() && !error.is_absent() => Err(error),
            _ => Ok(true),
        }
    }

    /// The link `name`; `None` when it does not exist.
    pub fn link(&mut self, name: &IfName) -> Result<Option<SeenLink>, KernelError> {
        let request = Request::new(link::get_by_name(name), 0, format!("ip link show {name}"));
        match self.socket.ask(request) {
            Ok(message) => Ok(message.as_ref().and_then(|m| self.note(m))),
            Err(e) if e.errno.0 == libc::ENODEV => {
                self.seen.remove(name);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<SeenLink>, KernelError> {
        let Self { socket, seen, .. } = self;
        socket.dump(&Request::new(link::get_all(), 0, "ip link show"), |message| seen.note(message))
    }

    /// Reads a link message and remembers its name.
    pub(crate) fn note(&mut self, message: &RouteNetlinkMessage) -> Option<SeenLink> {
        self.seen.note(message)
    }

    /// The index of `name`; asks the kernel if it is unknown.
    pub fn index(&mut self, name: &IfName) -> Result<IfIndex, KernelError> {
        if let Some(index) = self.seen.index(name) {
            return Ok(index);
        }
        match self.link(name)? {
            Some(seen) => Ok(seen.index),
            None => Err(KernelError::new(format!("ip link show {name}"), Errno(libc::ENODEV))),
        }
    }

    /// The name of `index`; asks the kernel if it is unknown.
    pub fn name(&mut self, index: u32) -> Result<Option<IfName>, KernelError> {
        if let Some(name) = self.seen.name(index) {
            return Ok(Some(name));
        }
        // an ioctl costs a fraction of a request and its reply
        let name = match rustix::net::netdevice::index_to_name(self.socket.as_fd(), index) {
            Err(rustix::io::Errno::NODEV) => return Ok(None),
            name => name.ok().and_then(|name| IfName::new(&name).ok()),
        };
        if let Some(name) = name {
            self.seen.add(IfIndex(index), name.clone());
            return Ok(Some(name));
        }
        let request = Request::new(link::get_by_index(index), 0, format!("ip link show, index {index}"));
        match self.socket.ask(request) {
            Ok(message) => Ok(message.as_ref().and_then(|m| self.note(m)).map(|seen| seen.name)),
            Err(e) if e.errno.0 == libc::ENODEV => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names and indexes seen so far.
    pub fn names(&self) -> &dyn Names {
        &self.seen
    }
}
