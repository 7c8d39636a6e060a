//! The socket: requests out in pages, answers matched by sequence number.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::error::{Errno, KernelError};
use super::frame::{Frame, HEADER, Meaning, frames};
use super::transfer;
use crate::diff::Step;

/// Requests in one `sendmsg`. Each refusal takes about 768 bytes of a receive buffer that is 212,992 by default, and
/// all of a page may be refused before the first answer is read.
const PAGE: usize = 200;

/// The kernel fills a dump's datagrams up to the larger of 32 KiB and what the reader has offered before
/// (`netlink_dump`, net/netlink/af_netlink.c).
const RECEIVE: usize = 32 * 1024;

/// How often an interrupted dump is read anew before it is given up.
const DUMP_TRIES: usize = 10;

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

/// A NETLINK_ROUTE socket. It serves the network namespace it was opened in for ever, whatever the thread does later.
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the thread's network namespace, with strict dump checking and extended acknowledgements.
    pub fn open() -> Result<Self, KernelError> {
        let fail = |e: io::Error| KernelError::io("open a netlink socket", &e);
        let inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(fail)?;
        // kernels before 4.20 lack strict checking, before 4.12 extended acks: dumps are then unfiltered and errors mute
        let _ = inner.set_netlink_get_strict_chk(true);
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        Ok(Self { inner, sequence: 0, out: Vec::new(), buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Sends all `requests`, a page per `sendmsg`, and returns one outcome for each, in order. Objects that requests
    /// of type GET bring back are in the outcome.
    pub fn transact(&mut self, requests: &[Request<'_>]) -> Vec<Result<Option<RouteNetlinkMessage>, KernelError>> {
        requests.chunks(PAGE).flat_map(|page| self.page(page)).collect()
    }

    /// Sends one request and returns the object it brings back, if any.
    pub fn ask(&mut self, request: Request<'_>) -> Result<Option<RouteNetlinkMessage>, KernelError> {
        self.transact(std::slice::from_ref(&request)).pop().unwrap_or(Ok(None))
    }

    fn page(&mut self, page: &[Request<'_>]) -> Vec<Result<Option<RouteNetlinkMessage>, KernelError>> {
        let first = self.sequence.wrapping_add(1);
        self.out.clear();
        for (i, request) in page.iter().enumerate() {
            // one acknowledgement, of the last, says that all are through; refusals come unasked
            let ack = if i + 1 == page.len() { NLM_F_ACK } else { 0 };
            self.encode(&request.message, request.flags | NLM_F_REQUEST | ack);
        }
        let mut outcomes: Vec<_> = page.iter().map(|_| Ok(None)).collect();
        if let Err(errno) = self.exchange(first, page, &mut outcomes) {
            for (request, outcome) in page.iter().zip(&mut outcomes) {
                if outcome.is_ok() {
                    *outcome = Err(KernelError::new(request.what.to_string(), errno));
                }
            }
        }
        outcomes
    }

    fn exchange(
        &mut self,
        first: u32,
        page: &[Request<'_>],
        outcomes: &mut [Result<Option<RouteNetlinkMessage>, KernelError>],
    ) -> Result<(), Errno> {
        self.send()?;
        loop {
            self.receive()?;
            for frame in frames(&self.buffer) {
                let index = frame.seq.wrapping_sub(first) as usize;
                let (Some(request), Some(outcome)) = (page.get(index), outcomes.get_mut(index)) else { continue };
                let last = index + 1 == page.len();
                match frame.meaning() {
                    Meaning::Ack if last => return Ok(()),
                    Meaning::Refused(errno, text) => {
                        *outcome = Err(KernelError { what: request.what.to_string(), errno, text });
                        if last {
                            return Ok(());
                        }
                    }
                    Meaning::Object(object) => *outcome = Ok(Some(*object)),
                    Meaning::Ack | Meaning::Done(_) | Meaning::Other => {}
                }
            }
        }
    }

    /// Reads all objects that `request` names, each by `read`, which passes over those that it has no use for. A dump that
    /// the kernel marks as interrupted is read anew; a refused one is an error and never an empty answer.
    pub fn dump<T>(
        &mut self,
        request: &Request<'_>,
        mut read: impl FnMut(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let fail = |errno, text| KernelError { what: request.what.to_string(), errno, text };
        for _ in 0..DUMP_TRIES {
            self.out.clear();
            let sequence = self.encode(&request.message, request.flags | NLM_F_REQUEST | NLM_F_DUMP);
            self.send().map_err(|errno| fail(errno, None))?;
            let mut objects = Vec::new();
            match self.collect(sequence, &mut |message| objects.extend(read(message))) {
                Ok(true) => return Ok(objects),
                Ok(false) => {}
                Err((errno, text)) => return Err(fail(errno, text)),
            }
        }
        Err(fail(Errno(libc::EINTR), Some("the kernel's tables changed during every attempt to read them".into())))
    }

    /// True when the dump was consistent.
    fn collect(
        &mut self,
        sequence: u32,
        take: &mut dyn FnMut(&RouteNetlinkMessage),
    ) -> Result<bool, (Errno, Option<String>)> {
        let mut consistent = true;
        loop {
            self.receive().map_err(|errno| (errno, None))?;
            for frame in frames(&self.buffer).filter(|f: &Frame| f.seq == sequence) {
                consistent &= !frame.interrupted();
                match frame.meaning() {
                    Meaning::Object(object) => take(&object),
                    Meaning::Done(Ok(())) => return Ok(consistent),
                    Meaning::Done(Err(refusal)) => return Err(refusal),
                    Meaning::Refused(errno, text) => return Err((errno, text)),
                    Meaning::Ack | Meaning::Other => {}
                }
            }
        }
    }

    fn encode(&mut self, message: &RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + message.buffer_len();
        let start = self.out.len();
        self.out.resize(start + length.next_multiple_of(4), 0);
        let (header, body) = self.out[start..start + length].split_at_mut(HEADER);
        // struct nlmsghdr; the port stays 0, the kernel's own to fill in
        header[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        header[4..6].copy_from_slice(&message.message_type().to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        message.serialize(body);
        self.sequence
    }

    fn send(&self) -> Result<(), Errno> {
        transfer::send(&self.inner, &self.out)
    }

    fn receive(&mut self) -> Result<(), Errno> {
        transfer::receive(&self.inner, &mut self.buffer)
    }

    /// Joins a multicast group (RTNLGRP_*, linux/rtnetlink.h).
    pub fn join(&mut self, group: u32) -> Result<(), KernelError> {
        let fail = |e: io::Error| KernelError::io(format!("join netlink group {group}"), &e);
        self.inner.bind_auto().map_err(fail)?;
        self.inner.add_membership(group).map_err(fail)
    }

    /// Waits for announcements and hands each to `see` until it returns true. An overrun is an error with ENOBUFS:
    /// read the state anew.
    pub fn announcements(&mut self, mut see: impl FnMut(&RouteNetlinkMessage) -> bool) -> Result<bool, KernelError> {
        self.receive().map_err(|errno| KernelError::new("read kernel announcements", errno))?;
        Ok(frames(&self.buffer).any(|frame| match frame.meaning() {
            Meaning::Object(object) => see(&object),
            _ => false,
        }))
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
