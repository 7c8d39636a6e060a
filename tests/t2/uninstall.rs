//! After the last pod and the daemon, `flannelctl clean --all` leaves a host as it was before flannel.

use std::fs;
use std::path::Path;

use flannelctl::clean::{Places, find_all, remove};
use lab::cluster::{Cluster, Spec, host_dir, subnet_file};
use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;
use tests::harness;

use crate::disturb::run;
use crate::{Failure, Outcome};

/// What an administrator sees: links with their aliases, routes, packet rules.
fn seen(room: &Room) -> Result<String, Failure> {
    let routes = [run(room, "ip route show table all")?, run(room, "ip -6 route show")?].concat();
    let links = run(room, "ip -o link")?;
    let names: String =
        links.lines().filter_map(|line| line.split(": ").nth(1)).map(|name| format!("{name}\n")).collect();
    // a host that forwards has them (RFC 4291, 2.6.1); the settings of flanneld stay
    let routes: String =
        routes.lines().filter(|line| !line.starts_with("anycast ")).map(|line| format!("{line}\n")).collect();
    Ok([names, routes, run(room, "nft list ruleset")?].join("\n"))
}

/// A host with direct routes and tunnels; the other hosts' daemons stay.
pub fn nothing_of_the_network_is_left() -> Outcome {
    let spec =
        Spec { topology: Topology::every_third_routed(3), mode: Mode::DirectRouting, dual_stack: true, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let before = seen(cluster.world.host(1)?)?;
    cluster.start_daemon_with(1, &["--ip-masq"])?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    cluster.attach_pods()?;
    cluster.wait_paths(Mode::DirectRouting)?;
    cluster.detach_pods()?;
    cluster.take_daemon(1)?.kill()?;

    let room = cluster.world.host(1)?;
    // another program's
    run(room, "ip link add flannel-not type bridge")?;
    let mut kernel = room.kernel()?;
    let places = Places { records: attachment::record::DIRECTORY.into(), states: host_dir(1).join("flannel") };
    let left = find_all(&mut kernel, &places, &subnet_file(1))?;
    let texts: Vec<String> = left.iter().map(ToString::to_string).collect();
    for part in
        ["ip link del flannel.1", "ip link del cni0", "nft delete table ip flannel-ipv4", "ip route del 10.", "rm "]
    {
        assert!(texts.iter().any(|text| text.starts_with(part)), "{part}: {texts:#?}");
    }
    left.iter().try_for_each(|left| remove(&mut kernel, &places, left))?;
    assert_eq!(find_all(&mut kernel, &places, &subnet_file(1))?, []);
    run(room, "ip link del flannel-not")?;
    assert_eq!(seen(room)?, before);
    let files: Vec<_> = fs::read_dir(subnet_file(1).parent().unwrap_or(Path::new("/")))?.collect::<Result<_, _>>()?;
    assert!(
        files.iter().all(|file| file.file_name() != "subnet.env" && file.file_name() != "status.json"),
        "{files:?}"
    );
    Ok(())
}
