//! The generic netlink socket, and the number that the kernel gave WireGuard there (`struct genlmsghdr`, linux/genetlink.h).

use std::io;
use std::time::{Duration, SystemTime};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::decode;
use super::encode::IFNAME;
use crate::netlink::{Errno, KernelError, transfer};
use crate::nft::wire::{Incoming, Writer, framed, stamp};
use crate::state::WireguardDevice;
use crate::types::IfName;

/// GENL_ID_CTRL, and of it CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// WG_CMD_GET_DEVICE, WG_CMD_SET_DEVICE and WG_GENL_VERSION
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;
/// Requests in one send: an answer to each takes about 768 bytes of a receive buffer of 212,992.
const PAGE: usize = 100;
/// The kernel fills a dump's datagrams up to 32 KiB.
const RECEIVE: usize = 64 * 1024;
/// How often an interrupted dump is read anew before it is given up.
const DUMP_TRIES: usize = 10;

/// A request's attributes (`None`: they did not fit) and how an error about it begins.
pub(crate) struct Wish {
    pub(crate) what: String,
    pub(crate) body: Writer,
}

/// A connection to WireGuard in the network namespace it was opened in.
pub(crate) struct Generic {
    socket: Socket,
    family: u16,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Generic {
    /// Connects in the thread's network namespace. ENOENT: the kernel has no WireGuard.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let fail = |e: io::Error| KernelError::io("open a generic netlink socket", &e);
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        // texts are a help, not a need
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let mut generic = Self { socket, family: CONTROL, sequence: 0, buffer: Vec::with_capacity(RECEIVE) };
        generic.family = generic.resolve()?;
        Ok(generic)
    }

    fn resolve(&mut self) -> Result<u16, KernelError> {
        let what = "find wireguard in generic netlink";
        let request = framed(CONTROL, 0, [GET_FAMILY, VERSION, 0, 0], |writer| writer.text(FAMILY_NAME, "wireguard"));
        let mut family = None;
        self.exchange(what, request, libc::NLM_F_ACK, |message| {
            family = family.or(message.attributes().get(FAMILY_ID).and_then(|id| id.try_into().ok()));
        })
        .map_err(|error| match error.errno.0 {
            libc::ENOENT => KernelError { text: Some(crate::apply::no_module("wireguard")), ..error },
            _ => error,
        })?;
        family.map(u16::from_ne_bytes).ok_or_else(|| KernelError::new(what, Errno(libc::EPROTO)))
    }

    /// What the device `name` holds.
    pub(crate) fn device(&mut self, name: &IfName) -> Result<WireguardDevice, KernelError> {
        let what = format!("wg show {name}");
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        for _ in 0..DUMP_TRIES {
            let behind = [GET_DEVICE, VERSION, 0, 0];
            let request = framed(self.family, 0, behind, |writer| writer.text(IFNAME, name.as_str()));
            let mut device = WireguardDevice::default();
            let consistent = self.exchange(&what, request, libc::NLM_F_DUMP, |message| {
                decode::add(&mut device, &message.attributes(), now);
            })?;
            if consistent {
                return Ok(device);
            }
        }
        Err(KernelError::new(what, Errno(libc::EINTR)))
    }

    /// Carries out each wish, and says what became of it.
    pub(crate) fn set(&mut self, wishes: Vec<Wish>) -> Vec<Result<(), KernelError>> {
        let mut outcomes = Vec::with_capacity(wishes.len());
        let mut wishes = wishes.into_iter().peekable();
        while wishes.peek().is_some() {
            let page: Vec<Wish> = wishes.by_ref().take(PAGE).collect();
            outcomes.append(&mut self.page(page));
        }
        outcomes
    }

    fn page(&mut self, page: Vec<Wish>) -> Vec<Result<(), KernelError>> {
        let first = self.sequence.wrapping_add(1);
        let (mut out, mut what) = (Vec::new(), Vec::new());
        for wish in page {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = libc::NLM_F_ACK as u16;
            let body = wish.body.finish();
            let message = body
                .and_then(|body| framed(self.family, flags, [SET_DEVICE, VERSION, 0, 0], |writer| writer.raw(&body)));
            if let Some(mut message) = message {
                stamp(&mut message, self.sequence, 0);
                out.append(&mut message);
            }
            what.push(wish.what);
        }
        // one that cannot be said has no answer
        let mut outcomes: Vec<_> =
            what.iter().map(|what| Err(KernelError::new(what.as_str(), Errno(libc::EMSGSIZE)))).collect();
        if let Err(errno) = self.collect(&out, first, &mut outcomes) {
            outcomes = what.iter().map(|what| Err(KernelError::new(what.as_str(), errno))).collect();
        }
        outcomes
    }

    fn collect(&mut self, out: &[u8], first: u32, outcomes: &mut [Result<(), KernelError>]) -> Result<(), Errno> {
        let mut open = Incoming::all(out).count();
        transfer::send(&self.socket, out)?;
        while open > 0 {
            transfer::receive(&self.socket, &mut self.buffer)?;
            for answer in Incoming::all(&self.buffer).filter(|a| i32::from(a.kind) == libc::NLMSG_ERROR) {
                let Some(outcome) = outcomes.get_mut(answer.sequence.wrapping_sub(first) as usize) else { continue };
                open -= 1;
                *outcome = match (answer.verdict(), &*outcome) {
                    ((errno, text), Err(error)) if errno != 0 => {
                        Err(KernelError { what: error.what.clone(), errno: Errno(errno), text })
                    }
                    _ => Ok(()),
                };
            }
        }
        Ok(())
    }

    /// Sends one request and shows each object of its answer; false when they do not belong together.
    fn exchange(
        &mut self,
        what: &str,
        request: Option<Vec<u8>>,
        flags: i32,
        mut see: impl FnMut(&Incoming<'_>),
    ) -> Result<bool, KernelError> {
        let fail = |errno| KernelError::new(what, errno);
        let mut request = request.ok_or_else(|| fail(Errno(libc::EMSGSIZE)))?;
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        stamp(&mut request, sequence, flags as u16);
        transfer::send(&self.socket, &request).map_err(fail)?;
        let mut consistent = true;
        loop {
            transfer::receive(&self.socket, &mut self.buffer).map_err(fail)?;
            for answer in Incoming::all(&self.buffer).filter(|a| a.sequence == sequence) {
                consistent &= i32::from(answer.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(answer.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => match answer.verdict() {
                        (0, _) => return Ok(consistent),
                        (errno, text) => return Err(KernelError { what: what.into(), errno: Errno(errno), text }),
                    },
                    _ => see(&answer),
                }
            }
        }
    }
}
