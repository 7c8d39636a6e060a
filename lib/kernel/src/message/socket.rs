//! rtnetlink's requests: pages out, answers matched by sequence number.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::RecvFlags;

use super::read::object;
use crate::diff::Step;
use crate::netlink::client::{Client, DUMP, DUMP_TRIES, Protocol};
use crate::netlink::{Errno, KernelError};

/// Requests in one `sendmsg`. Each refusal takes about 768 bytes of a receive buffer that is 212,992 by default, and
/// all of a page may be refused before the first answer is read.
const PAGE: usize = 200;

/// One message to the kernel and how an error about it begins.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The message.
    pub message: RouteNetlinkMessage,
    /// NLM_F_* beyond REQUEST and ACK.
    pub flags: u16,
    /// The operation and its object, for errors.
    pub what: What<'a>,
}

/// What an error says was being done. A step is made into text only when there is an error: there may be thousands.
#[derive(Debug, Clone)]
pub enum What<'a> {
    /// A text.
    Text(String),
    /// A step, which prints as the command that does the same.
    Step(&'a Step),
}

impl From<String> for What<'_> {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for What<'_> {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<'a> From<&'a Step> for What<'a> {
    fn from(step: &'a Step) -> Self {
        Self::Step(step)
    }
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Step(step) => step.fmt(f),
        }
    }
}

impl<'a> Request<'a> {
    /// `message` with `flags`, described by `what`.
    pub fn new(message: RouteNetlinkMessage, flags: u16, what: impl Into<What<'a>>) -> Self {
        Self { message, flags, what: what.into() }
    }
}

/// The object that a request brought back, if any.
pub type Answer = Result<Option<RouteNetlinkMessage>, KernelError>;

/// A NETLINK_ROUTE socket. It serves the network namespace it was opened in for ever, whatever the thread does later.
#[derive(Debug)]
pub struct Socket {
    client: Client,
}

impl Socket {
    /// Opens a socket in the thread's network namespace, with strict dump checking and extended acknowledgements.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { client: Client::open(Protocol::Route)? })
    }

    /// Sends all `requests`, a page per `sendmsg`, and returns one outcome for each, in order. Objects that requests
    /// of type GET bring back are in the outcome.
    pub fn transact(&mut self, requests: &[Request<'_>]) -> Vec<Answer> {
        requests.chunks(PAGE).flat_map(|page| self.page(page)).collect()
    }

    /// Sends one request and returns the object it brings back, if any.
    pub fn ask(&mut self, request: Request<'_>) -> Answer {
        self.transact(std::slice::from_ref(&request)).pop().unwrap_or(Ok(None))
    }

    fn page(&mut self, page: &[Request<'_>]) -> Vec<Answer> {
        let first = self.client.begin();
        for (i, request) in page.iter().enumerate() {
            // one acknowledgement, of the last, says that all are through; refusals come unasked, and so does an object
            let ack = if i + 1 == page.len() && !brings_an_object(&request.message) { NLM_F_ACK } else { 0 };
            self.put(&request.message, request.flags | NLM_F_REQUEST | ack);
        }
        let mut outcomes: Vec<Answer> = page.iter().map(|_| Ok(None)).collect();
        let answered = self.client.exchange(|answer| {
            let index = answer.sequence.wrapping_sub(first) as usize;
            let (Some(request), Some(outcome)) = (page.get(index), outcomes.get_mut(index)) else { return false };
            if i32::from(answer.kind) != libc::NLMSG_ERROR {
                *outcome = object(answer);
                return index + 1 == page.len() && brings_an_object(&request.message);
            }
            let (errno, text) = answer.verdict();
            if errno != 0 {
                *outcome = Err(KernelError { what: request.what.to_string(), errno: Errno(errno), text });
            }
            index + 1 == page.len()
        });
        let lost = match answered {
            Ok(true) => return outcomes,
            Ok(false) => Errno(libc::EPROTO),
            Err(errno) => errno,
        };
        for (request, outcome) in page.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            *outcome = Err(KernelError::new(request.what.to_string(), lost));
        }
        outcomes
    }

    /// Reads all objects that `request` names, each by `read`, which passes over those that it has no use for. A dump that
    /// the kernel marks as interrupted is read anew; one that is refused, or holds an object that cannot be read, is an
    /// error and never an empty answer.
    pub fn dump<T>(
        &mut self,
        request: &Request<'_>,
        mut read: impl FnMut(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let fail = |(errno, text)| KernelError { what: request.what.to_string(), errno, text };
        let flags = request.flags | NLM_F_REQUEST | DUMP;
        for _ in 0..DUMP_TRIES {
            let mut objects = Vec::new();
            let mut unreadable = None;
            let consistent = self.client.dump_once(
                &mut |client| put(client, &request.message, flags),
                &mut |message| match object(message) {
                    Ok(object) => objects.extend(object.as_ref().and_then(&mut read)),
                    Err(error) => unreadable = Some(error),
                },
            );
            match (consistent.map_err(fail)?, unreadable) {
                (true, Some(error)) => return Err(error),
                (true, None) => return Ok(objects),
                (false, _) => {}
            }
        }
        let text = "the kernel's tables changed during every attempt to read them";
        Err(fail((Errno(libc::EINTR), Some(text.into()))))
    }

    fn put(&mut self, message: &RouteNetlinkMessage, flags: u16) {
        put(&mut self.client, message, flags);
    }

    /// Joins a multicast group (RTNLGRP_*, linux/rtnetlink.h).
    pub fn join(&mut self, group: u32) -> Result<(), KernelError> {
        self.client.join(group)
    }

    /// Waits for announcements and hands each to `see`; true when it returned true for one. One that cannot be read is
    /// none of what a caller here waits for: they look at the object itself, or have another sign. An overrun is an
    /// error with ENOBUFS: read the state anew.
    pub fn announcements(&mut self, mut see: impl FnMut(&RouteNetlinkMessage) -> bool) -> Result<bool, KernelError> {
        let mut found = false;
        let heard = self.client.hear(RecvFlags::empty(), &mut |message| {
            found |= object(message).ok().flatten().is_some_and(|object| see(&object));
        });
        heard.map_err(|errno| KernelError::new("read kernel announcements", errno))?;
        Ok(found)
    }
}

/// The kernel answers with one object, or refuses (the `doit` of a GET, net/core/rtnetlink.c).
fn brings_an_object(message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::GetLink(_) | RouteNetlinkMessage::GetRoute(_))
}

fn put(client: &mut Client, message: &RouteNetlinkMessage, flags: u16) {
    let body = body(message);
    client.put(message.message_type(), flags, body.buffer_len(), |bytes| body.emit(bytes));
}

/// What stands behind a message's header. netlink-packet-route's own choice would bring the code for all other kinds
/// along.
fn body(message: &RouteNetlinkMessage) -> &dyn Emitable {
    use RouteNetlinkMessage as Message;
    match message {
        Message::NewLink(link) | Message::SetLink(link) | Message::GetLink(link) | Message::DelLink(link) => link,
        Message::NewAddress(address) | Message::GetAddress(address) | Message::DelAddress(address) => address,
        Message::NewRoute(route) | Message::GetRoute(route) | Message::DelRoute(route) => route,
        Message::NewNeighbour(entry) | Message::GetNeighbour(entry) | Message::DelNeighbour(entry) => entry,
        // nothing makes a message of another kind; one that has no body is refused by the kernel
        _ => &Nothing,
    }
}

struct Nothing;

impl Emitable for Nothing {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
