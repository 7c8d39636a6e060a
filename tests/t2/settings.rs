//! Settings of the host and of the VXLAN device without which nothing, or not everything, is carried.

use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;

use crate::disturb::{cluster, repaired_or_said, run, set_sysctl, sysctl};
use crate::{Failure, Outcome};

/// After the sysctl was written it has its value again, or the daemon says what is wrong.
fn is_set_again(dual_stack: bool, path: &str, wrong: &str) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, dual_stack)?;
    let room = cluster.world.host(1)?;
    let before = sysctl(room, path)?;
    assert_ne!(before, wrong, "{path}");
    set_sysctl(room, path, wrong)?;
    repaired_or_said(&cluster, &format!("{path} after somebody wrote {wrong}"), || {
        let now = sysctl(room, path)?;
        Ok((now != before).then(|| format!("{now}, and before {before}")))
    })
}

pub fn ip_forward() -> Outcome {
    is_set_again(false, "net/ipv4/ip_forward", "0")
}

pub fn forwarding_of_the_device() -> Outcome {
    is_set_again(false, "net/ipv4/conf/flannel.1/forwarding", "0")
}

pub fn forwarding_of_the_underlay() -> Outcome {
    is_set_again(false, "net/ipv4/conf/eth0/forwarding", "0")
}

pub fn forwarding_of_ipv6() -> Outcome {
    is_set_again(true, "net/ipv6/conf/all/forwarding", "0")
}

pub fn disable_ipv6_of_the_device() -> Outcome {
    is_set_again(true, "net/ipv6/conf/flannel-v6.1/disable_ipv6", "1")
}

/// What `ip` shows of the device, without what counts or comes and goes.
fn shown(room: &Room) -> Result<String, Failure> {
    let text = run(room, "ip -d link show dev flannel.1")?;
    Ok(text.split_once(": ").map(|(_, rest)| rest.to_owned()).unwrap_or(text))
}

/// After the commands `ip` shows the device as before, or the daemon says what is wrong.
fn is_as_before(lines: &[&str]) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let room = cluster.world.host(1)?;
    let before = shown(room)?;
    for line in lines {
        run(room, line)?;
    }
    let last = lines.last().copied().unwrap_or_default();
    repaired_or_said(&cluster, &format!("flannel.1 after `{last}`"), || {
        let now = shown(room)?;
        Ok((now != before).then(|| format!("{now}and before {before}")))
    })
}

pub fn ttl_of_the_device() -> Outcome {
    is_as_before(&["ip link set dev flannel.1 type vxlan ttl 1"])
}

pub fn master_of_the_device() -> Outcome {
    is_as_before(&["ip link add br9 type bridge", "ip link set dev flannel.1 master br9"])
}

pub fn arp_of_the_device() -> Outcome {
    is_as_before(&["ip link set dev flannel.1 arp off"])
}

pub fn multicast_of_the_device() -> Outcome {
    is_as_before(&["ip link set dev flannel.1 multicast off"])
}

pub fn mtu_of_the_device() -> Outcome {
    is_as_before(&["ip link set dev flannel.1 mtu 1300"])
}
