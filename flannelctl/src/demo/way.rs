//! The way of one ping, captured at each interface that it passes.

use std::time::Duration;

use kernel::types::Family;

use super::DemoError;
use super::report::{first_pair, vxlan_device};
use crate::screen::Screen;
use lab::capture::{Echo, Place, Sight, Tap, follow};
use lab::cluster::Cluster;
use lab::mode::{Mode, Path};
use lab::{Doing, Error};

/// flannel's default port on Linux: it leaves out IFLA_VXLAN_PORT, and this is the kernel's default.
const VXLAN_PORT: u16 = 8472;
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows the way of a ping for each path that `mode` has.
pub(super) fn show_each(cluster: &Cluster, mode: Mode, screen: &mut Screen) -> Result<(), DemoError> {
    for path in [Path::Vxlan, Path::Direct] {
        show_first(cluster, mode, path, screen)?;
    }
    Ok(())
}

/// Shows the way of a ping for each path that `mode` has and `before` does not.
pub(super) fn show_news(cluster: &Cluster, before: Mode, mode: Mode, screen: &mut Screen) -> Result<(), DemoError> {
    for path in [Path::Vxlan, Path::Direct] {
        if first_pair(cluster, before, path).is_none() {
            show_first(cluster, mode, path, screen)?;
        }
    }
    Ok(())
}

fn show_first(cluster: &Cluster, mode: Mode, path: Path, screen: &mut Screen) -> Result<(), DemoError> {
    let Some((from, to)) = first_pair(cluster, mode, path) else { return Ok(()) };
    for family in cluster.families() {
        let sights = capture(cluster, (from, to), *family, path)?;
        screen
            .title(format_args!("The way of a ping from pod{from} to pod{to} ({mode}: {path}), leaving host{from}"))?;
        screen.table(["at", "bytes", "headers"], &rows(&sights))?;
        screen.line(format_args!("  {}", difference(&sights)))?;
    }
    Ok(())
}

/// Captures at every interface on the way out of the host, sends one echo, and returns the frames of its request.
fn capture(cluster: &Cluster, (from, to): (usize, usize), family: Family, path: Path) -> Result<Vec<Sight>, Error> {
    let pod = cluster.pod(from)?;
    let tunnel = (path == Path::Vxlan).then(|| vxlan_device(family));
    let interfaces = [&pod.veth, "cni0"].into_iter().chain(tunnel).chain(["eth0"]);
    let host = cluster.world.host(from)?;
    let places = host.enter(|| interfaces.map(listen).collect::<Result<Vec<_>, _>>())??;
    let mut pinger = cluster.pinger(from, to, family)?;
    pinger.echo(PATIENCE).doing(format_args!("ping pod{to} from pod{from}"))?;
    follow(&places, Echo { request: true, id: pinger.id, seq: pinger.seq() }, VXLAN_PORT, PATIENCE)
}

fn listen(interface: &str) -> Result<Place, Error> {
    let tap = Tap::open(interface).doing(format_args!("listen at {interface}"))?;
    Ok(Place { name: interface.to_owned(), tap })
}

fn rows(sights: &[Sight]) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for sight in sights {
        let (place, bytes) = (sight.place.clone(), sight.frame.length().to_string());
        match &sight.frame.outer {
            None => rows.push([place, bytes, sight.frame.inner.to_string()]),
            Some((outer, vni)) => {
                rows.push([place, bytes, format!("outer {outer}  VXLAN VNI {vni}")]);
                let inner = sight.frame.inner.length.to_string();
                rows.push([String::new(), inner, format!("inner {}", sight.frame.inner)]);
            }
        }
    }
    rows
}

/// The difference in length between the underlay's frame and the pod's.
fn difference(sights: &[Sight]) -> String {
    let (Some(pod), Some(wire)) = (sights.first(), sights.last()) else { return String::new() };
    let (pod, added) = (pod.frame.length(), wire.frame.length() - pod.frame.length());
    match &wire.frame.outer {
        None => format!("the bare ICMP is on the underlay: {pod} bytes in, {} out", wire.frame.length()),
        Some((outer, _)) => {
            let ip = if outer.ips.0.is_ipv4() { "20 IPv4" } else { "40 IPv6" };
            format!("VXLAN adds {added} bytes: 14 Ethernet + {ip} + 8 UDP + 8 VXLAN")
        }
    }
}
