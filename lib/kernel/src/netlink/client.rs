//! The netlink client that all codecs share: datagrams out, answers in, matched by sequence number.
//!
//! The kernel carries a request out while it is sent, so that every answer waits when `send` returns. A client
//! therefore never blocks on its answers: an empty socket before the last one is an error and not a wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::{Socket, protocols};
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::error::{Errno, KernelError};
use super::wire::{HEADER, Incoming, align, stamp};

/// The kernel fills a dump's datagrams up to 32 KiB; a bridge port with all VLANs is announced in as much
/// (`netlink_dump`, net/netlink/af_netlink.c). What is not used is not touched.
const DATAGRAM: usize = 64 * 1024;
/// Each refusal takes about 1 KiB of a receive buffer that is 212,992 bytes by default.
const REFUSALS_THAT_FIT: usize = 100;
/// Room for the refusals of a large transaction.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The default send buffer takes about 200 KiB, overhead included.
const SENDS_THAT_FIT: usize = 100 * 1024;
/// An interrupted dump is read again this often.
pub(crate) const DUMP_TRIES: u32 = 10;

/// The flags of a request for all objects of a kind; [`Client::dump_once`] is the one to send it.
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

/// What the kernel said instead of doing it: the error number, and its sentence when it gave one.
pub(crate) type Refusal = (Errno, Option<String>);

/// A connection to one netlink protocol of the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    /// It has a port: it can be bound once.
    bound: bool,
    sequence: u32,
    out: Vec<u8>,
    buffer: Vec<u8>,
    /// What SO_SNDBUF was raised to.
    send_buffer: usize,
    /// SO_RCVBUF was raised.
    roomy: bool,
    /// Answers of an exchange that ended early may wait.
    unread: bool,
}

impl Client {
    /// Opens a socket with strict dump checks and extended acknowledgements.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, KernelError> {
        let fail = |e: io::Error| KernelError::io(format!("open a netlink socket ({protocol:?})"), &e);
        let mut socket = Socket::new(protocol.number()).map_err(fail)?;
        // generic netlink's controller answers to a port only
        let bound = protocol == Protocol::Generic;
        if bound {
            socket.bind_auto().map_err(fail)?;
        }
        // kernels before 4.20 lack strict checks, before 4.12 extended acks: dumps are then unfiltered and errors mute
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

    /// Forgets the datagram that was being put together; the sequence number that its first message will have.
    pub(crate) fn begin(&mut self) -> u32 {
        self.out.clear();
        self.sequence.wrapping_add(1)
    }

    /// Adds a message of `length` bytes behind its header, which `write` fills in.
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

    /// Adds a message that has its header already, with `more` flags.
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

    /// Passes over `count` sequence numbers, for messages that are left out.
    pub(crate) fn skip(&mut self, count: u32) {
        self.sequence = self.sequence.wrapping_add(count);
    }

    /// Sends the datagram and shows every answer, until `see` says that all is said. False when the kernel says nothing
    /// more before that.
    pub(crate) fn exchange(&mut self, mut see: impl FnMut(&Incoming<'_>) -> bool) -> Result<bool, Errno> {
        self.send()?;
        while let Some(length) = self.receive(RecvFlags::DONTWAIT)? {
            // the whole datagram is shown: what is behind the last answer is none of a later exchange
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

    /// Sends one request for all objects of a kind and shows each. `Ok(false)`: something changed meanwhile, and what
    /// was shown does not belong together. A refused dump is an error and never an empty answer.
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
                // the last message, too, may be the one that says it
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
        let fail = |e: io::Error| KernelError::io(format!("join netlink group {group}"), &e);
        if !std::mem::replace(&mut self.bound, true) {
            self.socket.bind_auto().map_err(fail)?;
        }
        self.socket.add_membership(group).map_err(fail)
    }

    /// Waits for a datagram of announcements, or does not with DONTWAIT (then there may be none), and shows its messages.
    /// ENOBUFS: some were lost.
    pub(crate) fn hear(&mut self, flags: RecvFlags, see: &mut dyn FnMut(&Incoming<'_>)) -> Result<bool, Errno> {
        let Some(length) = self.receive(flags)? else { return Ok(false) };
        Incoming::all(&self.buffer[..length]).for_each(|message| see(&message));
        Ok(true)
    }

    /// Waits for a datagram of announcements, or does not with DONTWAIT. ENOBUFS: some were lost.
    pub(crate) fn datagram(&mut self, flags: RecvFlags) -> Result<Option<&[u8]>, Errno> {
        let length = self.receive(flags)?;
        Ok(length.and_then(|length| self.buffer.get(..length)))
    }

    /// A request that may be refused `refusals` times at once needs room for the answers.
    pub(crate) fn expect_refusals(&mut self, refusals: usize) {
        if refusals <= REFUSALS_THAT_FIT || std::mem::replace(&mut self.roomy, true) {
            return;
        }
        // forcing it is for the owner of the network namespace; without, the kernel allows what net.core.rmem_max says
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

    /// A datagram must leave in one piece.
    fn make_room(&mut self) {
        let wanted = self.out.len() + self.out.len() / 4;
        if self.out.len() <= SENDS_THAT_FIT || wanted <= self.send_buffer {
            return;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            // too small is answered with EMSGSIZE, whose text says what to do
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
        self.send_buffer = wanted;
    }

    /// The next datagram's length in the buffer; none when there is none.
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

    /// Forgets what is left of an exchange that ended early.
    fn drain(&mut self) {
        // lost answers (ENOBUFS) are none to read either
        while let Ok(Some(_)) | Err(Errno(libc::ENOBUFS)) = self.receive(RecvFlags::DONTWAIT) {}
    }
}

/// Signals do not count.
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
    /// The socket itself, close-on-exec, for whoever shall close it.
    fn from(client: Client) -> Self {
        let fd = client.socket.into_raw_fd();
        #[expect(unsafe_code, reason = "netlink-sys hands out its socket as a number only")]
        // SAFETY: into_raw_fd gave up the only owner of this open descriptor
        unsafe {
            OwnedFd::from_raw_fd(fd)
        }
    }
}
