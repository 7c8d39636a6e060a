//! Runs the udp backend's data path: while the backend is udp, and after that until no host sends here any more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network};
use kernel::Kernel;
use kernel::state::{Scope, State};
use kernel::types::{Family, IfName};
use overlay::backend::udp::DEVICE;
use overlay::peers::Peer;
use overlay::plan::{self, Leased, PeerChanges};

use super::Controller;
use crate::udp::counters::{Counters, Snapshot};
use crate::udp::table::Table;
use crate::udp::{DataPath, Settings, queues};

/// The part of it that outlives a pass.
#[derive(Debug, Default)]
pub(super) struct Udp {
    path: Option<DataPath>,
    counters: Arc<Counters>,
    /// Whether it has ever run.
    used: bool,
    /// What the table does not say yet.
    behind: Behind,
}

/// How far the table is behind the plans. A plan may not have been carried out.
#[derive(Debug, Default)]
enum Behind {
    /// Anything may be other.
    #[default]
    Wholly,
    /// These subnets have these hosts now; `None`: nobody.
    By(BTreeMap<Ipv4Network, Option<Ipv4Addr>>),
}

impl Udp {
    /// Not running yet.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Whether it runs at this address.
    fn goes_on(&self, local: SocketAddrV4) -> bool {
        self.path.as_ref().is_some_and(|path| path.settings().local == local && path.is_whole())
    }

    /// Whether it runs at this address, on the device with this index.
    fn is_on(&self, local: SocketAddrV4, index: u32) -> bool {
        self.goes_on(local) && self.path.as_ref().is_some_and(|path| path.settings().index == index)
    }

    /// A plan was made, with these changes. `complete`: they name every peer, as they do where routes are not left to others.
    pub(super) fn planned(&mut self, changes: &PeerChanges, complete: bool) {
        match &mut self.behind {
            // nobody is there to catch up
            behind if self.path.is_none() || changes.whole || !complete => *behind = Behind::Wholly,
            Behind::By(hosts) => {
                let gone = changes.gone.iter().map(|subnet| (*subnet, None));
                let now = changes.put.iter().map(|peer| (peer.subnet, Some(peer.public)));
                hosts.extend(gone.chain(now).filter_map(|(subnet, host)| match (subnet, host) {
                    (IpNetwork::V4(subnet), None) => Some((subnet, None)),
                    (IpNetwork::V4(subnet), Some(IpAddr::V4(host))) => Some((subnet, Some(host))),
                    _ => None,
                }));
            }
            Behind::Wholly => {}
        }
    }

    /// Waits until one of its workers has ended. Cancel-safe.
    pub(super) async fn ended(&self) {
        match &self.path {
            Some(path) => path.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the data path.
    pub(super) fn end(&mut self) {
        if self.path.take().is_some() {
            tracing::info!("the udp backend's data path has ended");
        }
    }

    /// Its counters; `None` if it has never run.
    pub(super) fn counters(&self) -> Option<Snapshot> {
        self.used.then(|| self.counters.snapshot())
    }

    fn start(&mut self, settings: Settings, table: Table) -> Result<(), String> {
        // The old one ends first, because it uses the port.
        self.path = None;
        let path = DataPath::start(settings, table, self.counters.clone()).map_err(|error| error.to_string())?;
        let Settings { device, local, queues, .. } = path.settings();
        tracing::info!(%device, %local, queues, "the udp backend's data path has started");
        self.path = Some(path);
        self.used = true;
        self.behind = Behind::By(BTreeMap::new());
        Ok(())
    }
}

impl Controller {
    /// Runs the data path with the current peers, on the device that is desired or only kept. `unchanged`: the device
    /// is as the last plan left it.
    pub(super) async fn carry(&mut self, path: plan::DataPath, leased: &Leased, unchanged: bool) -> Result<(), String> {
        let local = SocketAddrV4::new(path.local, path.conf.port);
        let table = |controller: &Self| Table::new(path.network, path.own, routes(controller.memory.book().peers()));
        let goes_on = unchanged && self.udp.goes_on(local);
        let index = if goes_on { None } else { self.make_device().await? };
        match (&self.udp.path, index) {
            (None, None) => Ok(()),
            // Another program has deleted a device that was only kept.
            (Some(_), None) if !goes_on => {
                self.udp.end();
                Ok(())
            }
            (Some(running), index) if goes_on || index.is_some_and(|index| self.udp.is_on(local, index)) => {
                // who is not known to be gone stays
                if !leased.scope.keep {
                    match std::mem::replace(&mut self.udp.behind, Behind::By(BTreeMap::new())) {
                        Behind::Wholly => running.replace(table(self)),
                        Behind::By(hosts) if hosts.is_empty() => {}
                        Behind::By(hosts) => running.change(|table| {
                            hosts.into_iter().for_each(|(subnet, host)| table.set(subnet, host));
                        }),
                    }
                }
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(index)) => {
                let device = IfName::new(DEVICE).map_err(|error| error.to_string())?;
                let table = table(self);
                self.udp.start(Settings { device, index, local, queues: queues() }, table)
            }
        }
    }

    /// Creates the device as desired, and returns its index; `None` when it is neither desired nor present.
    async fn make_device(&self) -> Result<Option<u32>, String> {
        let device = IfName::new(DEVICE).map_err(|error| error.to_string())?;
        let desired = self.memory.desired().map(|desired| only(&device, desired)).unwrap_or_default();
        let made = self.kernel.call(move |kernel| make(kernel, &device, &desired)).await;
        made.map_err(|error| error.to_string())?
    }
}

/// The device and its addresses, out of the desired state.
fn only(device: &IfName, desired: &State) -> State {
    let mut state = State::default();
    state.links.extend(desired.links.get_key_value(device).map(|(name, link)| (name.clone(), link.clone())));
    let addresses = desired.addresses.iter().filter(|(key, _)| key.dev == *device);
    state.addresses.extend(addresses.map(|(key, how)| (key.clone(), how.clone())));
    state
}

fn make(kernel: &mut Kernel, device: &IfName, desired: &State) -> Result<Option<u32>, String> {
    if !desired.links.is_empty() {
        let devices = vec![device.clone()];
        let scope = Scope { links: devices.clone(), addresses: devices, keep: true, ..Scope::default() };
        let outcome = kernel.converge(desired, &scope, None).map_err(|error| error.to_string())?;
        outcome.ok().map_err(|error| error.to_string())?;
    }
    let link = kernel.link(device).map_err(|error| error.to_string())?;
    Ok(link.map(|link| link.index.0))
}

/// All peers, whatever their backend: the kernel's routes decide which packets use the device, and a host that is
/// about to change its backend may still send by this one.
fn routes<'a>(peers: impl Iterator<Item = &'a Peer>) -> impl Iterator<Item = (Ipv4Network, Ipv4Addr)> {
    peers.filter_map(|peer| {
        let half = peer.half(Family::V4)?;
        match (half.subnet, half.public) {
            (IpNetwork::V4(subnet), IpAddr::V4(public)) => Some((subnet, public)),
            _ => None,
        }
    })
}
