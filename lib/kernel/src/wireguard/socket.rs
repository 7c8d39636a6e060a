//! The generic netlink socket, and WireGuard's number there (`struct genlmsghdr`, linux/genetlink.h).

use std::time::{Duration, SystemTime};

use super::decode;
use super::encode::IFNAME;
use crate::netlink::client::{Client, DUMP, DUMP_TRIES, Protocol, Refusal};
use crate::netlink::wire::{Incoming, Writer, framed};
use crate::netlink::{Errno, KernelError};
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
/// Requests in one send.
const PAGE: usize = 100;

/// A request's attributes (`None`: they did not fit), and the operation for its errors.
pub(crate) struct WireguardRequest {
    pub(crate) what: String,
    pub(crate) body: Writer,
}

/// A connection to WireGuard in the network namespace in which it was opened.
pub(crate) struct Generic {
    client: Client,
    family: u16,
}

impl Generic {
    /// Connects in the thread's network namespace. The error ENOENT means that the kernel has no WireGuard.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut generic = Self { client: Client::open(Protocol::Generic)?, family: CONTROL };
        generic.family = generic.resolve()?;
        Ok(generic)
    }

    fn resolve(&mut self) -> Result<u16, KernelError> {
        let what = "find wireguard in generic netlink";
        let request = framed(CONTROL, 0, [GET_FAMILY, VERSION, 0, 0], |writer| writer.text(FAMILY_NAME, "wireguard"));
        let mut family = None;
        self.exchange(request, libc::NLM_F_ACK as u16, &mut |message| {
            family = family.or(message.attributes().get(FAMILY_ID).and_then(|id| id.try_into().ok()));
        })
        .map_err(|(errno, text)| match errno.0 {
            libc::ENOENT => KernelError { what: what.into(), errno, text: Some(crate::apply::no_module("wireguard")) },
            _ => KernelError { what: what.into(), errno, text },
        })?;
        family.map(u16::from_ne_bytes).ok_or_else(|| KernelError::new(what, Errno(libc::EPROTO)))
    }

    /// Reads the configuration and peers of the device `name`.
    pub(crate) fn device(&mut self, name: &IfName) -> Result<WireguardDevice, KernelError> {
        let what = || format!("wg show {name}");
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        for _ in 0..DUMP_TRIES {
            let behind = [GET_DEVICE, VERSION, 0, 0];
            let request = framed(self.family, 0, behind, |writer| writer.text(IFNAME, name.as_str()));
            let mut device = WireguardDevice::default();
            let mut unread = false;
            let consistent = self.exchange(request, DUMP, &mut |message| {
                unread |= decode::add(&mut device, &message.attributes(), now).is_none();
            });
            match consistent.map_err(|(errno, text)| KernelError { what: what(), errno, text })? {
                true if unread => {
                    let text = Some("a peer of the kernel's answer is not understood".into());
                    return Err(KernelError { what: what(), errno: Errno(libc::EPROTO), text });
                }
                true => return Ok(device),
                false => {}
            }
        }
        Err(KernelError::new(what(), Errno(libc::EINTR)))
    }

    /// Sends all requests and returns the outcome of each, in order.
    pub(crate) fn set(&mut self, requests: Vec<WireguardRequest>) -> Vec<Result<(), KernelError>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let page: Vec<WireguardRequest> = requests.by_ref().take(PAGE).collect();
            outcomes.append(&mut self.page(page));
        }
        outcomes
    }

    fn page(&mut self, page: Vec<WireguardRequest>) -> Vec<Result<(), KernelError>> {
        let first = self.client.begin();
        let mut open = 0;
        let mut outcomes = Vec::with_capacity(page.len());
        for request in page {
            let behind = [SET_DEVICE, VERSION, 0, 0];
            let body = request.body.finish();
            match body.and_then(|body| framed(self.family, 0, behind, |writer| writer.raw(&body))) {
                Some(message) => {
                    self.client.put_message(&message, libc::NLM_F_ACK as u16);
                    open += 1;
                    outcomes.push(Err(KernelError::new(request.what, Errno(libc::EPROTO))));
                }
                // a request that could not be encoded has no reply
                None => {
                    self.client.skip(1);
                    outcomes.push(Err(KernelError::new(request.what, Errno(libc::EMSGSIZE))));
                }
            }
        }
        if open == 0 {
            return outcomes;
        }
        let exchanged = self.client.exchange(|answer| {
            let outcome = outcomes.get_mut(answer.sequence.wrapping_sub(first) as usize);
            if let (libc::NLMSG_ERROR, Some(outcome)) = (i32::from(answer.kind), outcome) {
                open -= 1;
                match (answer.verdict(), &mut *outcome) {
                    ((0, _), _) => *outcome = Ok(()),
                    ((errno, text), Err(error)) => (error.errno, error.text) = (Errno(errno), text),
                    _ => {}
                }
            }
            open == 0
        });
        if let Err(errno) = exchanged {
            outcomes.iter_mut().filter_map(|outcome| outcome.as_mut().err()).for_each(|error| error.errno = errno);
        }
        outcomes
    }

    /// Sends one request and passes on each object of the reply. Returns false if the objects are inconsistent.
    fn exchange(
        &mut self,
        request: Option<Vec<u8>>,
        flags: u16,
        see: &mut dyn FnMut(&Incoming<'_>),
    ) -> Result<bool, Refusal> {
        let request = request.ok_or((Errno(libc::EMSGSIZE), None))?;
        self.client.dump_once(&mut |client| client.put_message(&request, flags), see)
    }
}
