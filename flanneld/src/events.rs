//! Notices when the kernel contradicts the desired state, or when a fact on which the plan depends changes. It only
//! notifies: whoever is woken reads the new state.

pub mod facts;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::{Stream, StreamExt};
use kernel::message::link::SeenLink;
use kernel::news::{Announcement, News, Reader, contradicts, listen, pass_over};
use kernel::state::{Scope, State};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::proto::sys::protocols::NETLINK_ROUTE;
use rtnetlink::proto::sys::{AsyncSocket, SocketAddr, TokioSocket};
use rtnetlink::proto::{Connection, ConnectionHandle, new_connection_with_socket};
use tokio::sync::Notify;

use self::facts::Facts;
use crate::supervise::{Ended, Task};
use store::backoff::Backoff;

/// What the kernel's announcements are compared with.
#[derive(Debug, Default)]
pub struct Interest {
    /// The desired kernel state; `None`: nothing. An announcement that agrees with it is not news: most announcements
    /// are of our own changes. It belongs to the planner, which changes it in place; when it is dropped, everything
    /// is news.
    pub desired: Option<Weak<State>>,
    /// Which of the kernel's objects are ours.
    pub scope: Arc<Scope>,
    /// What it was planned from.
    pub facts: Arc<Facts>,
}

/// Decides which of the kernel's announcements are a reason for a pass.
#[derive(Debug, Default)]
struct Filter {
    reader: Reader,
    /// `None` before the first pass: then everything is news.
    interest: Option<Interest>,
    /// Whether the facts are those of the last survey. They are not while a survey runs, because what it reads may be
    /// older or newer than what is announced meanwhile.
    facts_hold: bool,
}

impl Filter {
    /// Whether `announcement` is a reason for a pass.
    fn matches(&mut self, announcement: Announcement) -> bool {
        let news = self.reader.read(announcement);
        let matters = news.iter().find(|news| self.matters(news));
        matters.inspect(|news| tracing::debug!(?news, "the kernel announces")).is_some()
    }

    fn matters(&mut self, news: &News) -> bool {
        let Some(Interest { desired, scope, facts }) = &self.interest else { return true };
        if self.is_in_the_making(news) {
            return false;
        }
        let desired = desired.as_ref().map(Weak::upgrade);
        let contradicted = match &desired {
            Some(Some(desired)) => contradicts(news, desired, scope),
            Some(None) => true,
            None => contradicts(news, &State::default(), scope),
        };
        if contradicted {
            return true;
        }
        let changed = facts.touched_by(news) && !(self.facts_hold && facts.agree_with(news));
        let changed = changed && !(self.facts_hold && facts.follow_from_the_lease(news, desired.flatten().as_deref()));
        self.facts_hold &= !changed;
        changed
    }

    /// A link that is down and has never been up: whoever makes it has not finished. A link of ours that is replaced by another
    /// has gone before, which is news.
    fn is_in_the_making(&self, news: &News) -> bool {
        matches!(news, News::Link(_, Some(seen)) if !seen.link.up && self.reader.is_young(seen.index))
    }

    /// Notes that announcements were lost.
    fn overrun(&mut self) {
        self.reader.forget();
        self.facts_hold = false;
    }
}

/// Follows the kernel's announcements. Dropping it ends that.
#[derive(Debug)]
pub struct Events {
    filter: Arc<Mutex<Filter>>,
    news: Arc<Notify>,
    task: Task,
}

impl Events {
    /// Listens in the network namespace of this thread, but not to what the socket with the port `own` writes: its outcome is
    /// known. If the socket fails, it opens a new one. Needs a tokio runtime.
    pub fn listen(own: Option<u32>) -> io::Result<Self> {
        let mut next = Ok(connect(own)?);
        let (filter, news) = (Arc::new(Mutex::new(Filter::default())), Arc::new(Notify::new()));
        let (judge, waker) = (filter.clone(), news.clone());
        let follow = async move {
            let mut backoff = Backoff::default();
            loop {
                match next {
                    Ok((connection, handle, messages)) => {
                        tokio::select! {
                            () = connection => {}
                            () = follow(messages, &judge, &waker) => {}
                        }
                        // dropped only here, because it ends the connection
                        drop(handle);
                        tracing::warn!("the connection for the kernel's announcements ended; connecting again");
                    }
                    Err(error) => tracing::warn!(%error, "cannot receive the kernel's announcements"),
                }
                tokio::time::sleep(backoff.next()).await;
                next = connect(own);
                // announcements in between were lost
                lock(&judge).overrun();
                waker.notify_one();
            }
        };
        let task = Task::spawn("the reader of the kernel's announcements", follow);
        Ok(Self { filter, news, task })
    }

    /// Call it before a survey reads the facts from the kernel.
    pub fn survey_begins(&self) {
        let mut filter = lock(&self.filter);
        filter.facts_hold = false;
        filter.reader.survey_begins();
    }

    /// Call it after the survey. `links` are all links.
    pub fn survey_ends(&self, links: &[SeenLink]) {
        lock(&self.filter).reader.survey_ends(links);
    }

    /// Replaces what announcements are compared with.
    pub fn set_interest(&self, interest: Interest) {
        let mut filter = lock(&self.filter);
        filter.interest = Some(interest);
        filter.facts_hold = true;
    }

    /// Waits for news since the last call. Cancel-safe.
    ///
    /// # Errors
    /// The reader has ended, so there will be no more news.
    pub async fn news(&mut self) -> Result<(), Ended> {
        tokio::select! {
            () = self.news.notified() => Ok(()),
            ended = self.task.ended() => Err(ended),
        }
    }
}

type Message = (NetlinkMessage<Announcement>, SocketAddr);

/// Connects as rtnetlink does for announcements, but passes on messages for [`kernel::news`] to read: rtnetlink drops
/// those that it cannot decode.
fn connect(
    own: Option<u32>,
) -> io::Result<(Connection<Announcement>, ConnectionHandle<Announcement>, impl Stream<Item = Message> + Unpin)> {
    let (mut connection, handle, messages) = new_connection_with_socket::<Announcement, TokioSocket>(NETLINK_ROUTE)?;
    let socket = connection.socket_mut().socket_mut();
    listen(socket)?;
    own.map_or(Ok(()), |port| pass_over(socket, port))?;
    Ok((connection, handle, messages))
}

async fn follow(mut messages: impl Stream<Item = Message> + Unpin, filter: &Mutex<Filter>, news: &Notify) {
    while let Some((message, _)) = messages.next().await {
        let matters = match message.payload {
            NetlinkPayload::InnerMessage(announcement) => lock(filter).matches(announcement),
            // the lost announcements do not matter, because everything is read again
            NetlinkPayload::Overrun(_) => {
                lock(filter).overrun();
                true
            }
            _ => false,
        };
        if matters {
            news.notify_one();
        }
    }
}

fn lock(filter: &Mutex<Filter>) -> MutexGuard<'_, Filter> {
    filter.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
