//! The demo's tables.

use std::time::Duration;

use kernel::types::{Family, IfName, Mac};

use super::{DemoError, by_right};
use crate::screen::Screen;
use lab::cluster::{Cluster, host_dir, subnet_file};
use lab::mode::{Mode, Path};
use lab::ping::best_of;
use lab::sandbox::Right;
use lab::{Doing, Error};

/// The limit of a ping. A reply normally takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows each host's underlay address, lease and VTEP.
pub(super) fn hosts(cluster: &Cluster, screen: &mut Screen) -> Result<(), DemoError> {
    screen.title(format_args!("Hosts (backend {})", cluster.spec.mode))?;
    let mut rows = Vec::new();
    for host in cluster.spec.topology.hosts() {
        let status = Cluster::status(host).unwrap_or_default();
        let segment = cluster.spec.topology.segment_of(host).unwrap_or_default();
        let place = format!("{segment}{}", if segment == 1 { "" } else { " (routed)" });
        let (vteps, pods) = (vteps(cluster, host)?, &cluster.pod(host)?.addresses);
        for family in 0..cluster.families().len() {
            let [name, place] =
                if family == 0 { [format!("host{host}"), place.clone()] } else { <[String; 2]>::default() };
            let (underlay, subnet) = (nth(&status.public_ips, family), nth(&status.subnets, family));
            rows.push([name, place, underlay, subnet, nth(&vteps, family), nth(pods, family)]);
        }
    }
    Ok(screen.table(["host", "segment", "underlay", "leased subnet", "VTEP", "pod"], &rows)?)
}

/// The text of an item; `-` if there is none.
fn nth<T: ToString>(items: &[T], n: usize) -> String {
    items.get(n).map_or_else(|| "-".into(), T::to_string)
}

/// The MAC addresses of the host's VXLAN devices, by family.
fn vteps(cluster: &Cluster, host: usize) -> Result<Vec<Mac>, Error> {
    let mut kernel = cluster.world.host(host)?.kernel()?;
    let mut macs = Vec::new();
    for family in cluster.families() {
        let device = IfName::new(vxlan_device(*family)).doing("name the VXLAN device")?;
        let seen = kernel.link(&device).doing(format_args!("read {device} on host{host}"))?;
        macs.extend(seen.and_then(|seen| seen.link.mac));
    }
    Ok(macs)
}

/// Upstream's name of the VXLAN device for VNI 1.
pub(super) fn vxlan_device(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

/// Pings from every pod to every other. Returns what failed.
pub(super) fn pairs(cluster: &Cluster, mode: Mode, screen: &mut Screen) -> Result<Vec<String>, DemoError> {
    screen.title(format_args!("Every pod pings every other ({mode})"))?;
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (from, to) in cluster.pairs() {
        for family in cluster.families() {
            let path = cluster.path(from, to, *family)?;
            let addr = cluster.address(to, *family)?;
            let rtt = best_of(&mut cluster.pinger(from, to, *family)?, 3, PATIENCE);
            let rtt = rtt.map(|rtt| format!("{:.3} ms", rtt.as_secs_f64() * 1e3)).unwrap_or_else(|error| {
                failures.push(format!("pod{from} got no echo from pod{to} ({addr}): {error}"));
                error.to_string()
            });
            let want = mode.path(cluster.spec.topology.on_one_segment(from, to));
            if path != want {
                failures.push(format!("pod{from} to pod{to}: the path is {path}, not {want}"));
            }
            rows.push([format!("pod{from}"), format!("pod{to}"), addr.to_string(), path.to_string(), rtt]);
        }
    }
    screen.table(["from", "to", "address", "path", "round trip"], &rows)?;
    Ok(failures)
}

/// What remains on the hosts of detached pods.
pub(super) fn left_of_pods(cluster: &Cluster) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for host in cluster.spec.topology.hosts() {
        let links = cluster.world.host(host)?.kernel()?.links().doing(format_args!("list the links of host{host}"))?;
        let foreign = links.iter().filter(|link| link.name.as_str().starts_with("veth"));
        left.extend(foreign.map(|link| format!("link {} on host{host}", link.name)));
        for folder in ["networks/lab", "flannel", "results"] {
            let dir = host_dir(host).join("cni").join(folder);
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            // host-local's two other files, which reserve no address
            let kept = |name: &String| name != "lock" && !name.starts_with("last_reserved_ip");
            left.extend(names.filter(kept).map(|name| format!("{}/{name}", dir.display())));
        }
    }
    Ok(left)
}

/// Prints how to enter the network that is left up, and how to end it.
pub(super) fn how_to_enter(cluster: &Cluster, right: Right, screen: &mut Screen) -> Result<(), DemoError> {
    screen.title(format_args!("Left up ({})", by_right(right)))?;
    let user = if right == Right::UserNamespace { "--user --preserve-credentials " } else { "" };
    let pids: Vec<_> = cluster.pids().collect();
    for (host, pid) in &pids {
        screen.line(format_args!("  host{host}: nsenter {user}--mount --net --target {pid}"))?;
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "flannelctl".into());
    screen.line("  there:")?;
    screen.line("    ip netns exec pod1 COMMAND    runs in the pod; files and logs are in /run/lab")?;
    screen.line(format_args!("    {} status --subnet-file {}", program.display(), subnet_file(1).display()))?;
    let all: Vec<_> = pids.iter().map(|(_, pid)| pid.to_string()).collect();
    screen.line(format_args!("  to remove it: kill {}", all.join(" ")))?;
    Ok(())
}

/// The first ordered pair whose path is `path`.
pub(super) fn first_pair(cluster: &Cluster, mode: Mode, path: Path) -> Option<(usize, usize)> {
    let is = |(from, to): &(usize, usize)| mode.path(cluster.spec.topology.on_one_segment(*from, *to)) == path;
    cluster.pairs().into_iter().filter(is).max_by_key(|(from, to)| {
        // a path through the router shows more; then host 1 first
        (!cluster.spec.topology.on_one_segment(*from, *to), std::cmp::Reverse((*from, *to)))
    })
}
