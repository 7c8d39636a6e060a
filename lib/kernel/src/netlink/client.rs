//! The netlink client that all codecs share. It sends datagrams and matches replies by sequence number.
//!
//! The kernel carries out a request while it is being sent, so all replies are ready when `send` returns. A client
//! therefore never blocks on replies: if the socket is empty before the last reply, that is an error.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols};
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::error::{Errno, KernelError};
use super::wire::{HEADER, Incoming, align, stamp};

/// Bytes of the receive buffer. The kernel fills datagrams of a dump up to 32 KiB, and the announcement of a bridge
/// port with all VLANs is as large (`netlink_dump`, net/netlink/af_netlink.c). Unused parts are never touched.
const DATAGRAM: usize = 64 * 1024;
/// Refusals that fit the default receive buffer of 212,992 bytes; each takes about 1 KiB.
const REFUSALS_THAT_FIT: usize = 100;
/// Bytes of the socket's receive buffer for the refusals of a large transaction.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes that fit the default send buffer, which takes about 200 KiB including overhead.
const SENDS_THAT_FIT: usize = 100 * 1024;
/// How often an interrupted dump is tried.
pub(crate) const DUMP_TRIES: u32 = 10;

/// The flags of a dump request, which [`Client::dump_once`] sends.
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// A netlink protocol (linux/netlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// NETLINK_ROUTE
    Route,
    /// NETLINK_NETFILTER: nf_tables and conntrack
    Netfilter,
    /// NETLINK_GENERIC
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => protocols::NETLINK_ROUTE,
            Self::Netfilter => protocols::NETLINK_NETFILTER,
            Self::Generic => protocols::NETLINK_GENERIC,
        }
    }
}

/// The kernel's refusal: the error number, and its message if it gave one.
pub(crate) type Refusal = (Errno, Option<String>);

/// A connection to one netlink protocol of the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    /// Whether it has a port. It can be bound only once.
    bound: bool,
    sequence: u32,
    out: Vec<u8>,
    buffer: Vec<u8>,
    /// The send buffer that was set with SO_SNDBUF, in bytes.
    send_buffer: usize,
    /// Whether SO_RCVBUF was raised.
    roomy: bool,
    /// Whether replies of an exchange that ended early may be waiting.
    unread: bool,
}

impl Client {
    /// Opens a socket with strict dump checks and extended acknowledgements.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, KernelError> {
        let fail = |e: io::Error| KernelError::io(format!("open a netlink socket ({protocol:?})"), &e);
        let mut socket = Socket::new(protocol.number()).map_err(fail)?;
        // generic netlink's controller replies only to sockets with a port
        let bound = protocol == Protocol::Generic;
        if bound {
            socket.bind_auto().map_err(fail)?;
        }
        // kernels before 4.20 have no strict checks (dumps are unfiltered), before 4.12 no extended acks (errors have
        // no text)
        if protocol == Protocol::Route {
            let _ = socket.set_netlink_get_strict_chk(true);
        }
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            bound,
            sequence: 0,
            out: Vec::new(),
            buffer: Vec::new(),
            send_buffer: 0,
            roomy: false,
            unread: false,
        })
    }

    /// Starts a new datagram and drops an unsent one. Returns the sequence number of its first message.
    pub(crate) fn begin(&mut self) -> u32 {
        self.out.clear();
        self.sequence.wrapping_add(1)
    }

    /// Appends a message with `length` bytes after its header, which `write` fills in.
    pub(crate) fn put(&mut self, kind: u16, flags: u16, length: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.out.len();
        self.out.resize(start + align(HEADER + length), 0);
        let (header, body) = self.out[start..start + HEADER + length].split_at_mut(HEADER);
        header[..4].copy_from_slice(&((HEADER + length) as u32).to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        write(body);
        self.number(start);
    }

    /// Appends a message that already has its header, and adds the flags `more`.
    pub(crate) fn put_message(&mut self, message: &[u8], more: u16) {
        let start = self.out.len();
        self.out.extend_from_slice(message);
        stamp(&mut self.out[start..], 0, more);
        self.number(start);
    }

    fn number(&mut self, start: usize) {
        self.sequence = self.sequence.wrapping_add(1);
        stamp(&mut self.out[start..], self.sequence, 0);
    }

    /// Skips `count` sequence numbers, for messages that are left out.
    pub(crate) fn skip(&mut self, count: u32) {
        self.sequence = self.sequence.wrapping_add(count);
    }

    /// Sends the datagram and passes each reply to `see`, until `see` returns true. Returns false if the replies end
    /// before that.
    pub(crate) fn exchange(&mut self, mut see: impl FnMut(&Incoming<'_>) -> bool) -> Result<bool, Errno> {
        self.send()?;
        while let Some(length) = self.receive(RecvFlags::DONTWAIT)? {
            // the whole datagram is read, so that nothing after the last reply is left for a later exchange
            let mut done = false;
            for answer in Incoming::all(&self.buffer[..length]) {
                done |= see(&answer);
            }
            if done {
                self.unread = false;
                return Ok(true);
            }
        }
        self.unread = false;
        Ok(false)
    }

    /// Sends a dump request and passes each object to `see`. `Ok(false)`: something changed during the dump, so the
    /// objects are inconsistent. A refused dump is an error and never an empty result.
    pub(crate) fn dump_once(
        &mut self,
        put: &mut dyn FnMut(&mut Self),
        see: &mut dyn FnMut(&Incoming<'_>),
    ) -> Result<bool, Refusal> {
        let sequence = self.begin();
        put(self);
        let mut consistent = true;
        let mut end = None;
        let whole = self.exchange(|answer| {
            if answer.sequence == sequence && end.is_none() {
                // the last message, too, may have the flag
                consistent &= !answer.is_interrupted();
                match i32::from(answer.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => end = Some(answer.verdict()),
                    _ => see(answer),
                }
            }
            end.is_some()
        });
        match (whole.map_err(|errno| (errno, None))?, end) {
            (true, Some((0, _))) => Ok(consistent),
            (_, Some((errno, text))) => Err((Errno(errno), text)),
            (_, None) => Err((Errno(libc::EPROTO), Some("the kernel's answer has no end".into()))),
        }
    }

    /// Joins a multicast group (RTNLGRP_*, NFNLGRP_*).
    pub(crate) fn join(&mut self, group: u32) -> Result<(), KernelError> {
        self.port()?;
        let fail = |e: io::Error| KernelError::io(format!("join netlink group {group}"), &e);
        self.socket.add_membership(group).map_err(fail)
    }

    /// The socket's port, by which the kernel knows who has asked for a change.
    pub(crate) fn port(&mut self) -> Result<u32, KernelError> {
        let fail = |e: io::Error| KernelError::io("bind a netlink socket".to_owned(), &e);
        if !std::mem::replace(&mut self.bound, true) {
            self.socket.bind_auto().map_err(fail)?;
        }
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(fail)?;
        Ok(address.port_number())
    }

    /// Receives a datagram of announcements and passes on its messages. With DONTWAIT it does not wait and returns
    /// false if there is none. The error ENOBUFS means that announcements were lost.
    pub(crate) fn announcements(
        &mut self,
        flags: RecvFlags,
        see: &mut dyn FnMut(&Incoming<'_>),
    ) -> Result<bool, Errno> {
        let Some(length) = self.receive(flags)? else { return Ok(false) };
        Incoming::all(&self.buffer[..length]).for_each(|message| see(&message));
        Ok(true)
    }

    /// Receives a datagram of announcements. With DONTWAIT it does not wait. ENOBUFS: announcements were lost.
    pub(crate) fn datagram(&mut self, flags: RecvFlags) -> Result<Option<&[u8]>, Errno> {
        let length = self.receive(flags)?;
        Ok(length.and_then(|length| self.buffer.get(..length)))
    }

    /// Makes room for the replies of a request that may be refused `refusals` times.
    pub(crate) fn expect_refusals(&mut self, refusals: usize) {
        if refusals <= REFUSALS_THAT_FIT || std::mem::replace(&mut self.roomy, true) {
            return;
        }
        // forcing needs privilege in the network namespace; otherwise the kernel allows up to net.core.rmem_max
        if sockopt::set_socket_recv_buffer_size_force(&self.socket, RECEIVE_BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.socket, RECEIVE_BUFFER);
        }
    }

    fn send(&mut self) -> Result<(), Errno> {
        if std::mem::replace(&mut self.unread, true) {
            self.drain();
        }
        self.make_room();
        match uninterrupted(|| rustix::net::send(&self.socket, &self.out, SendFlags::empty()))? {
            sent if sent == self.out.len() => Ok(()),
            _ => Err(Errno(libc::EMSGSIZE)),
        }
    }

    /// Raises the send buffer, because a datagram must be sent in one piece.
    fn make_room(&mut self) {
        let wanted = self.out.len() + self.out.len() / 4;
        if self.out.len() <= SENDS_THAT_FIT || wanted <= self.send_buffer {
            return;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            // if it stays too small, sending fails with EMSGSIZE, whose text says what to do
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
        self.send_buffer = wanted;
    }

    /// Receives the next datagram and returns its length; `None` if there is none.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<usize>, Errno> {
        let read = uninterrupted(|| {
            self.buffer.clear();
            self.buffer.reserve(DATAGRAM);
            rustix::net::recv(&self.socket, spare_capacity(&mut self.buffer), flags | RecvFlags::TRUNC)
        });
        match read {
            Ok((read, whole)) if whole > read => Err(Errno(libc::EMSGSIZE)),
            Ok((read, _)) => Ok(Some(read)),
            Err(Errno(libc::EAGAIN)) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Drops what is left of an exchange that ended early.
    fn drain(&mut self) {
        // replies that were lost (ENOBUFS) need not be dropped, but later ones do
        while let Ok(Some(_)) | Err(Errno(libc::ENOBUFS)) = self.receive(RecvFlags::DONTWAIT) {}
    }
}

/// Repeats a call that a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Errno(errno.raw_os_error())),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Client> for OwnedFd {
    /// The socket itself, close-on-exec, for a caller that closes it later.
    fn from(client: Client) -> Self {
        let fd = client.socket.into_raw_fd();
        #[expect(unsafe_code, reason = "netlink-sys hands out its socket as a number only")]
        // SAFETY: into_raw_fd gave up the only owner of this open descriptor
        unsafe {
            OwnedFd::from_raw_fd(fd)
        }
    }
}
