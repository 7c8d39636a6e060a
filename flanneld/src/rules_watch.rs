//! Notice that somebody has changed a table of nf_tables.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram as Descriptor;

use kernel::nft::{NftError, NftWatch, TableKey};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Receives nf_tables' announcements. A kernel without nf_tables announces nothing and has no rules.
#[derive(Debug)]
pub struct RulesWatch {
    watch: Option<(NftWatch, UnixDatagram)>,
}

/// The announcements cannot be received any more.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// What the kernel said.
    #[error(transparent)]
    Kernel(#[from] NftError),
    /// What the runtime said.
    #[error("wait for nf_tables' announcements: {0}")]
    Wait(#[from] io::Error),
}

impl RulesWatch {
    /// Needs a tokio runtime.
    ///
    /// `watch` is the watch for the tables, just opened.
    pub fn new(watch: Result<NftWatch, NftError>) -> Self {
        let watch = watch
            .map_err(RulesError::from)
            .and_then(awaited)
            .inspect_err(|error| tracing::debug!(%error, "no announcements of nf_tables"));
        Self { watch: watch.ok() }
    }

    /// Watches these tables from now on.
    pub fn set_tables(&mut self, tables: impl IntoIterator<Item = TableKey>) {
        if let Some((watch, _)) = &mut self.watch {
            watch.set_tables(tables);
        }
    }

    /// Waits until a watched table has changed, or may have. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), RulesError> {
        let Some((watch, socket)) = &mut self.watch else { return std::future::pending().await };
        loop {
            // what comes meanwhile is dropped by the kernel, and costs nothing
            match watch.rest() {
                Some(rest) => tokio::time::sleep_until(rest.into()).await,
                None => socket.readable().await?,
            }
            let mut changed = Ok(Default::default());
            // everything is read: the socket is not ready any more
            let _ = socket.try_io(Interest::READABLE, || {
                changed = watch.changed();
                Err::<(), _>(ErrorKind::WouldBlock.into())
            });
            if !changed?.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The watch, and its socket once more for the runtime to wait for. The runtime has no type for one of netlink, and waits for
/// any descriptor alike.
fn awaited(watch: NftWatch) -> Result<(NftWatch, UnixDatagram), RulesError> {
    let socket = Descriptor::from(watch.as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    Ok((watch, UnixDatagram::from_std(socket)?))
}
