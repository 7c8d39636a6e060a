//! Notices when another program changes a table of nf_tables.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram as Descriptor;

use kernel::nft::{NftError, NftWatch, TableKey};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Receives the announcements of nf_tables. A kernel without nf_tables has no announcements and no rules.
#[derive(Debug)]
pub struct RulesWatch {
    watch: Option<(NftWatch, UnixDatagram)>,
}

/// The announcements can no longer be received.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// An error of the kernel.
    #[error(transparent)]
    Kernel(#[from] NftError),
    /// An error of the runtime.
    #[error("wait for nf_tables' announcements: {0}")]
    Wait(#[from] io::Error),
}

impl RulesWatch {
    /// Receives what `watch`, which has just been opened, announces. Needs a tokio runtime.
    pub fn new(watch: Result<NftWatch, NftError>) -> Self {
        let watch = watch
            .map_err(RulesError::from)
            .and_then(awaited)
            .inspect_err(|error| tracing::debug!(%error, "cannot receive announcements of nf_tables"));
        Self { watch: watch.ok() }
    }

    /// Watches these tables from now on.
    pub fn set_tables(&mut self, tables: impl IntoIterator<Item = TableKey>) {
        if let Some((watch, _)) = &mut self.watch {
            watch.set_tables(tables);
        }
    }

    /// Waits until a watched table may have changed. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), RulesError> {
        let Some((watch, socket)) = &mut self.watch else { return std::future::pending().await };
        loop {
            // The kernel drops announcements that arrive in the meantime, which costs nothing.
            match watch.rest() {
                Some(rest) => tokio::time::sleep_until(rest.into()).await,
                None => socket.readable().await?,
            }
            let mut changed = Ok(Default::default());
            // Everything is read, so the socket is no longer ready.
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

/// The watch, and a duplicate of its socket for the runtime to wait for. The runtime has no type for netlink sockets,
/// but waits for any descriptor in the same way.
fn awaited(watch: NftWatch) -> Result<(NftWatch, UnixDatagram), RulesError> {
    let socket = Descriptor::from(watch.as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    Ok((watch, UnixDatagram::from_std(socket)?))
}
