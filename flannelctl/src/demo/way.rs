//! The way of one ping, captured at each interface that it passes.

use std::time::Duration;

use kernel::types::Family;

use super::DemoError;
use super::report::{first_pair, vxlan_device};
use crate::screen::Screen;
use lab::capture::{Echo, Headers, Place, Sight, Tap, follow};
use lab::cluster::Cluster;
use lab::mode::{Mode, Path};
use lab::{Doing, Error};

/// flannel's default port on Linux: it leaves out IFLA_VXLAN_PORT, and this is the kernel's default.
const VXLAN_PORT: u16 = 8472;
const PATIENCE: Duration = Duration::from_secs(2);
/// The most characters of a frame's headers in a line: with the other columns it has at most 100.
const LONGEST: usize = 77;

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
        // as many interfaces on the one host as on the other
        let (leaving, arriving) = sights.split_at(sights.len() / 2);
        screen.title(format_args!("The way of an ICMP echo request from pod{from} to pod{to} ({mode}: {path})"))?;
        screen.table([&format!("out of host{from}"), "bytes", "headers"], &rows(leaving))?;
        screen.table([&format!("into host{to}"), "bytes", "headers"], &rows(arriving))?;
        screen.line(format_args!("  {}", difference(leaving)))?;
    }
    Ok(())
}

/// Captures at every interface on the way out of the one host and into the other, sends one echo, and returns the frames
/// of its request.
fn capture(cluster: &Cluster, (from, to): (usize, usize), family: Family, path: Path) -> Result<Vec<Sight>, Error> {
    let mut places = listen_on(cluster, from, family, path)?;
    places.extend(listen_on(cluster, to, family, path)?.into_iter().rev());
    let mut pinger = cluster.pinger(from, to, family)?;
    pinger.echo(PATIENCE).doing(format_args!("ping pod{to} from pod{from}"))?;
    follow(&places, Echo { request: true, id: pinger.id, seq: pinger.seq() }, VXLAN_PORT, PATIENCE)
}

/// Captures at the interfaces of a host, from its pod to the underlay.
fn listen_on(cluster: &Cluster, host: usize, family: Family, path: Path) -> Result<Vec<Place>, Error> {
    let pod = cluster.pod(host)?;
    let tunnel = (path == Path::Vxlan).then(|| vxlan_device(family));
    let interfaces = [&pod.veth, "cni0"].into_iter().chain(tunnel).chain(["eth0"]);
    cluster.world.host(host)?.enter(|| interfaces.map(listen).collect())?
}

fn listen(interface: &str) -> Result<Place, Error> {
    let tap = Tap::open(interface).doing(format_args!("listen at {interface}"))?;
    Ok(Place { name: interface.to_owned(), tap })
}

fn rows(sights: &[Sight]) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for sight in sights {
        let (inner, place) = (&sight.frame.inner, sight.place.clone());
        match &sight.frame.outer {
            None => add(&mut rows, place, inner, ""),
            Some((outer, vni)) => {
                add(&mut rows, place, outer, "outer ");
                let (source, destination) = outer.ports.unwrap_or_default();
                let text = format!("outer UDP {source} > {destination}  VXLAN VNI {vni}");
                rows.push([String::new(), String::new(), text]);
                add(&mut rows, String::new(), inner, "inner ");
            }
        }
    }
    rows
}

/// Adds the headers of one frame: in one line, or in two if they are longer than `LONGEST`.
fn add(rows: &mut Vec<[String; 3]>, place: String, headers: &Headers, before: &str) {
    let macs = format!("{before}{} > {}", headers.macs.0, headers.macs.1);
    let ips = format!("{} > {} ttl {}", headers.ips.0, headers.ips.1, headers.ttl);
    let bytes = headers.length.to_string();
    if macs.len() + 2 + ips.len() <= LONGEST {
        rows.push([place, bytes, format!("{macs}  {ips}")]);
    } else {
        rows.push([place, bytes, macs]);
        rows.push([String::new(), String::new(), format!("{before}{ips}")]);
    }
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

#[cfg(test)]
mod tests {
    use kernel::types::Mac;
    use lab::capture::Decoded;

    use super::*;
    use crate::screen::align;

    #[test]
    fn a_frame_fits_a_hundred_columns() {
        for (address, lines) in [("10.244.174.253", 4), ("fd10:244:0:f221::2", 5)] {
            let headers = Headers {
                macs: (Mac([0xfe; 6]), Mac([0xfe; 6])),
                ips: (address.parse().unwrap(), address.parse().unwrap()),
                ttl: 64,
                ports: Some((65535, VXLAN_PORT)),
                echo: None,
                length: 1500,
            };
            let frame = Decoded { outer: Some((headers.clone(), 9_999_999)), inner: headers };
            let text =
                align(["out of host10", "bytes", "headers"], &rows(&[Sight { place: "veth9f271f5b".into(), frame }]));
            assert!(text.len() >= lines && text.iter().all(|line| line.len() <= 98), "{text:#?}");
        }
    }
}
