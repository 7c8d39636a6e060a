//! Requests over rtnetlink: sent in pages, with replies matched by sequence number.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::RecvFlags;

use super::read::object;
use crate::diff::Step;
use crate::netlink::client::{Client, DUMP, DUMP_TRIES, Protocol};
use crate::netlink::wire::Incoming;
use crate::netlink::{Errno, KernelError};

/// Requests per `sendmsg`. Each refusal takes about 768 bytes of the receive buffer (default: 212,992 bytes), and all
/// requests of a page may be refused before the first reply is read.
const PAGE: usize = 200;

/// A message to the kernel, with the text for its errors.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    message: Body,
    /// NLM_F_* flags besides REQUEST and ACK.
    pub flags: u16,
    /// The operation and its object, for errors.
    pub what: What<'a>,
}

/// A message before it is numbered.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Object(RouteNetlinkMessage),
    Encoded(Encoded),
}

/// A message that is already in the kernel's form: its type, and the bytes after its header.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl<'a> From<&'a Encoded> for Incoming<'a> {
    /// A message that was received and kept.
    fn from(message: &'a Encoded) -> Self {
        Self { kind: message.kind, flags: 0, sequence: 0, body: &message.body }
    }
}

impl From<RouteNetlinkMessage> for Body {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Object(message)
    }
}

impl From<Encoded> for Body {
    fn from(message: Encoded) -> Self {
        Self::Encoded(message)
    }
}

/// The operation and its object in an error. A step becomes text only when there is an error, because there may be
/// thousands of steps.
#[derive(Debug, Clone)]
pub enum What<'a> {
    /// A text.
    Text(String),
    /// A step, which prints as the equivalent command.
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
    /// `message` with `flags`. Errors name it as `what`.
    pub fn new(message: RouteNetlinkMessage, flags: u16, what: impl Into<What<'a>>) -> Self {
        Self::of(message.into(), flags, what)
    }

    pub(crate) fn of(message: Body, flags: u16, what: impl Into<What<'a>>) -> Self {
        Self { message, flags, what: what.into() }
    }
}

/// The object in the reply to a request, if there is one.
pub type Answer = Result<Option<RouteNetlinkMessage>, KernelError>;

/// The outcomes of requests, in order.
type Outcomes<T> = Vec<Result<Option<T>, KernelError>>;

/// Decodes an object. `None` for a kind of object that is not read.
type Decoder<'a, T> = &'a dyn Fn(&Incoming<'_>) -> Result<Option<T>, KernelError>;

/// A NETLINK_ROUTE socket. It always serves the network namespace in which it was opened, even if the thread moves.
#[derive(Debug)]
pub struct Socket {
    client: Client,
}

impl Socket {
    /// Opens a socket in the thread's network namespace, with strict dump checking and extended acknowledgements.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { client: Client::open(Protocol::Route)? })
    }

    /// Sends all `requests`, a page per `sendmsg`, and returns one outcome for each, in order. The outcome of a GET
    /// request contains the object.
    pub fn transact(&mut self, requests: &[Request<'_>]) -> Vec<Answer> {
        self.transact_and_read(requests, &object)
    }

    /// As [`Socket::transact`], for objects that `read` decodes.
    pub(crate) fn transact_and_read<T>(&mut self, requests: &[Request<'_>], read: Decoder<'_, T>) -> Outcomes<T> {
        requests.chunks(PAGE).flat_map(|page| self.page(page, read)).collect()
    }

    /// Sends one request and returns the object in the reply, if there is one.
    pub fn ask(&mut self, request: Request<'_>) -> Answer {
        self.transact(std::slice::from_ref(&request)).pop().unwrap_or(Ok(None))
    }

    fn page<T>(&mut self, page: &[Request<'_>], read: Decoder<'_, T>) -> Outcomes<T> {
        let first = self.client.begin();
        for (i, request) in page.iter().enumerate() {
            // one acknowledgement for the last message shows that all succeeded; refusals and objects are sent without
            // a request
            let ack = if i + 1 == page.len() && !brings_an_object(&request.message) { NLM_F_ACK } else { 0 };
            self.put(&request.message, request.flags | NLM_F_REQUEST | ack);
        }
        let mut outcomes: Outcomes<T> = page.iter().map(|_| Ok(None)).collect();
        let answered = self.client.exchange(|answer| {
            let index = answer.sequence.wrapping_sub(first) as usize;
            let (Some(request), Some(outcome)) = (page.get(index), outcomes.get_mut(index)) else { return false };
            if i32::from(answer.kind) != libc::NLMSG_ERROR {
                *outcome = read(answer);
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

    /// Reads all objects that `request` selects and decodes each with `read`, which may skip some. A dump that the
    /// kernel marks as interrupted is tried again. A refused dump, or an object that cannot be decoded, is an error and
    /// never an empty result.
    pub fn dump<T>(
        &mut self,
        request: &Request<'_>,
        mut read: impl FnMut(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        self.dump_and_read(request, |message| Ok(object(message)?.as_ref().and_then(&mut read)))
    }

    /// As [`Socket::dump`], for objects in the kernel's form.
    pub(crate) fn dump_and_read<T>(
        &mut self,
        request: &Request<'_>,
        mut read: impl FnMut(&Incoming<'_>) -> Result<Option<T>, KernelError>,
    ) -> Result<Vec<T>, KernelError> {
        let fail = |(errno, text)| KernelError { what: request.what.to_string(), errno, text };
        let flags = request.flags | NLM_F_REQUEST | DUMP;
        for _ in 0..DUMP_TRIES {
            let mut objects = Vec::new();
            let mut unreadable = None;
            let consistent = self.client.dump_once(
                &mut |client| put(client, &request.message, flags),
                &mut |message| match read(message) {
                    Ok(object) => objects.extend(object),
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

    fn put(&mut self, message: &Body, flags: u16) {
        put(&mut self.client, message, flags);
    }

    /// The socket's port: announcements of what it has changed carry it.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn port(&mut self) -> Result<u32, KernelError> {
        self.client.port()
    }

    /// Joins a multicast group (RTNLGRP_*, linux/rtnetlink.h).
    pub fn join(&mut self, group: u32) -> Result<(), KernelError> {
        self.client.join(group)
    }

    /// Waits for announcements and passes each to `see`. Returns true if `see` returned true for one. Announcements
    /// that cannot be decoded are skipped: callers here look at the object itself or have another sign. The error
    /// ENOBUFS means that some were lost, so the state must be read again.
    pub fn announcements(&mut self, mut see: impl FnMut(&RouteNetlinkMessage) -> bool) -> Result<bool, KernelError> {
        let mut found = false;
        let read = self.client.announcements(RecvFlags::empty(), &mut |message| {
            found |= object(message).ok().flatten().is_some_and(|object| see(&object));
        });
        read.map_err(|errno| KernelError::new("read kernel announcements", errno))?;
        Ok(found)
    }
}

/// Whether the kernel replies with an object (the `doit` of a GET, net/core/rtnetlink.c).
fn brings_an_object(message: &Body) -> bool {
    matches!(message, Body::Object(RouteNetlinkMessage::GetLink(_) | RouteNetlinkMessage::GetRoute(_)))
}

fn put(client: &mut Client, message: &Body, flags: u16) {
    match message {
        Body::Object(object) => {
            let body = body(object);
            client.put(object.message_type(), flags, body.buffer_len(), |bytes| body.emit(bytes));
        }
        Body::Encoded(Encoded { kind, body }) => {
            client.put(*kind, flags, body.len(), |bytes| bytes.copy_from_slice(body));
        }
    }
}

/// The part of a message after its header. netlink-packet-route's own function would link the code for all other kinds.
fn body(message: &RouteNetlinkMessage) -> &dyn Emitable {
    use RouteNetlinkMessage as Message;
    match message {
        Message::NewLink(link) | Message::SetLink(link) | Message::GetLink(link) | Message::DelLink(link) => link,
        Message::NewAddress(address) | Message::GetAddress(address) | Message::DelAddress(address) => address,
        Message::GetRule(rule) => rule,
        Message::NewRoute(route) | Message::GetRoute(route) | Message::DelRoute(route) => route,
        Message::NewNeighbour(entry) | Message::GetNeighbour(entry) | Message::DelNeighbour(entry) => entry,
        // nothing here creates another kind of message; the kernel refuses one without a body
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
