//! What the kernel alone charges for an attachment: the same objects, made by a process that runs already, with nothing
//! read, checked, reserved or answered. No plugin can be faster than this and the start and end of a process together.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use flanneld::lab::netns::Room;
use flanneld::lab::{Doing, Error};
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::diff::{LinkChange, Step, diff};
use kernel::state::{Bridge, Link, LinkKind, Route, RouteKey, Scope, State, Veth, VethPeer};
use kernel::types::{Family, IfName};

/// The bridge and the pod's interface.
pub struct Floor {
    bridge: IfName,
    host_end: IfName,
    pod_end: IfName,
    address: IpNetwork,
    gateway: IpNetwork,
}

impl Floor {
    /// Makes the bridge, as on a host at work.
    pub fn new(host: &mut Kernel) -> Result<Self, Error> {
        let name = |name| IfName::new(name).doing("name a link");
        let net = |net: &str| net.parse::<IpNetwork>().doing("read an address");
        let floor = Self {
            bridge: name("floor")?,
            host_end: name("vethfloor")?,
            pod_end: name("eth0")?,
            address: net("10.84.0.2/16")?,
            gateway: net("10.84.0.1/16")?,
        };
        let mut state = State::default();
        state.links.insert(floor.bridge.clone(), Link::up(LinkKind::Bridge(Bridge { vlan_filtering: false })));
        state.address(&floor.bridge, floor.gateway, false);
        host.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok().doing("make a bridge")?;
        Ok(floor)
    }

    /// How long it takes to make a pair between the bridge and `room`, with the pod's address and default route, until
    /// the bridge's port carries packets. The pair is deleted again, untimed.
    pub fn add(&self, host: &mut Kernel, room: &Room) -> Result<Duration, Error> {
        let mut pod = room.kernel()?;
        let (links, inside) = (self.pair(room), self.inside());
        let started = Instant::now();
        host.apply(&links).ok().doing("make a pair")?;
        pod.apply(&inside).ok().doing("set up the pod")?;
        let port = host.wait_running(&self.host_end, Duration::from_secs(1)).doing("wait for the port")?;
        let took = started.elapsed();
        host.apply(&[Step::DeleteLink(self.host_end.clone())]).ok().doing("delete the pair")?;
        if port.is_some_and(|port| port.running) {
            Ok(took)
        } else {
            Err(Error::Wrong("the bridge's port did not come up".into()))
        }
    }

    fn pair(&self, room: &Room) -> Vec<Step> {
        let netns = Some(room.netns().as_raw_fd());
        let peer = VethPeer { name: self.pod_end.clone(), mac: None, mtu: None, netns };
        let kind = LinkKind::Veth(Veth { peer: Some(Box::new(peer)) });
        let link = Link { master: Some(Some(self.bridge.clone())), ..Link::up(kind) };
        vec![Step::CreateLink(self.host_end.clone(), link), Step::ChangeLink(self.host_end.clone(), LinkChange::up())]
    }

    fn inside(&self) -> Vec<Step> {
        let mut state = State::default();
        state.address(&self.pod_end, self.address, false);
        let default = Route { via: Some(self.gateway.ip()), ..Route::by(&self.pod_end) };
        state.routes.insert(RouteKey::main(Family::V4.default_net()), default);
        let mut steps = diff(&state, &State::default(), &Scope::default()).steps;
        steps.insert(1, Step::ChangeLink(self.pod_end.clone(), LinkChange::up()));
        steps
    }
}
