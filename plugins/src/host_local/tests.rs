use std::fs;
use std::path::Path;

use gojson::Json;

use super::*;
use crate::SUITE;
use crate::attach::Addresses;

struct Call<'a> {
    data: &'a Path,
    version: &'a str,
    ipam: &'a str,
    rest: &'a str,
    args: &'a str,
    ifname: &'a str,
}

impl<'a> Call<'a> {
    fn new(data: &'a Path, ipam: &'a str) -> Self {
        Self { data, version: "1.1.0", ipam, rest: "", args: "", ifname: "eth0" }
    }

    fn document(&self) -> String {
        format!(
            r#"{{"cniVersion":"{}","name":"net","type":"bridge"{},"ipam":{{"type":"host-local","dataDir":"{}"{}}}}}"#,
            self.version,
            self.rest,
            self.data.display(),
            self.ipam
        )
    }

    fn run_document(&self, command: &str, id: &str, document: &str) -> Result<String, Error> {
        let vars = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => id,
                "CNI_NETNS" => "/no/such/netns",
                "CNI_IFNAME" => self.ifname,
                "CNI_PATH" => "/nowhere",
                "CNI_ARGS" => self.args,
                _ => return None,
            };
            Some(value.to_owned())
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status =
            cni::plugin::serve(&Addresses(HostLocal), SUITE, &vars, &mut document.as_bytes(), &mut out, &mut err);
        let unknown = command == "GC" && !document.contains("valid-attachments");
        assert_eq!(String::from_utf8_lossy(&err).is_empty(), !unknown);
        let out = String::from_utf8(out).unwrap();
        if status == 0 { Ok(out) } else { Err(gojson::decode(out.as_bytes()).unwrap()) }
    }

    fn run(&self, command: &str, id: &str) -> Result<String, Error> {
        self.run_document(command, id, &self.document())
    }

    fn fails(&self, command: &str, id: &str) -> (u32, String) {
        let error = self.run(command, id).unwrap_err();
        (error.code, error.msg)
    }
}

fn compact(text: &str) -> String {
    Json::parse(text.as_bytes()).unwrap().compact()
}

const ONE: &str = r#","subnet":"10.1.2.0/24""#;

#[test]
fn results_in_old_and_new_versions() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("resolv.conf"), "nameserver 10.0.0.10\nsearch a.example\n").unwrap();
    let ipam = format!(
        r#","ranges":[[{{"subnet":"10.1.2.0/24","gateway":"10.1.2.254"}}],[{{"subnet":"fd00::/64"}}]],
           "routes":[{{"dst":"0.0.0.0/0"}},{{"dst":"10.9.1.2/16","gw":"10.1.2.9","mtu":1400,"table":0}}],
           "resolvConf":"{}/resolv.conf""#,
        dir.path().display()
    );
    let mut call = Call::new(dir.path(), &ipam);
    assert_eq!(
        compact(&call.run("ADD", "a").unwrap()),
        r#"{"cniVersion":"1.1.0","dns":{"nameservers":["10.0.0.10"],"search":["a.example"]},"ips":[{"address":"10.1.2.1/24","gateway":"10.1.2.254"},{"address":"fd00::2/64","gateway":"fd00::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.1.2/16","gw":"10.1.2.9","mtu":1400,"table":0}]}"#
    );
    call.version = "0.2.0";
    let old = compact(&call.run("ADD", "b").unwrap());
    assert!(old.contains(r#""ip4":{"ip":"10.1.2.2/24","gateway":"10.1.2.254","routes":[{"dst":"0.0.0.0/0"}"#), "{old}");
}

#[test]
fn a_second_add_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut call = Call::new(dir.path(), ONE);
    call.run("ADD", "a").unwrap();
    let refused =
        "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed";
    assert_eq!(call.fails("ADD", "a"), (999, refused.to_owned()));
    call.args = "IP=10.1.2.77";
    assert_eq!(call.fails("ADD", "a"), (999, refused.to_owned()), "a requested address is no way around it");
    assert_eq!(fs::read_to_string(dir.path().join("net/10.1.2.2")).unwrap(), "a\r\neth0");
    call.args = "";
    call.ifname = "eth1";
    assert!(call.run("ADD", "a").unwrap().contains("10.1.2.3/24"), "another interface is another attachment");
}

#[test]
fn requested_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = r#","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00::/64"}]]"#;
    let mut call = Call::new(dir.path(), ipam);
    call.args = "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.2.77";
    call.rest = r#","args":{"cni":{"ips":["10.1.2.77","fd00::77/128"]}}"#;
    let got = call.run("ADD", "a").unwrap();
    assert!(got.contains("10.1.2.77/24") && got.contains("fd00::77/64"), "{got}");
    assert_eq!(
        call.fails("ADD", "b").1,
        "failed to allocate for range 0: requested IP address 10.1.2.77 is not available in range set 10.1.2.1-10.1.2.254"
    );
    call.args = "IP=10.1.2.1";
    call.rest = "";
    assert_eq!(call.fails("ADD", "b").1, "failed to allocate for range 0: requested ip 10.1.2.1 is subnet's gateway");
    call.args = "";
    call.rest = r#","runtimeConfig":{"ips":["10.1.2.99/24","192.0.2.1"]}"#;
    assert_eq!(call.fails("ADD", "b").1, "failed to allocate all requested IPs: 192.0.2.1");
    assert!(!dir.path().join("net/10.1.2.99").exists());
    call.rest = "";
    assert!(call.run("ADD", "b").unwrap().contains("10.1.2.78/24"), "goes on after the requested one");
    call.args = "IP=10.1.2.100;MAC=1";
    assert_eq!(call.fails("ADD", "c").1, r#"ARGS: unknown args ["MAC=1"]"#);
}

#[test]
fn runtime_ranges_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = r#","subnet":"10.1.2.0/24","rangeStart":"10.1.2.10","ranges":[[{"subnet":"10.1.3.0/24"}]]"#;
    let mut call = Call::new(dir.path(), ipam);
    call.rest = r#","runtimeConfig":{"ipRanges":[[{"subnet":"10.1.4.0/24"}]]}"#;
    let got = compact(&call.run("ADD", "a").unwrap());
    let order: Vec<usize> = ["10.1.4.2/24", "10.1.2.10/24", "10.1.3.2/24"].map(|ip| got.find(ip).unwrap()).into();
    assert!(order.is_sorted(), "{got}");
    assert!(dir.path().join("net/last_reserved_ip.2").exists());
}

#[test]
fn a_full_range_gives_back_what_other_sets_gave() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = r#","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"10.1.3.0/30"}]]"#;
    let call = Call::new(dir.path(), ipam);
    call.run("STATUS", "").unwrap();
    call.run("ADD", "a").unwrap();
    let full = "no IP addresses available in range set: 10.1.3.1-10.1.3.2";
    assert_eq!(call.fails("ADD", "b"), (999, format!("failed to allocate for range 1: {full}")));
    assert_eq!(call.fails("STATUS", ""), (50, full.to_owned()));
    assert!(!dir.path().join("net/10.1.2.3").exists());
    call.run("DEL", "a").unwrap();
    call.run("STATUS", "").unwrap();
    call.run("ADD", "b").unwrap();
}

#[test]
fn del_needs_no_valid_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for broken in ["", r#","ranges":[]"#, r#","ranges":[[{"subnet":"10.1.2.3/24"}]]"#, r#","ranges":"none","routes":7"#]
    {
        Call::new(dir.path(), ONE).run("ADD", "a").unwrap();
        Call::new(dir.path(), broken).run("DEL", "a").unwrap();
        Call::new(dir.path(), broken).run("DEL", "a").unwrap();
        let left = fs::read_dir(dir.path().join("net")).unwrap().count();
        assert_eq!(left, 2, "lock and last_reserved_ip.0: {broken}");
    }
    let call = Call::new(dir.path(), ONE);
    call.run("ADD", "a").unwrap();
    // outside of what the configuration has now
    Call::new(dir.path(), r#","subnet":"10.7.0.0/24""#).run("DEL", "a").unwrap();
    assert!(!dir.path().join("net/10.1.2.2").exists());
}

#[test]
fn check_compares_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut call = Call::new(dir.path(), ONE);
    assert_eq!(call.fails("CHECK", "a").1, "host-local: Failed to find address added by container a");
    call.run("ADD", "a").unwrap();
    call.run("CHECK", "a").unwrap();
    call.rest = r#","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.2/24"},{"address":"192.0.2.9/24"}]}"#;
    call.run("CHECK", "a").unwrap();
    call.rest = r#","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24"}]}"#;
    assert_eq!(call.fails("CHECK", "a").1, "host-local: not reserved for container a: 10.1.2.3");
}

#[test]
fn gc_keeps_the_valid_attachments_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut call = Call::new(dir.path(), ONE);
    for id in ["a", "b", "c"] {
        call.run("ADD", id).unwrap();
    }
    call.ifname = "eth1";
    call.run("ADD", "a").unwrap();
    fs::write(dir.path().join("net/10.1.2.50"), "b").unwrap();
    fs::write(dir.path().join("net/10.1.2.51"), "gone").unwrap();
    fs::write(dir.path().join("net/10.1.2.52"), "").unwrap();
    call.rest =
        r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"x"}]"#;
    let left = || {
        let names =
            fs::read_dir(dir.path().join("net")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.join(" ")
    };
    for _ in 0..2 {
        call.run("GC", "").unwrap();
        assert_eq!(left(), "10.1.2.2 10.1.2.50 last_reserved_ip.0 lock");
    }
    call.rest = "";
    call.run("GC", "").unwrap();
    assert_eq!(left(), "10.1.2.2 10.1.2.50 last_reserved_ip.0 lock", "without a list nothing is known");
    call.rest = r#","cni.dev/valid-attachments":[]"#;
    call.run("GC", "").unwrap();
    assert_eq!(left(), "last_reserved_ip.0 lock");
}

#[test]
fn mistakes_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (version, ipam, code, want) in [
        ("1.1.0", "", 7, "no IP ranges specified"),
        (
            "1.1.0",
            r#","ranges":[[],[{"subnet":"10.1.2.1/24"}],[{"subnet":"10.2.0.0/16"}],[{"subnet":"10.2.3.0/24"}]],"routes":[{}]"#,
            7,
            "invalid range set 0: empty range set; invalid range set 1: Network has host bits set. For a subnet mask of \
             length 24 the network address is 10.1.2.0; range set 2 overlaps with 3; ipam.routes[0] has no address",
        ),
        (
            "0.2.0",
            r#","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"10.1.3.0/24"}]]"#,
            7,
            "CNI version 0.2.0 does not support more than 1 address per family",
        ),
        ("1.1.0", r#","subnet":7"#, 6, "error unmarshall network config: ipam.subnet: "),
        ("1.1.0", r#","subnet":"10.1.2.0""#, 6, "error unmarshall network config: ipam.subnet: "),
    ] {
        let call = Call { version, ..Call::new(dir.path(), ipam) };
        let (got_code, got) = call.fails("ADD", "a");
        assert!(got.starts_with(want), "{got}");
        assert_eq!(got_code, code);
    }
    let call = Call::new(dir.path(), ONE);
    let error = call.run_document("ADD", "a", r#"{"cniVersion":"1.1.0","name":"net"}"#).unwrap_err();
    assert_eq!(error.msg, "IPAM config missing 'ipam' key");
    call.run_document("DEL", "a", r#"{"cniVersion":"1.1.0","name":"net"}"#).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_data_directory_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let call = Call::new(&file, ONE);
    let (code, msg) = call.fails("ADD", "a");
    assert_eq!(code, 5);
    assert!(msg.starts_with("host-local: cannot open ") && msg.contains("must be directories"), "{msg}");
    assert_eq!(call.fails("STATUS", "").0, 50);
    let missing = Call::new(dir.path(), r#","subnet":"10.1.2.0/24","resolvConf":"/no/such/file""#);
    assert_eq!(missing.fails("ADD", "a").0, 5);
    assert!(!dir.path().join("net").exists());
}
