//! The configuration.

use gojson::Json;
use kernel::types::{Mac, Mtu};

use super::conf::{Conf, DATA_DIR, Tuned, data_dir};

fn read(text: &str, args: &str) -> Result<Conf, String> {
    Conf::read(&Json::parse(text.as_bytes()).unwrap(), args, "eth0").map_err(|error| {
        assert_eq!(error.code, 7, "{error}");
        error.to_string()
    })
}

fn mac(last: u8) -> Option<Mac> {
    Some(Mac([2, 0, 0, 0, 0, last]))
}

#[test]
fn every_field_is_read() {
    let conf = read(
        r#"{
            "mac": "02:00:00:00:00:01", "promisc": true, "mtu": 1400, "allmulti": false, "txQLen": 0, "dataDir": "/x",
            "sysctl": { "net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": " 1 " }
        }"#,
        "",
    )
    .unwrap();
    let link =
        Tuned { mac: mac(1), promisc: Some(true), mtu: Some(Mtu(1400)), allmulti: Some(false), queue_len: Some(0) };
    assert_eq!((conf.link, conf.data_dir.to_str()), (link, Some("/x")));
    let sysctls: Vec<_> = conf.sysctls.iter().map(|(path, value)| format!("{path}={value}")).collect();
    assert_eq!(sysctls, ["net/core/somaxconn=500", "net/ipv4/conf/eth0/arp_filter=1"]);
    assert_eq!(conf.names, ["net.core.somaxconn", "net.ipv4.conf.IFNAME.arp_filter"]);
}

#[test]
fn nothing_is_no_mistake() {
    for text in [
        "{}",
        r#"{"mac": "", "promisc": null, "mtu": 0, "allmulti": null, "txQLen": null, "sysctl": null, "dataDir": ""}"#,
        r#"{"args": null, "runtimeConfig": null}"#,
        r#"{"args": {"cni": null}}"#,
    ] {
        let conf = read(text, "").unwrap();
        assert_eq!((conf.link, conf.sysctls.len()), (Tuned::default(), 0), "{text}");
        assert_eq!(conf.data_dir.to_str(), Some(DATA_DIR));
    }
}

#[test]
fn who_names_the_mac_last_is_obeyed() {
    let runtime = r#""runtimeConfig": {"mac": "02:00:00:00:00:03"}"#;
    let own = r#""mac": "02:00:00:00:00:01""#;
    let args = r#""args": {"cni": {"mac": "02:00:00:00:00:04"}}"#;
    let of = |text: &str, args: &str| read(&format!("{{{text}}}"), args).unwrap().link.mac;
    assert_eq!(of(own, ""), mac(1));
    assert_eq!(of(own, "IgnoreUnknown=1;MAC=02:00:00:00:00:02"), mac(2));
    assert_eq!(of(&format!("{own}, {runtime}"), "MAC=02:00:00:00:00:02"), mac(3));
    assert_eq!(of(&format!("{own}, {runtime}, {args}"), "MAC=02:00:00:00:00:02"), mac(4));
    assert_eq!(of(&format!(r#"{own}, "args": {{"cni": {{"mac": ""}}}}"#), ""), None, "as upstream");
}

#[test]
fn args_override_each_field() {
    let conf = read(
        r#"{
            "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 1, "sysctl": {"net.core.somaxconn": "1", "net.ipv4.ip_forward": "1"},
            "args": {"cni": {"promisc": false, "mtu": 1300, "allmulti": false, "txQLen": 2, "sysctl": {"net/core/somaxconn": "2"}}}
        }"#,
        "",
    )
    .unwrap();
    let link =
        Tuned { mac: None, promisc: Some(false), mtu: Some(Mtu(1300)), allmulti: Some(false), queue_len: Some(2) };
    assert_eq!(conf.link, link);
    assert_eq!(conf.sysctls["net/core/somaxconn"], "2");
    assert_eq!(conf.sysctls.len(), 2);
    // upstream panics
    assert_eq!(read(r#"{"args": {"cni": {"sysctl": {"net.core.somaxconn": "2"}}}}"#, "").unwrap().sysctls.len(), 1);
}

#[test]
fn every_mistake_is_said_at_once() {
    let said = read(
        r#"{
            "mac": 5, "promisc": "yes", "mtu": 67, "allmulti": 1, "txQLen": -1, "dataDir": 7,
            "sysctl": {"kernel.panic": "1", "net.a": 5, "net.b": "", "net.c": "1", "net.c": "2", "net.d": "1", "net/d": "1"},
            "runtimeConfig": {"mac": "01:00:00:00:00:00"},
            "args": {"cni": {"mtu": 1.5, "sysctl": []}}
        }"#,
        "",
    )
    .unwrap_err();
    for mistake in [
        "mac must be a string, not 5",
        "promisc must be true or false",
        "invalid mtu 67 (must be 0 to leave it, or at least 68)",
        "allmulti must be true or false, not 1",
        "txQLen must be a whole number from 0 to 4294967295, not -1",
        "dataDir must be a string, not 7",
        r#"invalid net sysctl key: "kernel.panic""#,
        r#"sysctl has no string for "net.a", but 5"#,
        r#"sysctl has no value for "net.b""#,
        r#"sysctl has "net.c" twice: duplicated sysctl keys are not allowed"#,
        "sysctl has net/d twice: duplicated sysctl keys are not allowed",
        "mac 01:00:00:00:00:00: not an address for one interface",
        "args.cni.mtu must be a whole number, not 1.5",
        "args.cni.sysctl must be an object, not []",
    ] {
        assert!(said.contains(mistake), "{mistake:?} is not in: {said}");
    }
    for (text, mistake) in [
        (r#"{"mtu": 4294967296}"#, "invalid mtu 4294967296"),
        (r#"{"mtu": -1}"#, "invalid mtu -1"),
        (r#"{"txQLen": 4294967296}"#, "txQLen must be a whole number from 0 to 4294967295"),
        (r#"{"args": 5}"#, "args must be an object, not 5"),
        (r#"{"args": {"cni": 5}}"#, "args.cni must be an object, not 5"),
        (r#"{"runtimeConfig": 5}"#, "runtimeConfig must be an object, not 5"),
        (r#"{"runtimeConfig": {"mac": 5}}"#, "runtimeConfig.mac must be a string, not 5"),
        (r#"{"mac": "02:00"}"#, "mac: "),
    ] {
        let said = read(text, "").unwrap_err();
        assert!(said.contains(mistake), "{text}: {said}");
    }
}

#[test]
fn del_finds_the_folder_of_any_configuration() {
    for (text, wanted) in
        [(r#"{"dataDir": "/x", "mtu": "wrong"}"#, "/x"), (r#"{"dataDir": 5}"#, DATA_DIR), ("{}", DATA_DIR)]
    {
        assert_eq!(data_dir(&Json::parse(text.as_bytes()).unwrap()).to_str(), Some(wanted));
    }
}
