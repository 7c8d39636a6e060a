//! `firewall`, a chained plugin: accepts forwarded packets from the pod and their answers, and keeps those of other bridges
//! away from it.

mod conf;
pub mod forward;

use std::net::IpAddr;

use attachment::record::Record;
use attachment::rules::firewall::{Backend, Firewall, IngressPolicy, bridge_table, table};
use attachment::rules::{delete_elements, iptables, owner};
use attachment::section::Section;
use attachment::{Key, firewalld};
use cni::error::{Error, code};
use cni::plugin::Request;
use cni::result::AddResult;
use cni::version::Version;
use kernel::Kernel;
use kernel::state::LinkKind;
use kernel::types::{Family, IfName, host_net};

use crate::attach::{Chained, Host, Side, Sides, by_firewalld, join, not_removed, refused};
use crate::traces;
use conf::{Conf, Document, any_zone};
use forward::{Found, look};

/// The plugin.
pub struct FirewallPlugin;

/// What is known before anything is made.
#[derive(Debug, Default)]
pub struct Facts {
    /// The pod's bridge, if there is a policy.
    bridge: Option<String>,
    /// What other programs' chains do.
    found: Found,
}

impl Chained for FirewallPlugin {
    type Conf = Conf;
    type Facts = Facts;

    fn name(&self) -> &'static str {
        "firewall"
    }

    fn versions(&self) -> &'static [Version] {
        &[Version::V040, Version::V100, Version::V110]
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        request.conf.decode::<Document>()?.check()
    }

    fn facts(&self, conf: &Conf, request: &Request<'_>, host: &mut Host, _pod: &mut Kernel) -> Result<Facts, Error> {
        let previous = previous(request)?;
        let bridge = match conf.policy {
            IngressPolicy::Open => None,
            _ => Some(bridge(previous, host.kernel()?)?),
        };
        let sources: Vec<_> = addresses(previous).into_iter().map(host_net).collect();
        let found = match conf.backend {
            Backend::Nftables => look(host.kernel()?, &sources).map_err(Error::internal)?,
            Backend::Iptables | Backend::Firewalld => Found::default(),
        };
        Ok(Facts { bridge, found })
    }

    fn desired(&self, conf: &Conf, facts: &Facts, request: &Request<'_>) -> Result<Sides, Error> {
        let addresses = addresses(previous(request)?);
        let has = |family| addresses.iter().any(|address| Family::from(*address) == family);
        let [v4, v6] = facts.found.in_forward;
        let firewall = Firewall {
            backend: conf.backend,
            policy: conf.policy,
            bridge: facts.bridge.clone(),
            admin: conf.admin.clone(),
            in_forward: [v4 && has(Family::V4), v6 && has(Family::V6)],
            zone: if conf.backend == Backend::Firewalld { conf.zone.clone() } else { String::new() },
            addresses,
        };
        let section = (!firewall.addresses.is_empty()).then_some(Section::Firewall(firewall));
        Ok(Sides { section, host: Side::default(), pod: Side::default() })
    }

    fn released(&self, _request: &Request<'_>, _record: Option<&Record>) -> Sides {
        Sides::default()
    }

    /// Without a section, the ADD was one of the reference plugin, which knows the attachment by its addresses alone.
    fn remove_left(&self, request: &Request<'_>, record: Option<&Record>, host: &mut Host) -> Result<(), Error> {
        let addresses = request.conf.prev_result.as_ref().map(addresses).unwrap_or_default();
        if record.is_some_and(|record| record.section(self.name()).is_some()) || addresses.is_empty() {
            return Ok(());
        }
        let removed = iptables::remove(host.kernel()?, &Firewall::removal(&addresses)).map_err(not_removed);
        let zone = any_zone(request.conf.decode().ok());
        let sources: Vec<String> = addresses.into_iter().map(iptables::host).collect();
        let of_zone = firewalld::runs().and_then(|runs| if runs { firewalld::remove(&zone, &sources) } else { Ok(()) });
        join([removed, of_zone.map_err(|error| by_firewalld(&error))])
    }

    fn answer(
        &self,
        _conf: &Conf,
        facts: &Facts,
        request: &Request<'_>,
        _pod: &mut Kernel,
    ) -> Result<AddResult, Error> {
        facts.found.drops.iter().for_each(|drop| request.warn(self.name(), drop));
        previous(request).cloned()
    }

    /// The other backends' rules count, too, as either suite writes them: the attachment may be older than the configuration.
    fn is_served_otherwise(&self, request: &Request<'_>, section: &Section, host: &mut Host) -> Result<bool, Error> {
        let Section::Firewall(firewall) = section else { return Ok(false) };
        let others = [Backend::Iptables, Backend::Nftables, Backend::Firewalld].into_iter();
        Ok(others.filter(|backend| *backend != firewall.backend).any(|backend| {
            let other = Firewall { backend, ..firewall.clone() };
            // a backend that cannot be read serves nobody
            stands(&other, traces::key(request), host).unwrap_or(false)
        }))
    }

    fn differences(
        &self,
        _conf: &Conf,
        facts: &Facts,
        _host: &mut Host,
        _pod: &mut Kernel,
    ) -> Result<Vec<String>, Error> {
        Ok(facts.found.drops.iter().filter(|drop| drop.is_certain()).map(ToString::to_string).collect())
    }

    fn collect(&self, request: &Request<'_>, host: &mut Host) -> Result<(), Error> {
        let network = request.conf.name.as_str();
        let valid = crate::attach::kept(request);
        let valid: Vec<Key<'_>> =
            valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
        let host = host.kernel()?;
        join([table(), bridge_table()].map(|table| {
            let stale = |comment: Option<&str>| owner::is_stale(comment, network, &valid);
            delete_elements(host, &table, stale).map_err(Error::internal)
        }))
    }

    fn status(&self, conf: &Conf, host: &mut Host) -> Result<(), Error> {
        let missing = |cause: String| Error::new(code::NOT_AVAILABLE, format!("firewall: {cause}"));
        match conf.backend {
            Backend::Nftables => {
                let host = host.kernel()?;
                let found =
                    look(host, &Family::ALL.map(Family::default_net)).map_err(|cause| missing(cause.to_string()))?;
                let certain = found.drops.iter().find(|drop| drop.is_certain());
                let limited =
                    |drop: &forward::Drop| Error::new(code::LIMITED_CONNECTIVITY, format!("firewall: {drop}"));
                certain.map_or(Ok(()), |drop| Err(limited(drop)))
            }
            Backend::Iptables => iptables::usable("filter").map_err(|cause| missing(cause.to_string())),
            Backend::Firewalld => match firewalld::runs() {
                Ok(true) => Ok(()),
                Ok(false) => Err(missing("firewalld does not run".into())),
                Err(error) => Err(Error { code: code::NOT_AVAILABLE, ..by_firewalld(&error) }),
            },
        }
    }
}

fn previous<'r>(request: &'r Request<'_>) -> Result<&'r AddResult, Error> {
    request.conf.prev_result.as_ref().ok_or_else(|| Error::config("missing prevResult from earlier plugin"))
}

fn addresses(previous: &AddResult) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.ip()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The first bridge of the result; upstream takes the first interface, whatever it is.
fn bridge(previous: &AddResult, host: &mut Kernel) -> Result<String, Error> {
    for interface in previous.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = IfName::new(&interface.name) else { continue };
        let seen = host.link(&name).map_err(Error::internal)?;
        if seen.is_some_and(|seen| matches!(seen.link.kind, LinkKind::Bridge(_))) {
            return Ok(interface.name.clone());
        }
    }
    Err(Error::config("prevResult has no bridge, which the ingressPolicy needs: chain \"firewall\" behind \"bridge\""))
}

/// Whether everything of the attachment is there.
fn stands(firewall: &Firewall, key: Key<'_>, host: &mut Host) -> Result<bool, Error> {
    let host = host.kernel()?;
    let missing = match (firewall.backend, firewall.sources()) {
        (_, Some((_, sources))) if !firewalld::runs().map_err(|error| by_firewalld(&error))? => sources,
        (_, Some((zone, sources))) => {
            let zone = if zone.is_empty() { "trusted" } else { zone };
            firewalld::missing(zone, &sources).map_err(|error| by_firewalld(&error))?
        }
        (Backend::Iptables, None) => {
            if !iptables::may_hold(host, &Firewall::removal(&firewall.addresses)) {
                return Ok(false);
            }
            let parts = firewall.iptables().map(|(parts, _)| parts).unwrap_or_default();
            iptables::differences(&parts).map_err(|error| refused(&error))?
        }
        (Backend::Nftables | Backend::Firewalld, None) => Vec::new(),
    };
    let rules = attachment::rules::firewall::rules(key, firewall);
    let nft = rules.iter().map(|rules| rules.differences(host).map_err(Error::internal));
    let nft: Vec<Vec<String>> = nft.collect::<Result<_, _>>()?;
    Ok(missing.is_empty() && nft.iter().all(Vec::is_empty))
}
