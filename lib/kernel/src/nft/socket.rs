//! The socket: transactions out, dumps in.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::batch::{Batch, Op};
use super::error::{NftError, Refusal};
use super::wire::{Incoming, SUBSYSTEM, Writer, message, stamp};

/// The kernel sends dumps in datagrams of at most 32 KiB (netlink_recvmsg); errors and ACKs are small.
const DATAGRAM: usize = 64 * 1024;
/// Room for the errors of a large transaction: each takes about 1 KiB of the buffer's account.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How often an interrupted dump is started anew.
const DUMP_TRIES: u32 = 10;

/// A connection to the nf_tables of the network namespace it was opened in, wherever the thread goes afterwards.
///
/// The kernel answers before a send returns, so that no call waits for anything but the kernel's own work.
///
/// **Closing** the socket after a transaction that deleted something takes 8 to 16 ms (the kernel waits for an RCU grace
/// period, nf_tables_api.c: `nft_rcv_nl_event`). A short-lived program keeps it open until its work is done and lets a
/// detached child inherit it ([`AsFd`], [`OwnedFd::from`]).
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    sequence: u32,
    /// What SO_SNDBUF was raised to.
    send_buffer: usize,
    /// SO_RCVBUF was raised.
    roomy: bool,
    /// Answers of an exchange that ended early may wait.
    unread: bool,
    buffer: Vec<u8>,
}

/// An answer to a request: its message type, family and attributes, copied.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: u16,
    pub(super) flags: u16,
}

impl Answer {
    pub(super) fn message(&self) -> Incoming<'_> {
        Incoming { kind: self.kind, flags: self.flags, sequence: 0, body: &self.bytes }
    }
}

impl Nft {
    /// Connects to the nf_tables of the calling thread's network namespace.
    pub fn open() -> Result<Self, NftError> {
        let socket = connect().map_err(|source| NftError::Open { source })?;
        Ok(Self { socket, sequence: 0, send_buffer: 0, roomy: false, unread: false, buffer: Vec::new() })
    }

    /// Does all of `batch`, in one message to the kernel, or nothing of it. An empty batch does nothing.
    ///
    /// Where a `destroy_*` meets an absent object, the kernel refuses the whole, and the rest is sent again without it;
    /// a refused transaction costs the kernel a grace period (about 10 ms): in a hot path, read first.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        if let Some(op) = batch.ops.iter().find(|op| op.bytes.is_none()) {
            return Err(NftError::Unencodable { what: op.what.clone() });
        }
        let mut left_out = Vec::new();
        while left_out.len() < batch.ops.len() {
            let refused = self.attempt(batch, &left_out)?;
            if refused.is_empty() {
                return Ok(());
            }
            let pardoned =
                |n: &usize, errno: i32| errno == libc::ENOENT && batch.ops.get(*n).is_some_and(|op| op.absent_is_fine);
            let hard: Vec<_> = refused
                .iter()
                .filter(|(n, (errno, _))| !pardoned(n, *errno))
                .map(|(n, (errno, text))| refusal(batch.ops.get(*n), *errno, text.clone()))
                .collect();
            if !hard.is_empty() {
                return Err(NftError::Refused(hard));
            }
            left_out.extend(refused.into_keys());
        }
        Ok(())
    }

    /// Sends the batch once; the operations that were refused, by their place (`usize::MAX`: the whole).
    fn attempt(
        &mut self,
        batch: &Batch,
        left_out: &[usize],
    ) -> Result<BTreeMap<usize, (i32, Option<String>)>, NftError> {
        let first = self.sequence.wrapping_add(1);
        self.sequence = first.wrapping_add(1 + batch.ops.len() as u32);
        let acknowledged = (0..batch.ops.len()).rev().find(|n| !left_out.contains(n));
        self.expect_errors(batch.ops.len());
        self.send("transaction", &batch.datagram(first, left_out))?;
        let mut refused = BTreeMap::new();
        let mut complete = false;
        while !complete && let Some(len) = self.receive("transaction")? {
            for answer in Incoming::all(&self.buffer[..len]) {
                let place = answer.sequence.wrapping_sub(first).wrapping_sub(1) as usize;
                if i32::from(answer.kind) != libc::NLMSG_ERROR || (place >= batch.ops.len() && answer.sequence != first)
                {
                    continue;
                }
                let place = if answer.sequence == first { usize::MAX } else { place };
                let (errno, text) = answer.verdict();
                complete |= Some(place) == acknowledged;
                if errno != 0 {
                    refused.entry(place).or_insert((errno, text));
                }
            }
        }
        self.unread = false;
        if refused.is_empty() && !complete { Err(malformed("transaction")) } else { Ok(refused) }
    }

    /// One request with one answer.
    pub(super) fn ask(
        &mut self,
        what: &str,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Answer, NftError> {
        let request = message(SUBSYSTEM << 8 | kind, 0, family, 0, body).ok_or_else(|| unencodable(what))?;
        let (mut answers, _) = self.exchange(what, request, false)?;
        if answers.len() == 1 { Ok(answers.remove(0)) } else { Err(malformed(what)) }
    }

    /// All objects of a kind; `body` says which. Tried again when others change something meanwhile.
    pub(super) fn dump(
        &mut self,
        what: &str,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
    ) -> Result<Vec<Answer>, NftError> {
        for _ in 0..DUMP_TRIES {
            let request = message(SUBSYSTEM << 8 | kind, 0, family, 0, &body).ok_or_else(|| unencodable(what))?;
            let (answers, interrupted) = self.exchange(what, request, true)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NftError::Busy { what: what.into(), tries: DUMP_TRIES })
    }

    /// Sends a request and collects its answers; true when they do not belong together (NLM_F_DUMP_INTR).
    fn exchange(&mut self, what: &str, mut request: Vec<u8>, dump: bool) -> Result<(Vec<Answer>, bool), NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        stamp(&mut request, sequence, if dump { libc::NLM_F_DUMP as u16 } else { 0 });
        self.send(what, &request)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut done = false;
        while !done && let Some(len) = self.receive(what)? {
            for answer in Incoming::all(&self.buffer[..len]).filter(|a| a.sequence == sequence) {
                // the last message, too, may be the one that says it
                interrupted |= i32::from(answer.flags) & libc::NLM_F_DUMP_INTR != 0;
                done |= is_end(what, &answer)?;
                if !done {
                    answers.push(Answer { bytes: answer.body.to_vec(), kind: answer.kind, flags: answer.flags });
                }
            }
            // only a dump has an end of its own
            done |= !dump;
        }
        self.unread = false;
        if done { Ok((answers, interrupted)) } else { Err(malformed(what)) }
    }

    fn send(&mut self, what: &str, datagram: &[u8]) -> Result<(), NftError> {
        let failed = |source: io::Error| NftError::Exchange { what: what.into(), source };
        if std::mem::replace(&mut self.unread, true) {
            self.drain();
        }
        self.make_room(datagram.len());
        match rustix::net::send(&self.socket, datagram, SendFlags::empty()) {
            Ok(sent) if sent == datagram.len() => Ok(()),
            Ok(_) => Err(failed(io::ErrorKind::WriteZero.into())),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// A transaction must leave in one piece; the default send buffer takes about 200 KiB.
    fn make_room(&mut self, len: usize) {
        const SAFE: usize = 100 * 1024;
        let wanted = len + len / 4;
        if len <= SAFE || wanted <= self.send_buffer {
            return;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            // too small is answered with EMSGSIZE, whose text says what to do
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
        self.send_buffer = wanted;
    }

    /// The next datagram's length in the buffer; none when the kernel has said all.
    fn receive(&mut self, what: &str) -> Result<Option<usize>, NftError> {
        self.buffer.resize(DATAGRAM, 0);
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        match rustix::net::recv(&self.socket, &mut self.buffer[..], flags) {
            Ok((_, whole)) if whole > DATAGRAM => Err(malformed(what)),
            Ok((_, len)) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(NftError::Exchange { what: what.into(), source: errno.into() }),
        }
    }

    /// A transaction that fails may answer to each of its operations, which the default buffer takes about 200 of.
    fn expect_errors(&mut self, operations: usize) {
        const SAFE: usize = 100;
        if operations <= SAFE || std::mem::replace(&mut self.roomy, true) {
            return;
        }
        // forcing it is for the owner of the network namespace; without, the kernel allows what net.core.rmem_max says
        if sockopt::set_socket_recv_buffer_size_force(&self.socket, RECEIVE_BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.socket, RECEIVE_BUFFER);
        }
    }

    /// Forgets what is left of an exchange that ended early.
    fn drain(&mut self) {
        self.buffer.resize(DATAGRAM, 0);
        // lost answers (ENOBUFS) are none to read either
        while let Ok(_) | Err(rustix::io::Errno::NOBUFS) =
            rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)
        {}
    }
}

/// True for the message behind a dump's last object; an error when the kernel refuses to tell.
fn is_end(what: &str, answer: &Incoming<'_>) -> Result<bool, NftError> {
    if !matches!(i32::from(answer.kind), libc::NLMSG_ERROR | libc::NLMSG_DONE) {
        return Ok(false);
    }
    match answer.verdict() {
        (0, _) => Ok(true),
        (errno, text) => Err(NftError::Unreadable(Refusal::new(what, errno, text))),
    }
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    // texts are a help, not a need: kernels before 4.12 have none
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    Ok(socket)
}

fn refusal(op: Option<&Op>, errno: i32, text: Option<String>) -> Refusal {
    Refusal::new(op.map_or("commit", |op| &op.what), errno, text)
}

fn malformed(what: &str) -> NftError {
    NftError::Malformed { what: what.into() }
}

fn unencodable(what: &str) -> NftError {
    NftError::Unencodable { what: what.into() }
}

impl AsFd for Nft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Nft> for OwnedFd {
    /// The socket itself, close-on-exec, for whoever shall close it.
    fn from(nft: Nft) -> Self {
        let fd = nft.socket.into_raw_fd();
        #[expect(unsafe_code, reason = "netlink-sys hands out its socket as a number only")]
        // SAFETY: into_raw_fd gave up the only owner of this open descriptor
        unsafe {
            OwnedFd::from_raw_fd(fd)
        }
    }
}
