//! Programs that manage a host's links: what they do to flanneld's objects is undone, and what they own stays theirs.
//!
//! Each drill runs the commands that such a program effectively runs. conf/ has the files that keep it from doing so.

use std::process::Command;
use std::time::Duration;

use kernel::types::Family;
use lab::cluster::Cluster;
use lab::mode::Mode;
use lab::topology::Topology;

use crate::disturb::{cluster, repaired, rests};
use crate::{Failure, Outcome};

/// How long an echo may take.
const ECHO: Duration = Duration::from_millis(500);

/// A cluster, and what its host 1 looks like.
struct Host {
    cluster: Cluster,
    before: String,
}

impl Host {
    fn new(mode: Mode, dual_stack: bool) -> Result<Self, Failure> {
        let cluster = cluster(Topology::flat(2), mode, dual_stack)?;
        let mut host = Self { cluster, before: String::new() };
        host.before = host.look()?;
        Ok(host)
    }

    fn sh(&self, script: &str) -> Result<String, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("VETH", &self.cluster.pod(1)?.veth);
        let output = self.cluster.world.host(1)?.enter(|| command.output())??;
        if !output.status.success() {
            return Err(format!("`{script}`: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Our devices and their addresses, the pods' ports, and all routes that are not the kernel's.
    fn look(&self) -> Result<String, Failure> {
        self.sh(
            "for dev in $(ls /sys/class/net | grep '^flannel\\|^cni\\|^veth'); do
               ip -o link show $dev | sed 's/.*mtu/mtu/; s/state [A-Z]* //; s/link-netns.*//'; ip -o addr show $dev scope global
             done | sed 's/^[0-9]*://'
             (ip route show; ip -6 route show) | grep 'proto 70\\|cni0' | grep -v ^fe80 | sort",
        )
    }

    /// Runs the commands, and waits until the host is as before and pods reach each other both ways.
    fn survives(&self, what: &str, script: &str) -> Outcome {
        self.sh(script)?;
        repaired(what, || {
            let now = self.look()?;
            if now != self.before {
                return Ok(Some(format!("{now}\nand before\n{}", self.before)));
            }
            for (from, to) in [(1, 2), (2, 1)] {
                for family in self.cluster.families() {
                    if let Err(error) = self.cluster.pinger(from, to, *family)?.echo(ECHO) {
                        return Ok(Some(format!("pod{from} to pod{to} {family:?}: {error}")));
                    }
                }
            }
            Ok(None)
        })
    }
}

/// systemd-networkd with `ManageForeignRoutes=yes`, its default, deletes the routes of a link that it configures and that
/// none of its files name; so it does at each start, at `networkctl reload` and at a new lease of DHCP.
const FOREIGN_ROUTES: &str = "for dev in eth0 $(ls /sys/class/net | grep '^flannel'); do
       ip route flush dev $dev proto 70; ip -6 route flush dev $dev proto 70
     done";

fn networkd_deletes_foreign_routes(mode: Mode, dual_stack: bool) -> Outcome {
    let host = Host::new(mode, dual_stack)?;
    for time in ["first", "second", "third"] {
        host.survives(&format!("{mode}: the routes that networkd deletes for the {time} time"), FOREIGN_ROUTES)?;
    }
    Ok(())
}

pub fn networkd_deletes_the_routes_of_host_gw() -> Outcome {
    networkd_deletes_foreign_routes(Mode::HostGw, true)
}

pub fn networkd_deletes_the_routes_of_vxlan() -> Outcome {
    networkd_deletes_foreign_routes(Mode::Vxlan, true)
}

/// A file with `[Match] Name=*`: networkd takes every link. It drops the addresses and routes that the file does not name,
/// asks for addresses of DHCP and of routers, and sets the link up.
pub fn networkd_takes_every_link() -> Outcome {
    let host = Host::new(Mode::Vxlan, true)?;
    host.survives(
        "the links that networkd takes",
        "for dev in flannel.1 flannel-v6.1 cni0; do
           echo 0 > /proc/sys/net/ipv6/conf/$dev/accept_ra; echo 1 > /proc/sys/net/ipv6/conf/$dev/proxy_ndp
           ip addr flush dev $dev scope global; ip route flush dev $dev; ip -6 route flush dev $dev proto 70
           ip link set $dev up
         done",
    )
}

/// udev's `MACAddressPolicy=persistent` (99-default.link) gives a link a MAC address made from the machine's ID and the
/// link's name, as soon as the link is there.
pub fn udev_gives_links_other_macs() -> Outcome {
    let host = Host::new(Mode::Vxlan, true)?;
    host.survives(
        "the MAC addresses that udev sets",
        "ip link set flannel.1 address 02:11:11:11:11:01; ip link set flannel-v6.1 address 02:11:11:11:11:02
         ip link set cni0 address 02:11:11:11:11:03; ip link set $VETH address 02:11:11:11:11:04",
    )
}

/// The same to a device that has just been made.
pub fn udev_gives_a_new_device_another_mac() -> Outcome {
    let host = Host::new(Mode::Vxlan, false)?;
    host.survives(
        "the MAC address that udev sets on a new device",
        "ip link del flannel.1
         for i in $(seq 300); do ip link set flannel.1 address 02:11:11:11:11:01 2>/dev/null && break; done; :",
    )
}

/// NetworkManager activates the uplink: it brings the link down and up, and syncs addresses and routes with its profile.
pub fn networkmanager_activates_the_uplink() -> Outcome {
    let host = Host::new(Mode::HostGw, false)?;
    let address = host.cluster.spec.topology.underlay(1, Family::V4).ok_or("no address")?;
    rests(host.cluster.world.host(1)?)?;
    host.survives(
        "what NetworkManager does to the uplink",
        &format!(
            "gateway=$(ip route show default); ip link set eth0 down; ip addr flush dev eth0; ip link set eth0 up
             ip addr add {address}/24 brd + dev eth0; [ -z \"$gateway\" ] || ip route replace $gateway
             ip route flush dev eth0 proto 70"
        ),
    )
}

/// NetworkManager takes a device that no file leaves unmanaged: it removes what its profile does not have.
pub fn networkmanager_takes_the_devices() -> Outcome {
    let host = Host::new(Mode::Vxlan, false)?;
    host.survives(
        "the devices that NetworkManager takes",
        "for dev in flannel.1 cni0; do ip link set $dev down; ip addr flush dev $dev; ip link set $dev up; done",
    )
}
