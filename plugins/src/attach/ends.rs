//! The names and MAC addresses of one attachment's links.

use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface};
use kernel::types::{IfName, Mac};

/// The names and MAC addresses of one attachment's links. A plugin uses those that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The host's end of a veth pair.
    pub host: IfName,
    /// The MAC address of the host's end. It is set at creation, so that systemd-udev's MACAddressPolicy does not
    /// change it.
    pub host_mac: Mac,
    /// The pod's interface: CNI_IFNAME.
    pub ifname: IfName,
    /// The MAC address of the pod's interface.
    pub pod_mac: Mac,
    /// The MAC address of a shared link that is created now.
    pub shared_mac: Mac,
    /// The name of a second link on the host.
    pub spare: IfName,
}

impl Ends {
    /// New random values, except for the pod's name and its MAC address, if one is requested.
    pub fn random(ifname: &IfName, mac: Option<Mac>) -> Result<Self, Error> {
        let mut bytes = [0; 26];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(Error::internal)?;
        let [h0, h1, h2, h3, s0, s1, s2, s3, macs @ ..] = bytes;
        let [a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5, c0, c1, c2, c3, c4, c5] = macs;
        Ok(Self {
            host: name([h0, h1, h2, h3])?,
            host_mac: Mac::local([a0, a1, a2, a3, a4, a5]),
            ifname: ifname.clone(),
            pod_mac: mac.unwrap_or(Mac::local([b0, b1, b2, b3, b4, b5])),
            shared_mac: Mac::local([c0, c1, c2, c3, c4, c5]),
            spare: name([s0, s1, s2, s3])?,
        })
    }
}

fn name([a, b, c, d]: [u8; 4]) -> Result<IfName, Error> {
    IfName::new(&format!("veth{a:02x}{b:02x}{c:02x}{d:02x}")).map_err(Error::internal)
}

/// One interface of a result; `sandbox` is empty for an interface on the host.
pub fn interface(name: &IfName, mac: Option<Mac>, sandbox: &str) -> Interface {
    Interface {
        name: name.to_string(),
        mac: mac.map(|m| m.to_string()).unwrap_or_default(),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

/// The pod's interface in a previous result, for CHECK.
pub fn pod_interface<'a>(request: &Request<'_>, previous: &'a AddResult) -> Result<&'a Interface, Error> {
    let (ifname, netns) = (&request.env.ifname, &request.env.netns);
    let pod = previous.interfaces.iter().find(|i| i.name == *ifname && !i.sandbox.is_empty());
    let pod = pod.ok_or_else(|| Error::config(format!("prevResult has no interface {ifname:?} in a sandbox")))?;
    if pod.sandbox == *netns {
        return Ok(pod);
    }
    let found = &pod.sandbox;
    Err(Error::config(format!("Sandbox in prevResult {found} doesn't match configured netns: {netns}")))
}

/// The MAC address of an interface in a previous result.
pub fn prev_mac(interface: &Interface) -> Result<Mac, Error> {
    interface.mac.parse().map_err(|e| Error::config(format!("prevResult: {e}")))
}
