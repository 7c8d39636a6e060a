//! `bandwidth` limits the rate of what a pod receives and sends.
//!
//! The host's end of the veth pair has a token bucket for what the pod receives. What the pod sends arrives at that end,
//! and is redirected to an ifb device, which has another.

mod conf;

use std::path::Path;

use attachment::Key;
use attachment::bandwidth::{Bandwidth as Made, Egress, devices};
use attachment::record::{DIRECTORY, Locked, Record, list};
use attachment::section::Section;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface};
use cni::version::Version;
use kernel::Kernel;
use kernel::removal::delete_link;
use kernel::state::{Birth, LinkKind, Scope, State};
use kernel::types::{IfName, Mac};

use crate::attach::{Chained, Host, Side, Sides, interface, join};
use crate::traces;
use conf::Conf;

/// The plugin.
pub struct Bandwidth;

/// What the plugin must know before it decides. Empty if nothing is limited.
#[derive(Debug, Clone, Default)]
pub struct Facts(Option<Found>);

#[derive(Debug, Clone)]
struct Found {
    /// The host's link that leads to the pod.
    link: IfName,
    /// Its MTU in bytes.
    mtu: u32,
    /// The name and the MAC address of the ifb device, which may exist.
    device: IfName,
    mac: Mac,
    /// Whether the device exists.
    exists: bool,
}

impl Chained for Bandwidth {
    type Conf = Conf;
    type Facts = Facts;

    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn versions(&self) -> &'static [Version] {
        &[Version::V030, Version::V031, Version::V040, Version::V100, Version::V110]
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        Conf::read(request.conf.tree())
    }

    fn facts(&self, conf: &Conf, request: &Request<'_>, host: &mut Host, pod: &mut Kernel) -> Result<Facts, Error> {
        if conf.is_empty() {
            return Ok(Facts::default());
        }
        let previous = previous(request)?;
        let key = traces::key(request);
        let [shared, own] = names(key)?;
        let recorded = recorded_device(key)?;
        let device = recorded.clone().unwrap_or_else(|| shared.clone());
        let host = host.kernel()?;
        let hosts: Vec<IfName> = of_host(previous).filter_map(|i| IfName::new(&i.name).ok()).collect();
        let scope = Scope { read_links: hosts.into_iter().chain([device.clone()]).collect(), ..Scope::default() };
        let seen = host.observe(&scope).map_err(failed)?;
        let link = match named_end(previous, &seen) {
            Some(link) => link,
            None => peer(request, previous, host, pod)?,
        };
        let taken = recorded.is_none() && seen.links.contains_key(&device) && is_claimed(key, &device)?;
        let device = if taken { own } else { device };
        let found = if taken { host.observe(&only(&device)).map_err(failed)? } else { seen.clone() };
        let before = found.links.get(&device).and_then(|ifb| ifb.mac);
        let mac = before.map_or_else(random_mac, Ok)?;
        let mtu = match seen.links.get(&link).and_then(|veth| veth.mtu) {
            Some(mtu) => mtu.0,
            None => host.link(&link).map_err(failed)?.and_then(|veth| veth.link.mtu).map_or(0, |mtu| mtu.0),
        };
        Ok(Facts(Some(Found { link, mtu, device, mac, exists: before.is_some() })))
    }

    fn desired(&self, conf: &Conf, facts: &Facts, _request: &Request<'_>) -> Result<Sides, Error> {
        let Some(found) = &facts.0 else { return Ok(Sides::default()) };
        let egress = conf.egress.map(|limit| Egress {
            limit,
            device: found.device.to_string(),
            mac: found.mac.to_string(),
            mtu: found.mtu,
        });
        let made = Made { link: found.link.to_string(), ingress: conf.ingress, egress };
        let (wanted, scope) = made.host();
        let known = (!found.exists).then(State::default);
        let host = Side { wanted, scope, known };
        Ok(Sides { host, section: Some(Section::Bandwidth(made)), ..Sides::default() })
    }

    fn released(&self, _request: &Request<'_>, _record: Option<&Record>) -> Sides {
        Sides::default()
    }

    /// The ifb device of an attachment without a section in its record.
    fn remove_left(&self, request: &Request<'_>, record: Option<&Record>, host: &mut Host) -> Result<(), Error> {
        if record.is_some_and(|record| record.section(self.name()).is_some()) {
            return Ok(());
        }
        let key = traces::key(request);
        join(names(key)?.map(|device| remove_device(key, &device, host)))
    }

    fn answer(&self, conf: &Conf, facts: &Facts, request: &Request<'_>, _pod: &mut Kernel) -> Result<AddResult, Error> {
        let mut answer = previous(request)?.clone();
        if let (Some(found), true) = (&facts.0, conf.egress.is_some()) {
            answer.interfaces.push(interface(&found.device, Some(found.mac), ""));
        }
        Ok(answer)
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format_args!("bandwidth: {error}"))
}

fn previous<'a>(request: &'a Request<'_>) -> Result<&'a AddResult, Error> {
    request.conf.prev_result.as_ref().ok_or_else(|| Error::config("must be called as chained plugin"))
}

fn of_host(previous: &AddResult) -> impl Iterator<Item = &Interface> {
    previous.interfaces.iter().filter(|interface| interface.sandbox.is_empty())
}

fn names(key: Key<'_>) -> Result<[IfName; 2], Error> {
    let [shared, own] = devices(key).map(|name| IfName::new(&name).map_err(failed));
    Ok([shared?, own?])
}

fn only(device: &IfName) -> Scope {
    Scope { read_links: vec![device.clone()], ..Scope::default() }
}

fn random_mac() -> Result<Mac, Error> {
    let mut bytes = [0; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    Ok(Mac::local(bytes))
}

/// The host's end of the pair, if the previous result names one link of the host that can be it, with its MAC address.
fn named_end(previous: &AddResult, seen: &State) -> Option<IfName> {
    let mut ends = of_host(previous).filter_map(|interface| {
        let (name, mac) = (IfName::new(&interface.name).ok()?, interface.mac.parse::<Mac>().ok()?);
        let link = seen.links.get(&name)?;
        let is_end = matches!(link.kind, LinkKind::Veth(_)) && link.birth == Birth::Parent && link.mac == Some(mac);
        is_end.then_some(name)
    });
    ends.next().filter(|_| ends.next().is_none())
}

/// The host's end of the pair that the pod's interface is an end of.
fn peer(request: &Request<'_>, previous: &AddResult, host: &mut Kernel, pod: &mut Kernel) -> Result<IfName, Error> {
    let ifname = IfName::new(&request.env.ifname).map_err(failed)?;
    let inside = pod.link(&ifname).map_err(failed)?;
    let inside = inside.filter(|seen| matches!(seen.link.kind, LinkKind::Veth(_)));
    let index = inside.and_then(|seen| seen.lower_elsewhere);
    let index = index.ok_or_else(|| failed(format_args!("container interface {ifname} has no veth peer")))?;
    let name = host.name(index).map_err(failed)?;
    let name = name.ok_or_else(|| failed(format_args!("veth peer with index {index} is not in host ns")))?;
    let named = of_host(previous).any(|interface| interface.name == name.as_str());
    named.then_some(name).ok_or_else(|| failed("no veth peer of container interface found in host ns"))
}

fn record_of(key: Key<'_>) -> Result<Option<Made>, Error> {
    let record = Locked::glance(Path::new(DIRECTORY), key).map_err(failed)?;
    let section = record.as_ref().and_then(|record| record.section("bandwidth"));
    Ok(section.and_then(|kept| if let Section::Bandwidth(made) = &kept.section { Some(made.clone()) } else { None }))
}

/// The ifb device that the attachment's record names.
fn recorded_device(key: Key<'_>) -> Result<Option<IfName>, Error> {
    let device = record_of(key)?.and_then(|made| made.egress).map(|egress| egress.device);
    device.map(|device| IfName::new(&device).map_err(failed)).transpose()
}

/// Whether another interface of the container has the device, whose name does not contain the interface's.
fn is_claimed(key: Key<'_>, device: &IfName) -> Result<bool, Error> {
    for (container, ifname) in list(Path::new(DIRECTORY), key.network).map_err(failed)? {
        if container != key.container || ifname == key.ifname {
            continue;
        }
        if recorded_device(Key { ifname: &ifname, ..key })?.as_ref() == Some(device) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_device(key: Key<'_>, device: &IfName, host: &mut Host) -> Result<(), Error> {
    let host = host.kernel()?;
    let found = host.link(device).map_err(failed)?;
    if found.is_none_or(|seen| seen.link.kind != LinkKind::Ifb) || is_claimed(key, device)? {
        return Ok(());
    }
    delete_link(host, device).map(drop).map_err(failed)
}
