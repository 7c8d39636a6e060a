//! Targets: the command line, and files of this host that other programs or versions may have written.

#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use attachment::record::Record;
use attachment::reservations::recode_index;
use attachment::rules::owner;
use attachment::rules::portmap::check_conditions;
use cni::error::Error;
use cni::plugin::serve;
use flanneld::flags;
use kernel::types::Family;
use overlay::status::Status;
use plugins::attach::Addresses;
use plugins::flannel;
use plugins::host_local::HostLocal;
use serde_json::json;

use super::owned;

/// status.json, read as flannelctl and the plugins do.
pub fn status(bytes: &[u8]) {
    let Ok(status) = serde_json::from_slice::<Status>(bytes) else { return };
    let text = serde_json::to_vec(&status).unwrap();
    assert_eq!(serde_json::from_slice::<Status>(&text).unwrap(), status);
    assert!(gojson::Json::parse(&text).is_ok());
}

pub fn status_seeds() -> Vec<Vec<u8>> {
    let peer =
        json!({ "subnet": "10.5.2.0/24", "publicIP": "192.0.2.2", "path": "vxlan", "reason": "r", "vtepMAC": null });
    let full = json!({
        "pid": 7, "backend": "vxlan", "directRouting": true, "network": ["10.5.0.0/16"], "subnets": ["10.5.1.0/24"],
        "publicIPs": ["192.0.2.1"], "underlay": { "dev": "eth0", "mtu": 1500 }, "mtu": 1450, "peers": [peer],
        "rejected": [{ "key": "x", "reason": "y" }], "lastError": "e", "lastReconcile": "2026-11-25T00:00:00Z",
    });
    vec![full.to_string().into_bytes(), b"{}".to_vec()]
}

/// An argument per line. Lines that start with `FLANNELD_` and contain `=` are the environment.
pub fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (environment, args): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("FLANNELD_"));
    let pairs = environment.iter().filter_map(|line| line.split_once('='));
    let environment: BTreeMap<String, String> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    match flags::parse(&args, &environment) {
        // the same words have the same meaning again
        Ok(command) => {
            assert_eq!(format!("{:?}", flags::parse(&args, &environment).unwrap()), format!("{command:?}"));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub fn flags_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "-store-dir=/s\n--iface=eth0\n-iface\neth1\n--v=2\nFLANNELD_PUBLIC_IP=192.0.2.1",
        "--store-dir\n/s\n-iface-regex=10\\.\n-subnet-lease-renew-margin=30\n--ip-masq=true",
        "--etcd-endpoints=http://x\n-kube-subnet-mgr\n--version\n-h",
    ])
}

/// The content of a reservation of 10.1.0.2 before a zero byte, and of `last_reserved_ip.0` after it. For any content,
/// the next ADD gets a reply, and never an address that another container may have.
pub fn reservations(bytes: &[u8]) {
    let (reservation, last) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    let dir = tempfile::tempdir().unwrap();
    let network = dir.path().join("net");
    fs::create_dir(&network).unwrap();
    fs::write(network.join("10.1.0.2"), reservation).unwrap();
    fs::write(network.join("last_reserved_ip.0"), last.get(1..).unwrap_or_default()).unwrap();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net",
        "ipam": { "type": "host-local", "dataDir": dir.path(), "subnet": "10.1.0.0/29" },
    });
    let taken = std::str::from_utf8(reservation).map_or(true, |text| !text.trim().is_empty());
    let mut given = Vec::new();
    for n in 0..5 {
        let (code, answer) = call("ADD", &format!("container{n}"), &conf.to_string());
        if code == 0 {
            given.push(answer.split('"').find(|part| part.starts_with("10.1.0.")).unwrap().to_owned());
        }
    }
    given.sort();
    given.dedup();
    // five addresses, one of which may be taken
    assert_eq!(given.len(), if taken { 4 } else { 5 }, "{given:?}");
    assert!(!taken || !given.contains(&"10.1.0.2/29".to_owned()));
}

fn call(command: &str, id: &str, conf: &str) -> (u8, String) {
    let vars = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => id,
            "CNI_NETNS" => "/no/such/netns",
            "CNI_IFNAME" => "eth0",
            "CNI_PATH" => "/no/such/path",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = serve(&Addresses(HostLocal), &[], &vars, &mut conf.as_bytes(), &mut out, &mut err);
    if status != 0 {
        let error: Error = gojson::decode(&out).unwrap();
        assert!(!error.msg.starts_with("panic"), "{error}");
    }
    (status, String::from_utf8(out).unwrap())
}

pub fn reservations_seeds() -> Vec<Vec<u8>> {
    owned(&["c1\r\neth0\x0010.1.0.3", "c1", "", " \n\x00garbage", "container0\r\neth0\x00::1"])
}

/// A header that is read is written as the same bytes, except unused ones.
pub fn reservation_index(bytes: &[u8]) {
    let Some(again) = recode_index(bytes) else { return };
    assert_eq!(recode_index(&again).as_ref(), Some(&again));
}

pub fn reservation_index_seeds() -> Vec<Vec<u8>> {
    let mut header = b"hl-idx\x03\n".to_vec();
    header.extend([b'b'; 36]);
    header.extend([0; 24]);
    for number in [0_u32, 4, 0, 0, 1] {
        header.extend(number.to_le_bytes());
    }
    header.resize(160, 0);
    header.extend(0x0a01_0000_u128.to_le_bytes());
    header.extend(0x0a01_00ff_u128.to_le_bytes());
    vec![header]
}

/// The document for the delegate is read the same when it is read again.
pub fn flannel_state(bytes: &[u8]) {
    let Some((kind, document)) = flannel::read_state(bytes) else { return };
    assert!(!kind.is_empty());
    assert_eq!(flannel::read_state(&document), Some((kind, document)));
}

pub fn flannel_state_seeds() -> Vec<Vec<u8>> {
    owned(&[
        r#"{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.97.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#,
    ])
}

/// Conditions of host ports, the comment of an element, a record. A comment that names an attachment is that
/// attachment's, and a record that is written is read the same.
pub fn host_ports(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for family in Family::ALL {
        let _ = check_conditions(family, &words);
    }
    if let Some(key) = owner::named(text) {
        assert!(text.starts_with(&owner::mark(key)));
    }
    if let Ok(record) = serde_json::from_str::<Record>(text) {
        let again = serde_json::to_string(&record).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Record>(&again).ok(), Some(record), "{again}");
    }
}

pub fn host_ports_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "ip saddr != 192.0.2.0/24 iifname eth0 meta mark 0x10 tcp sport 80",
        "8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1",
        r#"{"schema":1,"boot":"b","committed":false,"sections":[{"committed":true,"netns":{"path":"/p","inode":1},
            "section":{"portmap":{"ports":[{"protocol":6,"port":80,"pod":"10.1.2.3/24","podPort":80}],
            "masquerade":{"markBit":13,"all":false}}}}]}"#,
    ])
}
