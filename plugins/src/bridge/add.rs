//! ADD: links first, so that nothing is asked of IPAM for a name that is taken; then the rest in one batch per side.

use std::os::fd::AsRawFd;
use std::time::Duration;

use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::diff::{Step, diff};
use kernel::message::link::SeenLink;
use kernel::state::{AddressKey, Link, LinkKind, Scope, State};
use kernel::types::{IfName, Mac};
use kernel::{Kernel, KernelError};

use super::conf::Conf;
use super::desired::{self, Ends};
use super::undo::Undo;
use super::{gateway, rules};
use crate::pod::Dad;
use crate::{netns, read_only};

/// Upstream looks at the port after 0, 50, 500, 1000 and 1000 ms; the kernel's announcement ends the wait here.
const PORT_PATIENCE: Duration = Duration::from_millis(2550);

/// How long the kernel may look for the duplicate of an IPv6 address before it is taken as it is, as upstream.
const DAD_PATIENCE: Duration = Duration::from_secs(5);

/// A clash of the host end's random name is tried again this often, as upstream.
const NAME_TRIES: usize = 10;

/// The ports of a bridge: BR_MAX_PORTS (net/bridge/br_private.h) without number 0, which is reserved.
const PORTS: u32 = 1023;

/// Both sides of the attachment and what is being made.
struct Attachment<'a> {
    request: &'a Request<'a>,
    conf: &'a Conf,
    host: Kernel,
    pod: Kernel,
    /// The bridge as found; `None`: made by this ADD.
    found: Option<SeenLink>,
}

/// Attaches the pod; whatever was done is undone when a step fails.
pub fn add(request: &Request, conf: &Conf) -> Result<AddResult, Error> {
    let ifname = IfName::new(&request.env.ifname).map_err(Error::internal)?;
    let netns = netns::open(request).map_err(|e| netns::refused(&e))?;
    let mut host = Kernel::open().map_err(Error::internal)?;
    let pod = netns::kernel(request, netns)?;
    let found = find_bridge(&mut host, conf)?;
    let mut attachment = Attachment { request, conf, host, pod, found };
    let mut undo = Undo::new(request, conf);
    match attachment.make(&ifname, &mut undo) {
        Ok(reply) => {
            undo.disarm();
            Ok(reply)
        }
        Err(error) => Err(undo.because_of(error)),
    }
}

/// The bridge as it is, if it is one.
fn find_bridge(host: &mut Kernel, conf: &Conf) -> Result<Option<SeenLink>, Error> {
    let Some(seen) = host.link(&conf.bridge).map_err(Error::internal)? else { return Ok(None) };
    match &seen.link.kind {
        LinkKind::Bridge(_) => Ok(Some(seen)),
        other => Err(Error::internal(format!("{:?} already exists but is not a bridge", conf.bridge.as_str())).with_details(
            format!(
                "it is a link of kind {}: name another \"bridge\" in the configuration, or delete that link: ip link del {}",
                other.word(),
                conf.bridge
            ),
        )),
    }
}

impl Attachment<'_> {
    fn make(&mut self, ifname: &IfName, undo: &mut Undo) -> Result<AddResult, Error> {
        let ends = self.connect(ifname, undo)?;
        let ipam = match &self.conf.ipam {
            Some(kind) => {
                let ipam = self.request.delegates.add(kind, &self.request.conf.bytes, self.request.env)?;
                undo.ipam = true;
                ipam
            }
            None => AddResult::default(),
        };
        let result = desired::complete(self.conf, ipam)?;
        let vlan_gateway = gateway::ensure(&mut self.host, self.conf, &ends, undo)?;
        let bridge_mac = self.configure_host(&ends, &result, undo)?;
        self.configure_pod(&ends, &result)?;
        if self.conf.masquerade || self.conf.spoof_check {
            undo.rules = true;
            rules::add(self.request, self.conf, &mut self.host, (&ends, &result))?;
        }
        if self.conf.container_interface {
            self.wait_for_port(&ends.veth)?;
        }
        let mut reply = desired::reply(self.conf, &ends, bridge_mac, &self.request.env.netns, result);
        reply.interfaces.extend(vlan_gateway.map(|seen| desired::interface(&seen.name, seen.link.mac, "")));
        Ok(reply)
    }

    /// Makes the bridge, if it is not there, and the pair: down, the pod's end born in the pod.
    fn connect(&mut self, ifname: &IfName, undo: &mut Undo) -> Result<Ends, Error> {
        let netns = self.pod.netns().map(AsRawFd::as_raw_fd);
        for _ in 0..NAME_TRIES {
            let ends = random_ends(self.conf, ifname)?;
            let wanted = desired::links(self.conf, &ends, netns, self.found.is_none());
            let plan = diff(&wanted, &self.bridge_state(), &Scope::default());
            undo.links(&ends, self.found.is_none());
            let mut taken = false;
            for (step, error) in self.host.apply(&plan.steps).failed {
                match step {
                    // another ADD made the bridge in between: it is there
                    Step::CreateLink(name, _) if error.is_already() && name == self.conf.bridge => undo.bridge = false,
                    Step::CreateLink(..) if error.is_already() => taken = true,
                    // the pair is not there, and that has been said
                    _ if taken => {}
                    step if read_only::passes(&mut self.host, &step, &error).map_err(Error::internal)? => {}
                    step => return Err(refused(self.conf, read_only::explained(&step, error))),
                }
            }
            if !taken {
                return Ok(ends);
            }
            undo.veth = None;
            if self.pod.link(ifname).map_err(Error::internal)?.is_some() {
                return Err(Error::internal(format!(
                    "container veth name ({:?}) peer provided ({:?}) already exists",
                    ifname.as_str(),
                    ends.veth.as_str()
                )));
            }
        }
        Err(Error::internal(format!("no free name for the host's end of the pair after {NAME_TRIES} tries")))
    }

    fn bridge_state(&self) -> State {
        let mut state = State::default();
        if let Some(seen) = &self.found {
            state.links.insert(self.conf.bridge.clone(), seen.link.clone());
            state.sysctls.extend([desired::seen_accept_ra(seen)]);
        }
        state
    }

    /// The host's side as it is once the links are made, with those of `sysctls` that there are.
    fn connected_state(&mut self, ends: &Ends, sysctls: Vec<String>) -> Result<State, Error> {
        let mut state = desired::links(self.conf, ends, None, true);
        if let Some(seen) = &self.found {
            state.links.insert(self.conf.bridge.clone(), Link { up: true, ..seen.link.clone() });
        }
        let present = self.host.observe(&Scope { sysctls, ..Scope::default() }).map_err(Error::internal)?;
        state.sysctls.extend(present.sysctls);
        if self.conf.vlans.is_some() {
            let vlans = vec![ends.veth.clone()];
            state.vlans = self.host.observe(&Scope { vlans, ..Scope::default() }).map_err(Error::internal)?.vlans;
        }
        Ok(state)
    }

    /// The gateway's addresses, forwarding, and the host's end up: one batch. Returns the bridge's MAC.
    fn configure_host(&mut self, ends: &Ends, result: &AddResult, undo: &mut Undo) -> Result<Option<Mac>, Error> {
        let mut wanted = desired::host(self.conf, ends, result);
        let forwarding = wanted.sysctls.keys().filter(|key| desired::FORWARDING.contains(&key.as_str())).cloned();
        let mut observed = self.connected_state(ends, forwarding.collect())?;
        let mut scope = Scope::default();
        if self.conf.vlans.as_ref().is_some_and(|vlans| !vlans.keep_default) {
            scope.vlans.push(ends.veth.clone());
        }
        if !wanted.addresses.is_empty() {
            let gateway = self.conf.gateway_link();
            let index = self.host.index(&gateway).map_err(Error::internal)?;
            let present = self.host.addresses_of(index).map_err(Error::internal)?;
            let keys: Vec<_> = present.iter().map(|seen| seen.key.clone()).collect();
            let rivals = desired::conflicting(&wanted, &keys);
            self.may_replace(&wanted, &rivals, ends)?;
            scope.addresses.push(gateway);
            let ours = |key: &AddressKey| wanted.addresses.contains_key(key) || rivals.contains(key);
            observed.addresses = present.into_iter().map(|s| (s.key, s.address)).filter(|(key, _)| ours(key)).collect();
            undo.addresses =
                wanted.addresses.keys().filter(|key| !observed.addresses.contains_key(*key)).cloned().collect();
        }
        let mac = self.pin_bridge_mac(ends, !undo.addresses.is_empty(), &mut wanted, &mut observed);
        let report = self.host.apply(&diff(&wanted, &observed, &scope).steps);
        read_only::settled(&mut self.host, report).map_err(Error::internal)?;
        Ok(mac)
    }

    /// A bridge that somebody made without a MAC takes that of its lowest port and loses it with the port: writing it
    /// makes it stay (`br_stp_recalculate_bridge_id`, net/bridge/br_stp_if.c).
    fn pin_bridge_mac(&self, ends: &Ends, pin: bool, wanted: &mut State, observed: &mut State) -> Option<Mac> {
        let Some(found) = &self.found else { return Some(ends.bridge_mac) };
        let mac = found.link.mac.filter(|mac| mac.is_unicast()).unwrap_or(ends.bridge_mac);
        if pin {
            if let Some(link) = wanted.links.get_mut(&self.conf.bridge) {
                link.mac = Some(mac);
            }
            if let Some(link) = observed.links.get_mut(&self.conf.bridge) {
                link.mac = None;
            }
        }
        Some(mac)
    }

    /// Addresses of another subnet give way when told to, or when no pod is behind them any more.
    fn may_replace(&mut self, wanted: &State, rivals: &[AddressKey], ends: &Ends) -> Result<(), Error> {
        if rivals.is_empty() || self.conf.force_address {
            return Ok(());
        }
        let links = self.host.links().map_err(Error::internal)?;
        let bridge = self.host.index(&self.conf.bridge).map_err(Error::internal)?;
        let ports = links.iter().filter(|l| l.master == Some(bridge.0) && l.name != ends.veth).count();
        if ports == 0 { Ok(()) } else { Err(desired::address_conflict(self.conf, wanted, rivals, ports)) }
    }

    fn configure_pod(&mut self, ends: &Ends, result: &AddResult) -> Result<(), Error> {
        let wanted = desired::pod(self.conf, ends, result)?;
        let mut born = State::default();
        for (name, link) in &wanted.links {
            born.links.insert(name.clone(), Link { up: false, ..link.clone() });
        }
        let report = self.pod.apply(&diff(&wanted, &born, &Scope::default()).steps);
        read_only::settled(&mut self.pod, report).map_err(Error::internal)?;
        if self.conf.dad == Dad::On && result.ips.iter().any(|ip| ip.address.is_ipv6()) {
            self.pod.wait_addresses(&ends.ifname, DAD_PATIENCE).map_err(Error::internal)?;
        }
        Ok(())
    }

    fn wait_for_port(&mut self, veth: &IfName) -> Result<(), Error> {
        match self.host.wait_running(veth, PORT_PATIENCE).map_err(Error::internal)? {
            Some(link) if link.running => Ok(()),
            Some(link) => Err(Error::internal(format!("bridge port in error state: {}", link.operstate))
                .with_details(format!("{veth} did not come up within {PORT_PATIENCE:?}; see: ip -d link show {veth}"))),
            None => Err(Error::internal(format!("{veth} was deleted by somebody while it was being attached"))),
        }
    }
}

/// With what to do when the bridge takes no more ports.
pub(super) fn refused(conf: &Conf, error: KernelError) -> Error {
    if !error.is_full_bridge() {
        return Error::internal(error);
    }
    let bridge = &conf.bridge;
    let text = Some(format!("the bridge {bridge} has no free port: it takes {PORTS}"));
    Error::internal(KernelError { text, ..error }).with_details(format!(
        "detach pods that are not needed (ip link show master {bridge}), or name another \"bridge\" in the configuration"
    ))
}

/// A name for the host's end and MACs for what is made.
fn random_ends(conf: &Conf, ifname: &IfName) -> Result<Ends, Error> {
    let mut bytes = [0u8; 26];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(Error::internal)?;
    let [n0, n1, n2, n3, rest @ ..] = bytes;
    let mac = |at: usize| Mac::local([rest[at], rest[at + 1], rest[at + 2], rest[at + 3], rest[at + 4], rest[at + 5]]);
    let name =
        |[a, b, c, d]: [u8; 4]| IfName::new(&format!("veth{a:02x}{b:02x}{c:02x}{d:02x}")).map_err(Error::internal);
    Ok(Ends {
        veth: name([n0, n1, n2, n3])?,
        vlan_port: name([rest[18], rest[19], rest[20], rest[21]])?,
        veth_mac: mac(0),
        ifname: ifname.clone(),
        pod_mac: conf.mac.unwrap_or_else(|| mac(6)),
        bridge_mac: mac(12),
    })
}
