//! The udp backend's data path: at work while the backend is udp, and after that until nobody sends here any more.

use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network};
use kernel::Kernel;
use kernel::state::{Scope, State};
use kernel::types::{Family, IfName};
use overlay::backend::Companion;
use overlay::backend::udp::{DEVICE, UdpConf};
use overlay::netconf::NetConf;
use overlay::peers::{Peer, Peers};

use super::Daemon;
use crate::udp::counters::{Counters, Snapshot};
use crate::udp::table::Table;
use crate::udp::{DataPath, Settings, queues};
use crate::underlay::Underlay;

/// What of it outlives a pass.
#[derive(Debug, Default)]
pub(super) struct Udp {
    path: Option<DataPath>,
    counters: Arc<Counters>,
    /// The backend's configuration, while its device is there for someone.
    conf: Option<UdpConf>,
    /// It was at work.
    used: bool,
}

impl Udp {
    /// Not at work yet.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Learns which backends have devices now.
    pub(super) fn follow<'a>(&mut self, backends: impl Iterator<Item = &'a overlay::backend::Backend>) {
        self.conf = backends.filter_map(overlay::backend::Backend::companion).find_map(|companion| match companion {
            Companion::DataPath(conf) => Some(conf),
            Companion::Commands(_) => None,
        });
    }

    /// True when the device is about to go, or nobody has it.
    pub(super) fn ends(&self) -> bool {
        self.conf.is_none()
    }

    /// True when it is at work at this address.
    fn goes_on(&self, local: SocketAddrV4) -> bool {
        self.path.as_ref().is_some_and(|path| path.settings().local == local && path.is_whole())
    }

    /// Puts `table` in force if it is `complete`: who is not known to be gone stays.
    fn replace(&self, table: Table, complete: bool) -> Result<(), String> {
        if let (Some(path), true) = (&self.path, complete) {
            path.replace(table);
        }
        Ok(())
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

    /// What it has counted; `None` when it never was at work.
    pub(super) fn counters(&self) -> Option<Snapshot> {
        self.used.then(|| self.counters.snapshot())
    }
}

impl Daemon {
    /// Has the data path at work, with these peers, on the device that `desired` wants or that is only kept.
    pub(super) async fn carry_udp(
        &mut self,
        conf: &NetConf,
        desired: &State,
        underlay: &Underlay,
        peers: &Peers,
        complete: bool,
    ) -> Result<(), String> {
        let Some((udp, own, address)) = self.udp_facts(underlay) else { return Ok(()) };
        let network = conf.family(Family::V4).and_then(|of_family| v4(of_family.network));
        let Some(network) = network else { return Ok(()) };
        let table = Table::new(network, own, routes(&peers.good));
        let local = SocketAddrV4::new(address, udp.port);
        if self.trust.is_some() && self.udp.goes_on(local) {
            return self.udp.replace(table, complete);
        }
        let device = IfName::new(DEVICE).map_err(|error| error.to_string())?;
        let (wanted, asked) = (only(&device, desired), device.clone());
        let link = self.kernel.call(move |kernel| make(kernel, &asked, &wanted)).await;
        let Some(index) = link.map_err(|error| error.to_string())?? else {
            // somebody has deleted what was only kept
            self.udp.end();
            return Ok(());
        };
        if self.udp.goes_on(local) && self.udp.path.as_ref().is_some_and(|path| path.settings().index == index) {
            return self.udp.replace(table, complete);
        }
        let settings = Settings { device, index, local, queues: queues() };
        // the old one first: it has the port
        self.udp.path = None;
        let path = DataPath::start(settings, table, self.udp.counters.clone()).map_err(|error| error.to_string())?;
        let Settings { device, local, queues, .. } = path.settings();
        tracing::info!(%device, %local, queues, "the udp backend's data path is at work");
        self.udp.path = Some(path);
        self.udp.used = true;
        Ok(())
    }

    /// The configuration, this host's subnet and the address to send from; `None` when this host has no IPv4.
    fn udp_facts(&self, underlay: &Underlay) -> Option<(UdpConf, Ipv4Network, std::net::Ipv4Addr)> {
        let own = v4(self.subnets().get(Family::V4)?)?;
        let address = underlay.addresses.iter().find_map(|addr| match addr {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })?;
        Some((self.udp.conf?, own, address))
    }
}

/// Of what is wanted, the device and its addresses.
fn only(device: &IfName, desired: &State) -> State {
    let mut state = State::default();
    state.links.extend(desired.links.get_key_value(device).map(|(name, link)| (name.clone(), link.clone())));
    let addresses = desired.addresses.iter().filter(|(key, _)| key.dev == *device);
    state.addresses.extend(addresses.map(|(key, how)| (key.clone(), how.clone())));
    state
}

/// Makes the device as it is wanted and gives its number; `None` when it is not wanted and not there.
fn make(kernel: &mut Kernel, device: &IfName, wanted: &State) -> Result<Option<u32>, String> {
    if !wanted.links.is_empty() {
        let devices = vec![device.clone()];
        let scope = Scope { links: devices.clone(), addresses: devices, keep: true, ..Scope::default() };
        let outcome = kernel.converge(wanted, &scope, None).map_err(|error| error.to_string())?;
        outcome.ok().map_err(|error| error.to_string())?;
    }
    let link = kernel.link(device).map_err(|error| error.to_string())?;
    Ok(link.map(|link| link.index.0))
}

fn v4(net: IpNetwork) -> Option<Ipv4Network> {
    match net {
        IpNetwork::V4(v4) => Some(v4),
        IpNetwork::V6(_) => None,
    }
}

/// All peers, whatever their backend: which packets come by the device is the kernel's routes' choice, and a host that is
/// about to change its backend may still send by this one.
fn routes(peers: &[Peer]) -> impl Iterator<Item = (Ipv4Network, std::net::Ipv4Addr)> {
    peers.iter().filter_map(|peer| {
        let half = peer.half(Family::V4)?;
        match (half.subnet, half.public) {
            (IpNetwork::V4(subnet), IpAddr::V4(public)) => Some((subnet, public)),
            _ => None,
        }
    })
}
