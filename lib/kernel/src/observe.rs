//! Reads the objects of a [`Scope`] from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage as Message;

use crate::kernel::Kernel;
use crate::message::Names;
use crate::message::Request;
use crate::message::address::SeenAddress;
use crate::message::link::{self, SeenLink};
use crate::message::neighbour::{self, Forwarding, SeenNeighbour};
use crate::message::rule::SeenRule;
use crate::message::{address, route, rule, vlan};
use crate::netlink::{Errno, KernelError};
use crate::nft::{Selection, TableKey};
use crate::state::{
    LinkKind, NeighbourKey, NftScope, NftTable, Route, RouteKey, RouteKind, RouteScope, Scope, State, WireguardDevice,
};
use crate::sysctl;
use crate::types::{Family, IfIndex, IfName, Mac, RouteProtocol, TableId, host_net};

/// Routes in the kernel's order.
pub type Routes = Vec<(RouteKey, Route)>;

impl Kernel {
    /// The existing objects of `scope`. Other objects are not read.
    pub fn observe(&mut self, scope: &Scope) -> Result<State, KernelError> {
        let mut state = State::default();
        let links: Vec<&IfName> = scope.links.iter().chain(&scope.read_links).chain(scope.others.keys()).collect();
        let others: Vec<&IfName> = scope.queues.iter().filter(|name| !links.contains(name)).collect();
        self.observe_links(&links, &others, &mut state)?;
        if !scope.vlans.is_empty() {
            self.observe_vlans(&scope.vlans, &mut state)?;
        }
        for name in &scope.addresses {
            if let Some(index) = self.known(name)? {
                for seen in self.addresses_of(index)? {
                    state.addresses.insert(seen.key, seen.address);
                }
            }
        }
        for name in &scope.neighbours {
            if let Some(index) = self.known(name)? {
                self.observe_neighbours(index, &mut state)?;
            }
        }
        self.observe_wireguard(&scope.wireguard, &mut state)?;
        self.observe_queues(&scope.queues, &mut state)?;
        state.nft = self.tables(&scope.nft)?;
        if let Some(routes) = &scope.routes {
            for (key, route) in self.observe_routes(routes)? {
                insert_route(&mut state, key, route);
            }
        }
        for name in &scope.local {
            if let Some(index) = self.known(name)? {
                let routes = self.read_tables(TableId::LOCAL, Some(RouteProtocol::KERNEL), Some(index.0), &|_| true)?;
                let local = routes.into_iter().filter(|(_, route)| route.kind == RouteKind::LOCAL);
                let local: BTreeSet<IpNetwork> = local.map(|(key, _)| key.dst).collect();
                let of_link = state.addresses.keys().filter(|key| key.dev == *name);
                state.unheard.extend(of_link.filter(|key| !local.contains(&host_net(key.net.ip()))).cloned());
            }
        }
        self.observe_sysctls(scope, state)
    }

    /// Reads the routes of our protocol, and all routes to destinations of ours: other programs' routes may precede
    /// ours.
    fn observe_routes(&mut self, scope: &RouteScope) -> Result<Vec<(RouteKey, Route)>, KernelError> {
        let RouteScope { table, protocol, within, adopt, dev } = scope;
        let dev = match dev {
            Some(name) => match self.known(name)? {
                Some(index) => Some(index.0),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        let ours: Vec<_> = within.iter().chain(&adopt.within).copied().collect();
        if protocol.is_none() || ours.is_empty() {
            return self.read_tables(*table, *protocol, dev, &|_| true);
        }
        self.read_tables(*table, None, dev, &|message| {
            route::protocol(message) == *protocol || route::is_within(message, &ours)
        })
    }

    fn known(&mut self, name: &IfName) -> Result<Option<IfIndex>, KernelError> {
        if let Some(index) = self.names().index(name) {
            return Ok(Some(index));
        }
        Ok(self.link(name)?.map(|seen| seen.index))
    }

    /// Adds the links `names`, and looks up the indexes of `others`.
    fn observe_links(&mut self, names: &[&IfName], others: &[&IfName], state: &mut State) -> Result<(), KernelError> {
        let all = || names.iter().chain(others);
        let requests: Vec<_> =
            all().map(|n| Request::new(link::get_by_name(n), 0, format!("ip link show {n}"))).collect();
        let mut seen = Vec::new();
        for (name, outcome) in all().zip(self.socket.transact(&requests)) {
            match outcome {
                Ok(message) => seen.extend(message.as_ref().and_then(|m| self.note(m))),
                Err(e) if e.errno.0 == libc::ENODEV => self.seen.remove(name),
                Err(e) => return Err(e),
            }
        }
        for link in seen.iter().filter(|link| names.contains(&&link.name)) {
            self.add_link(link, state)?;
        }
        Ok(())
    }

    fn add_link(&mut self, seen: &SeenLink, state: &mut State) -> Result<(), KernelError> {
        for index in [seen.master, seen.lower].into_iter().flatten() {
            self.name(index)?;
        }
        state.links.insert(seen.name.clone(), seen.named(&self.seen));
        if let Some(port) = seen.port {
            state.ports.insert(seen.name.clone(), port);
        }
        Ok(())
    }

    fn observe_vlans(&mut self, ports: &[IfName], state: &mut State) -> Result<(), KernelError> {
        for name in ports {
            self.known(name)?;
        }
        let Self { socket, seen, .. } = self;
        let request = Request::new(vlan::get(), 0, "bridge vlan show");
        let vlans = socket.dump(&request, |message| Some(vlan::decode(message, seen)))?;
        state.vlans.extend(vlans.into_iter().flatten().filter(|(key, _)| ports.contains(&key.dev)));
        Ok(())
    }

    /// The keys and peers of the WireGuard devices among the links `names` (`wg show`).
    pub fn wireguard(&mut self, names: &[IfName]) -> Result<BTreeMap<IfName, WireguardDevice>, KernelError> {
        let mut state = State::default();
        self.observe_wireguard(names, &mut state)?;
        Ok(state.wireguard)
    }

    /// Adds the keys and peers of the WireGuard devices among `names`.
    fn observe_wireguard(&mut self, names: &[IfName], state: &mut State) -> Result<(), KernelError> {
        for name in names {
            if self.link(name)?.is_none_or(|seen| seen.link.kind != LinkKind::Wireguard) {
                continue;
            }
            match self.generic()?.device(name) {
                Ok(device) => drop(state.wireguard.insert(name.clone(), device)),
                // The device has disappeared since.
                Err(e) if e.is_absent() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads the nf_tables tables in `scopes`: all of our own, and the named chains of shared ones. A table that does not
    /// exist is left out.
    ///
    /// # Errors
    /// The kernel refused to list a table.
    pub fn tables(
        &mut self,
        scopes: &BTreeMap<TableKey, NftScope>,
    ) -> Result<BTreeMap<TableKey, NftTable>, KernelError> {
        let mut tables = BTreeMap::new();
        for (key, scope) in scopes {
            let what = || format!("nft list table {key}");
            let nft = self.nft().map_err(|error| error.about(&what()))?;
            let view = match scope {
                NftScope::Whole => nft.view(key),
                NftScope::Shared(parts) => {
                    let mut names = Selection::default();
                    names.extend(parts);
                    nft.view_of(key, &names)
                }
            };
            let view = view.map_err(|error| error.about(&what()))?;
            if view.table.is_some() {
                tables.insert(key.clone(), view.into());
            }
        }
        Ok(tables)
    }

    /// The addresses of one link, both families.
    pub fn addresses_of(&mut self, index: IfIndex) -> Result<Vec<SeenAddress>, KernelError> {
        let what = format!("ip addr show, link index {index}");
        let Self { socket, seen, .. } = self;
        // Kernels without strict checking return the addresses of all links.
        let own = |m: &Message| matches!(m, Message::NewAddress(a) if a.header.index == index.0);
        socket.dump(&Request::new(address::get(index.0), 0, what), |message| {
            own(message).then(|| address::decode(message, seen)).flatten()
        })
    }

    /// All addresses of known links.
    pub fn addresses(&mut self) -> Result<Vec<SeenAddress>, KernelError> {
        let Self { socket, seen, .. } = self;
        socket.dump(&Request::new(address::get(0), 0, "ip addr show"), |message| address::decode(message, seen))
    }

    /// The permanent neighbours of a link, both families (`ip neigh show dev NAME nud permanent`). Empty without the link.
    pub fn neighbours(&mut self, dev: &IfName) -> Result<BTreeMap<NeighbourKey, Mac>, KernelError> {
        let mut state = State::default();
        if let Some(index) = self.known(dev)? {
            self.observe_neighbours(index, &mut state)?;
        }
        Ok(state.neighbours)
    }

    /// The entries of a bridge's own table that stay where they are, whatever it learns (`bridge fdb show br NAME`): local
    /// and sticky ones. Empty without the bridge.
    pub fn forwarding(&mut self, bridge: &IfName) -> Result<BTreeSet<Forwarding>, KernelError> {
        let Some(index) = self.known(bridge)? else { return Ok(BTreeSet::new()) };
        let Self { socket, seen, .. } = self;
        let request = Request::new(neighbour::get_of_bridge(index), 0, format!("bridge fdb show br {bridge}"));
        let entries = socket.dump(&request, |message| match message {
            Message::NewNeighbour(message) => neighbour::decode_forwarding(message, seen),
            _ => None,
        });
        match entries {
            Ok(entries) => Ok(entries.into_iter().filter(|(_, stays)| *stays).map(|(entry, _)| entry).collect()),
            // the bridge has disappeared, or is another kind of link
            Err(e) if e.is_absent() || e.is_invalid() || e.errno.0 == libc::EOPNOTSUPP => Ok(BTreeSet::new()),
            Err(e) => Err(e),
        }
    }

    /// Whether the host takes packets to `addr` for its own (`ip route get ADDR` says `local`).
    pub fn is_local(&mut self, addr: IpAddr) -> Result<bool, KernelError> {
        match self.socket.ask(Request::new(route::lookup(addr), 0, format!("ip route get {addr}"))) {
            Ok(message) => Ok(message.as_ref().is_some_and(route::is_local)),
            // no route leads there
            Err(e) if e.is_absent() || [libc::ENETUNREACH, libc::EHOSTUNREACH].contains(&e.errno.0) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn observe_neighbours(&mut self, index: IfIndex, state: &mut State) -> Result<(), KernelError> {
        for family in [Some(Family::V4), Some(Family::V6), None] {
            let what = match family {
                Some(_) => format!("ip neigh show, link index {index}"),
                None => format!("bridge fdb show, link index {index}"),
            };
            let Self { socket, seen, .. } = self;
            let own = |m: &Message| matches!(m, Message::NewNeighbour(n) if n.header.ifindex == index.0);
            let entries = socket.dump(&Request::new(neighbour::get(index, family), 0, what), |message| {
                own(message).then(|| neighbour::decode(message, seen)).flatten()
            });
            let entries = match entries {
                Ok(entries) => entries,
                // The family does not exist, or the link has disappeared: there is nothing.
                Err(e) if e.is_absent() || (e.errno.0 == libc::EOPNOTSUPP && family == Some(Family::V6)) => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                match entry {
                    SeenNeighbour::Neighbour(key, mac) => drop(state.neighbours.insert(key, mac)),
                    SeenNeighbour::Fdb(key, entry) => drop(state.fdb.insert(key, entry)),
                }
            }
        }
        Ok(())
    }

    /// The unicast and blackhole routes of one table, both families, in the kernel's order.
    pub fn routes(&mut self, table: TableId) -> Result<Vec<(RouteKey, Route)>, KernelError> {
        Ok(usual(self.read_tables(table, None, None, &|_| true)?))
    }

    /// The routes of one table but those of `protocol`, which are not even decoded: unicast and blackhole ones, and beside
    /// them those of other types, such as unreachable and local ones.
    pub fn routes_but(&mut self, table: TableId, protocol: RouteProtocol) -> Result<(Routes, Routes), KernelError> {
        let all = self.read_tables(table, None, None, &|message| route::protocol(message) != Some(protocol))?;
        Ok(all.into_iter().partition(|(_, route)| !matches!(route.kind, RouteKind::Other(_))))
    }

    fn read_tables(
        &mut self,
        table: TableId,
        protocol: Option<RouteProtocol>,
        dev: Option<u32>,
        worth: &dyn Fn(&Message) -> bool,
    ) -> Result<Vec<(RouteKey, Route)>, KernelError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            let what = format!("ip route show table {}", table.0);
            let request = Request::new(route::get(family, table, protocol, dev), 0, what);
            let read = match dev {
                None => self.read_routes(&request, worth, &route::decode),
                Some(dev) => self
                    .read_routes(&request, worth, &|message, names| Some(route::decode_by(dev, message, names)))
                    .map(|hops| hops.into_iter().flatten().collect()),
            };
            match read {
                Ok(read) => routes.extend(read),
                // The table has no route yet (fib_dump), or there is no IPv6.
                Err(e) if e.is_absent() || e.errno.0 == libc::EOPNOTSUPP => {}
                Err(e) => return Err(e),
            }
        }
        routes.retain(|(key, route)| key.table == table && protocol.is_none_or(|p| route.protocol == p));
        Ok(routes)
    }

    /// Dumps routes. Looks up unknown links that they name, and then dumps again.
    fn read_routes<T>(
        &mut self,
        request: &Request<'_>,
        worth: &dyn Fn(&Message) -> bool,
        read: &dyn Fn(&Message, &dyn Names) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        loop {
            let mut strangers = BTreeSet::new();
            let Self { socket, seen, .. } = self;
            let routes = socket.dump(request, |message| {
                if !worth(message) {
                    return None;
                }
                let unseen = route::link(message).filter(|index| seen.name(*index).is_none());
                strangers.extend(unseen);
                unseen.is_none().then(|| read(message, seen)).flatten()
            })?;
            let mut found = false;
            for index in strangers {
                // A link that has disappeared took its routes with it.
                found |= self.name(index)?.is_some();
            }
            if !found {
                return Ok(routes);
            }
        }
    }

    /// How the kernel itself would reach `addr`: `ip route get`.
    pub fn route_to(&mut self, addr: IpAddr) -> Result<Option<Route>, KernelError> {
        let message = self.socket.ask(Request::new(route::lookup(addr), 0, format!("ip route get {addr}")))?;
        let Some(message) = message else { return Ok(None) };
        if let Some(index) = route::link(&message) {
            self.name(index)?;
        }
        Ok(route::decode_lookup(&message, &self.seen))
    }

    /// How the kernel would forward a packet from `src` to `dst` that comes by `iif`; `None`: it would keep it. An error, too,
    /// when it would drop it.
    pub fn forwarding_of(&mut self, src: IpAddr, dst: IpAddr, iif: &IfName) -> Result<Option<Route>, KernelError> {
        let what = format!("ip route get {dst} from {src} iif {iif}");
        let Some(index) = self.known(iif)? else { return Err(KernelError::new(what, Errno(libc::ENODEV))) };
        let message = self.socket.ask(Request::new(route::lookup_forwarded(src, dst, index), 0, what))?;
        let Some(message) = message else { return Ok(None) };
        if let Some(index) = route::link(&message) {
            self.name(index)?;
        }
        Ok(route::decode_lookup(&message, &self.seen))
    }

    /// The routing policy of both families (`ip rule show`). Empty without policy routing.
    pub fn rules(&mut self) -> Result<Vec<SeenRule>, KernelError> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let request = Request::new(rule::get(family), 0, "ip rule show");
            match self.socket.dump(&request, rule::decode) {
                Ok(read) => rules.extend(read.into_iter().filter(|rule| rule.family == family)),
                Err(e) if e.is_absent() || [libc::EOPNOTSUPP, libc::EAFNOSUPPORT].contains(&e.errno.0) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rules)
    }

    fn observe_sysctls(&mut self, scope: &Scope, mut state: State) -> Result<State, KernelError> {
        if scope.sysctls.is_empty() {
            return Ok(state);
        }
        let values: Vec<_> = self.inside(|| scope.sysctls.iter().map(|key| (key, sysctl::read(key))).collect())?;
        for (key, value) in values {
            if let Some(value) = value? {
                state.sysctls.insert(key.clone(), value);
            }
        }
        Ok(state)
    }
}

fn usual(mut routes: Vec<(RouteKey, Route)>) -> Vec<(RouteKey, Route)> {
    routes.retain(|(_, route)| !matches!(route.kind, RouteKind::Other(_)));
    routes
}

/// Several routes may share a key; the kernel uses the first.
fn insert_route(state: &mut State, mut key: RouteKey, route: Route) {
    while let Some(there) = state.routes.get(&key) {
        if *there == route || key.ordinal == u8::MAX {
            return;
        }
        key.ordinal += 1;
    }
    state.routes.insert(key, route);
}
