//! The connection to nf_tables: sends transactions and reads dumps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::batch::{Batch, SUBSYSTEM, attr, msg};
use super::error::{NftError, Refusal};
use crate::netlink::client::{Client, DUMP, DUMP_TRIES, Protocol};
use crate::netlink::wire::{Incoming, Writer, message};
use crate::netlink::{Errno, KernelError};

/// How often a transaction is sent if a signal interrupts it.
const INTERRUPTED_TRIES: u32 = 10;

/// A connection to the nf_tables of the network namespace in which it was opened, even if the thread moves.
///
/// The kernel replies before a send returns, so no call waits for anything except the kernel's own work.
///
/// **Closing** the socket after a transaction that deleted something takes 8 to 16 ms (the kernel waits for an RCU
/// grace period, nf_tables_api.c: `nft_rcv_nl_event`). A short-lived program keeps it open until its work is done and
/// lets a detached child inherit it ([`AsFd`], [`OwnedFd::from`]).
#[derive(Debug)]
pub struct Nft {
    client: Client,
}

/// A reply to a request: a copy of its message type and attributes.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: u16,
    pub(super) flags: u16,
}

impl Answer {
    pub(super) fn copy(message: &Incoming<'_>) -> Self {
        Self { bytes: message.body.to_vec(), kind: message.kind, flags: message.flags }
    }

    pub(super) fn message(&self) -> Incoming<'_> {
        Incoming { kind: self.kind, flags: self.flags, sequence: 0, body: &self.bytes }
    }
}

/// The outcome of sending a transaction once.
#[derive(Default)]
struct Attempt {
    /// The refused operations, by place in the batch; `None` means the whole batch.
    refused: BTreeMap<Option<usize>, (i32, Option<String>)>,
    /// The handles of rules that were requested, by place in the batch.
    handles: BTreeMap<usize, u64>,
}

impl Nft {
    /// Connects to the nf_tables of the calling thread's network namespace.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { client: Client::open(Protocol::Netfilter)? })
    }

    /// Carries out all of `batch` in one message to the kernel, or none of it. An empty batch does nothing. Returns the
    /// handles of the rules that were added by [`Batch::add_rule_echoed`], in order.
    ///
    /// If a `destroy_*` finds no object, the kernel refuses the whole batch, and it is sent again without that
    /// operation. Each refused transaction costs the kernel a grace period, about 10 ms.
    pub fn commit(&mut self, batch: &Batch) -> Result<Vec<u64>, NftError> {
        if let Some(op) = batch.ops.iter().find(|op| op.bytes.is_none()) {
            return Err(NftError::Unencodable { what: op.what.clone() });
        }
        let mut left_out = Vec::new();
        let mut interrupted = 0;
        while left_out.len() < batch.ops.len() {
            let Attempt { mut refused, handles } = self.attempt(batch, &left_out)?;
            if refused.is_empty() {
                return Ok(handles.into_values().collect());
            }
            // a pending signal ends a transaction before its first operation (nfnetlink_rcv_batch)
            if matches!(refused.get(&None), Some((libc::EINTR, _))) && interrupted < INTERRUPTED_TRIES {
                interrupted += 1;
                continue;
            }
            let pardoned = |place: &Option<usize>, errno: i32| {
                errno == libc::ENOENT && place.and_then(|n| batch.ops.get(n)).is_some_and(|op| op.absent_is_fine)
            };
            let absent: Vec<usize> =
                refused.extract_if(.., |place, (errno, _)| pardoned(place, *errno)).filter_map(|(n, _)| n).collect();
            if !refused.is_empty() {
                let refusal = |(place, (errno, text))| refusal(batch, place, errno, text);
                return Err(NftError::Refused(refused.into_iter().map(refusal).collect()));
            }
            left_out.extend(absent);
        }
        Ok(Vec::new())
    }

    /// Sends the batch once.
    fn attempt(&mut self, batch: &Batch, left_out: &[usize]) -> Result<Attempt, NftError> {
        let last = (0..batch.ops.len()).rev().find(|n| !left_out.contains(n));
        self.client.expect_refusals(batch.ops.len());
        let first = self.client.begin();
        batch.put(&mut self.client, left_out, last);
        let mut attempt = Attempt::default();
        let complete = self.client.exchange(|answer| {
            let place = match answer.sequence.wrapping_sub(first) as usize {
                0 => None,
                n if n <= batch.ops.len() => Some(n - 1),
                _ => return false,
            };
            if i32::from(answer.kind) != libc::NLMSG_ERROR {
                attempt.handles.extend(place.zip(handle(answer)));
                return false;
            }
            let (errno, text) = answer.verdict();
            if errno != 0 {
                attempt.refused.entry(place).or_insert((errno, text));
            }
            place.is_some() && place == last
        });
        let complete = complete.map_err(|errno| NftError::Failed(KernelError::new("send a transaction", errno)))?;
        if attempt.refused.is_empty() && !complete { Err(malformed("transaction")) } else { Ok(attempt) }
    }

    /// Sends a request that has one reply.
    pub(super) fn ask(
        &mut self,
        what: &str,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Answer, NftError> {
        let request = message(SUBSYSTEM << 8 | kind, 0, family, 0, body).ok_or_else(|| unencodable(what))?;
        let sequence = self.client.begin();
        self.client.put_message(&request, 0);
        let mut found = None;
        let done = self.client.exchange(|answer| {
            let ours = answer.sequence == sequence;
            if ours {
                found = Some(match i32::from(answer.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => Err(answer.verdict()),
                    _ => Ok(Answer::copy(answer)),
                });
            }
            ours
        });
        done.map_err(|errno| NftError::Failed(KernelError::new(what, errno)))?;
        match found {
            Some(Ok(answer)) => Ok(answer),
            Some(Err((errno, text))) if errno != 0 => Err(failed(what, (Errno(errno), text))),
            Some(Err(_)) | None => Err(malformed(what)),
        }
    }

    /// Sends `count` requests in one message, each with one reply; `body` fills in each. `None` for an object that does
    /// not exist.
    pub(super) fn ask_all(
        &mut self,
        what: &str,
        kind: u16,
        family: u8,
        count: usize,
        body: impl Fn(usize, &mut Writer),
    ) -> Result<Vec<Option<Answer>>, NftError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.client.expect_refusals(count);
        let first = self.client.begin();
        for n in 0..count {
            let request = message(SUBSYSTEM << 8 | kind, 0, family, 0, |w| body(n, w));
            self.client.put_message(&request.ok_or_else(|| unencodable(what))?, 0);
        }
        let (mut found, mut open) = (vec![None; count], count);
        let done = self.client.exchange(|answer| {
            let place = found.get_mut(answer.sequence.wrapping_sub(first) as usize);
            if let Some(place @ None) = place {
                open -= 1;
                *place = Some(match i32::from(answer.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => Err(answer.verdict()),
                    _ => Ok(Answer::copy(answer)),
                });
            }
            open == 0
        });
        done.map_err(|errno| NftError::Failed(KernelError::new(what, errno)))?;
        let read = |answer| match answer {
            Some(Ok(answer)) => Ok(Some(answer)),
            Some(Err((libc::ENOENT, _))) => Ok(None),
            Some(Err((errno, text))) if errno != 0 => Err(failed(what, (Errno(errno), text))),
            Some(Err(_)) | None => Err(malformed(what)),
        };
        found.into_iter().map(read).collect()
    }

    /// Reads all objects of a kind; `body` selects them. Tries again if others change something meanwhile.
    pub(super) fn dump(
        &mut self,
        what: &str,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
    ) -> Result<Vec<Answer>, NftError> {
        let request = message(SUBSYSTEM << 8 | kind, 0, family, 0, &body).ok_or_else(|| unencodable(what))?;
        for _ in 0..DUMP_TRIES {
            let mut answers = Vec::new();
            let consistent = self.client.dump_once(&mut |client| client.put_message(&request, DUMP), &mut |message| {
                answers.push(Answer::copy(message))
            });
            if consistent.map_err(|refusal| failed(what, refusal))? {
                return Ok(answers);
            }
        }
        Err(NftError::Busy { what: what.into(), tries: DUMP_TRIES })
    }
}

/// The handle of a rule that the kernel echoes.
fn handle(answer: &Incoming<'_>) -> Option<u64> {
    let is_rule = answer.kind == SUBSYSTEM << 8 | msg::NEWRULE;
    is_rule.then(|| answer.attributes().be64(attr::RULE_HANDLE)).flatten()
}

fn refusal(batch: &Batch, place: Option<usize>, errno: i32, text: Option<String>) -> Refusal {
    let op = place.and_then(|n| batch.ops.get(n));
    let what = op.map_or_else(|| "commit".to_owned(), |op| op.what.clone());
    Refusal { place, error: KernelError { what, errno: Errno(errno), text } }
}

fn failed(what: &str, (errno, text): (Errno, Option<String>)) -> NftError {
    NftError::Failed(KernelError { what: what.into(), errno, text })
}

pub(super) fn malformed(what: &str) -> NftError {
    NftError::Malformed { what: what.into() }
}

fn unencodable(what: &str) -> NftError {
    NftError::Unencodable { what: what.into() }
}

impl AsFd for Nft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

impl From<Nft> for OwnedFd {
    /// The socket itself, close-on-exec, for a caller that closes it later.
    fn from(nft: Nft) -> Self {
        nft.client.into()
    }
}
