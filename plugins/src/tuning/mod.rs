//! `tuning` sets kernel parameters of a pod's namespace, and the MAC address, MTU, modes and queue length of its
//! interface. DEL restores the interface's settings.

mod backup;
mod conf;
mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use attachment::Key;
use attachment::record::Record;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::state::{Link, Scope, State};
use kernel::types::IfName;
use kernel::{Failure, Kernel};

use crate::attach::{Chained, Host, Side, Sides, join};
use crate::traces;
use backup::Backup;
use conf::{Conf, data_dir};

/// The plugin.
pub struct Tuning;

/// The interface and the parameters as they are.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    link: Option<(IfName, Link)>,
    sysctls: BTreeMap<String, String>,
    /// The parameters that can be written and not read.
    secret: Vec<String>,
}

impl Chained for Tuning {
    type Conf = Conf;
    type Facts = Facts;

    fn name(&self) -> &'static str {
        "tuning"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        Conf::read(request.conf.tree(), &request.env.args, &request.env.ifname)
    }

    fn facts(&self, conf: &Conf, request: &Request<'_>, _host: &mut Host, pod: &mut Kernel) -> Result<Facts, Error> {
        previous(request)?;
        let name = IfName::new(&request.env.ifname).map_err(failed)?;
        let seen = pod.link(&name).map_err(failed)?;
        let seen = seen.ok_or_else(|| failed(format_args!("failed to get \"{name}\": Link not found")))?;
        let mut facts = Facts { link: Some((name, seen.link)), ..Facts::default() };
        let keys: Vec<&str> = conf.sysctls.keys().map(String::as_str).collect();
        for (key, value) in keys.iter().zip(pod.parameters(&keys).map_err(failed)?) {
            match value {
                Ok(Some(value)) => drop(facts.sysctls.insert((*key).to_owned(), value)),
                Ok(None) => return Err(failed(format_args!("the kernel has no parameter {key} here"))),
                Err(error) if error.is_unreadable() => facts.secret.push((*key).to_owned()),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(facts)
    }

    fn desired(&self, conf: &Conf, facts: &Facts, _request: &Request<'_>) -> Result<Sides, Error> {
        let Some((name, link)) = &facts.link else { return Ok(Sides::default()) };
        let tuned = &conf.link;
        let wanted = Link {
            mac: tuned.mac,
            mtu: tuned.mtu,
            promisc: tuned.promisc,
            allmulti: tuned.allmulti,
            queue_len: tuned.queue_len,
            ..backup::unchanged(link)
        };
        let state = |link: Link, sysctls| State { links: [(name.clone(), link)].into(), sysctls, ..State::default() };
        let readable = conf.sysctls.iter().filter(|(key, _)| facts.sysctls.contains_key(*key));
        let wanted = state(wanted, readable.map(|(key, value)| (key.clone(), value.clone())).collect());
        let known = state(link.clone(), facts.sysctls.clone());
        let sysctls = facts.sysctls.keys().cloned().collect();
        let scope = Scope { read_links: vec![name.clone()], sysctls, ..Scope::default() };
        let pod = Side { wanted, scope, known: Some(known) };
        Ok(Sides { pod, ..Sides::default() })
    }

    /// Stores what DEL restores, and writes parameters that cannot be read, such as `net.ipv4.route.flush`.
    fn prepare(&self, conf: &Conf, facts: &Facts, request: &Request<'_>, pod: &mut Kernel) -> Result<(), Error> {
        sysctl::check_allowed(Path::new(sysctl::ALLOWED), &conf.names)?;
        let of_key = |key: &String| Some((key.clone(), conf.sysctls.get(key)?.clone()));
        let secret = State { sysctls: facts.secret.iter().filter_map(of_key).collect(), ..State::default() };
        converge(pod, &secret, State::default()).map_err(failed)?;
        let before = facts.link.as_ref().and_then(|(_, link)| Backup::of(link, &conf.link, &request.conf.name));
        let Some(before) = before else { return Ok(()) };
        let netns = pod.netns().and_then(|netns| netns.id().ok()).map_or(0, |(_, inode)| inode);
        let file = backup::file(&conf.data_dir, traces::key(request));
        let of_file = |cause| failed(format_args!("read {}: {cause}", file.display()));
        let earlier = backup::read(&file).map_err(of_file)?.unwrap_or_default();
        backup::write(&file, &before.of_netns(netns).after(earlier))
            .map_err(|cause| failed(format_args!("write {}: {cause}", file.display())))
    }

    fn released(&self, _request: &Request<'_>, _record: Option<&Record>) -> Sides {
        Sides::default()
    }

    fn restore(&self, request: &Request<'_>, pod: Option<&mut Kernel>) -> Result<(), Error> {
        let file = backup::file(&data_dir(request.conf.tree()), traces::key(request));
        let of_file = |doing: &str, cause| failed(format_args!("{doing} {}: {cause}", file.display()));
        if let (Some(before), Some(pod)) = (backup::read(&file).map_err(|cause| of_file("read", cause))?, pod) {
            restore_link(request, pod, &before)?;
        }
        backup::remove(&file).map_err(|cause| of_file("remove", cause))
    }

    fn answer(
        &self,
        conf: &Conf,
        _facts: &Facts,
        request: &Request<'_>,
        _pod: &mut Kernel,
    ) -> Result<AddResult, Error> {
        let mut answer = previous(request)?.clone();
        let own = answer.interfaces.iter_mut().filter(|i| i.name == request.env.ifname && !i.sandbox.is_empty());
        for interface in own {
            if let Some(mac) = conf.link.mac {
                interface.mac = mac.to_string();
            }
            if let Some(mtu) = conf.link.mtu {
                interface.mtu = mtu.0;
            }
        }
        Ok(answer)
    }

    fn collect(&self, request: &Request<'_>, _host: &mut Host) -> Result<(), Error> {
        let (folder, network) = (data_dir(request.conf.tree()), request.conf.name.as_str());
        let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
        let valid: Vec<Key<'_>> =
            valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
        let stale = backup::stale(&folder, network, &valid);
        let stale = stale.map_err(|cause| failed(format_args!("list {}: {cause}", folder.display())))?;
        join(stale.iter().map(|file| {
            backup::remove(file).map_err(|cause| failed(format_args!("remove {}: {cause}", file.display())))
        }))
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format_args!("tuning: {error}"))
}

fn previous<'a>(request: &'a Request<'_>) -> Result<&'a AddResult, Error> {
    request.conf.prev_result.as_ref().ok_or_else(|| Error::config("Required prevResult missing"))
}

/// Restores the interface's settings, if it still exists. One that the kernel does not accept any more stays as it is.
///
/// # Errors
/// Those that may be gone when DEL is called again.
fn restore_link(request: &Request<'_>, pod: &mut Kernel, before: &Backup) -> Result<(), Error> {
    let name = IfName::new(&request.env.ifname).map_err(failed)?;
    let Some(seen) = pod.link(&name).map_err(failed)? else { return Ok(()) };
    let with = |link: Link| State { links: [(name.clone(), link)].into(), ..State::default() };
    // one that the kernel refuses does not prevent the others
    join(before.links(&seen.link).into_iter().map(|link| match converge(pod, &with(link), with(seen.link.clone())) {
        Err(Failure::Kernel(error)) if error.is_retryable() => Err(failed(error)),
        Err(error) => {
            request.warn("tuning", format_args!("not restored: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }))
}

/// Makes the pod's objects as wanted, where `known` is all there is of them.
fn converge(pod: &mut Kernel, wanted: &State, known: State) -> Result<(), Failure> {
    pod.converge(wanted, &Scope::default(), Some(known.into()))?.ok().map(drop)
}
