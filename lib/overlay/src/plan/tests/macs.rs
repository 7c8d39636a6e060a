//! The MAC address of a VTEP is the device's, then that of the last run's lease, then a new one.

use super::host::Host;

const MAC: &str = "02:00:00:00:00:01";

/// The address that is published by a host with these facts besides the usual ones.
fn published(facts: &[&str]) -> String {
    let mut host = Host::default();
    for line in ["link eth0 index 2 mtu 1500", "address eth0 192.0.2.1/24", "route default via 192.0.2.254 dev eth0"] {
        host.learn(line);
    }
    facts.iter().for_each(|line| host.learn(line));
    let attrs = host.plan().attrs.unwrap().to_json();
    attrs.split(r#""VtepMAC":""#).nth(1).unwrap()[..17].to_owned()
}

fn lease(public: &str) -> String {
    format!(
        r#"lease 10.5.1.0-24 {{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}}}"#
    )
}

#[test]
fn what_the_peers_know_is_kept() {
    let new = "02:00:00:00:00:04";
    let device = format!("link flannel.1 vxlan 1 mac {MAC}");
    let of_last_run = ["previous 10.5.1.0-24", &lease("192.0.2.1")].map(str::to_owned);
    let [previous, lease_of_ours] = [&*of_last_run[0], &*of_last_run[1]];
    assert_eq!(published(&[&device, previous, lease_of_ours]), MAC);
    assert_eq!(published(&[previous, lease_of_ours]), "02:00:00:00:00:02");
    assert_eq!(
        published(&["link flannel.2 vxlan 2 mac 02:00:00:00:00:01", previous, lease_of_ours]),
        "02:00:00:00:00:02"
    );
    // a lease that is not the last run's, or another host's
    assert_eq!(published(&[lease_of_ours]), new);
    assert_eq!(published(&[previous, &lease("192.0.2.9")]), new);
    assert_eq!(published(&[]), new);
    // a link of another kind, and a group address, which is nobody's
    assert_eq!(published(&["link flannel.1 mac 02:00:00:00:00:01"]), new);
    assert_eq!(published(&["link flannel.1 vxlan 1 mac 01:00:5e:00:00:01"]), new);
    // a host that has left vxlan publishes that of the device that is still there
    let left = "link flannel.1 vxlan 1 mac 02:00:00:00:00:01 ours";
    let host_gw = r#"conf {"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let peer = r#"lease 10.5.2.0-24 {"PublicIP":"198.51.100.2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}}"#;
    assert_eq!(published(&[left, host_gw, "own 10.5.1.0-24", peer]), MAC);
}
