use cni::error::Error;
use gojson::Json;

use super::*;
use crate::SUITE;
use crate::attach::Addresses;

/// Runs a command with this `ipam` object, these other members and these CNI_ARGS.
fn run(command: &str, version: &str, ipam: &str, rest: &str, args: &str) -> Result<String, Error> {
    let ipam = format!(r#""ipam":{{"type":"static"{ipam}}}"#);
    let document = format!(r#"{{"cniVersion":"{version}","name":"net","type":"bridge",{ipam}{rest}}}"#);
    let vars = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "a",
            "CNI_NETNS" => "/no/such/netns",
            "CNI_IFNAME" => "eth0",
            "CNI_PATH" => "/nowhere",
            "CNI_ARGS" => args,
            _ => return None,
        };
        Some(value.to_owned())
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = cni::plugin::serve(&Addresses(Static), SUITE, &vars, &mut document.as_bytes(), &mut out, &mut err);
    if status == 0 { Ok(String::from_utf8(out).unwrap()) } else { Err(gojson::decode(&out).unwrap()) }
}

fn add(ipam: &str, rest: &str, args: &str) -> String {
    let text = run("ADD", "1.1.0", ipam, rest, args).unwrap();
    Json::parse(text.as_bytes()).unwrap().compact()
}

const TWO: &str = r#","addresses":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"2001:DB8:0:0::3/64"}]"#;

#[test]
fn the_answer_is_the_configuration() {
    let more = r#","routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.2.9","mtu":1400,"advmss":1300,"priority":7,"table":0,"scope":0}],
        "dns":{"nameservers":["10.1.2.53"],"search":["a.example"]}"#;
    assert_eq!(
        add(&format!("{TWO}{more}"), "", ""),
        r#"{"cniVersion":"1.1.0","dns":{"nameservers":["10.1.2.53"],"search":["a.example"]},"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"2001:db8::3/64"}],"routes":[{"dst":"0.0.0.0/0"},{"advmss":1300,"dst":"10.9.0.0/16","gw":"10.1.2.9","mtu":1400,"priority":7,"scope":0,"table":0}]}"#
    );
    assert_eq!(add("", "", ""), r#"{"cniVersion":"1.1.0"}"#, "no address is no mistake");
    let old = run("ADD", "0.2.0", TWO, "", "").unwrap();
    assert!(old.contains("ip4") && old.contains("ip6") && old.contains("\"gateway\": \"10.1.2.1\""), "{old}");
}

#[test]
fn the_runtime_adds_or_replaces_addresses() {
    let ips = |rest: &str, args: &str| {
        let text = add(TWO, rest, args);
        text.split("\"ips\":").nth(1).unwrap().trim_end_matches('}').to_owned()
    };
    let variables = "IgnoreUnknown=1;IP=10.1.3.4/24, fd00::4/64;GATEWAY=10.1.3.1,2001:db8::1";
    assert_eq!(
        ips("", variables),
        r#"[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"2001:db8::3/64","gateway":"2001:db8::1"},{"address":"10.1.3.4/24","gateway":"10.1.3.1"},{"address":"fd00::4/64"}]"#
    );
    assert_eq!(ips("", "IP=10.1.2.3/24").matches("10.1.2.3/24").count(), 1, "the same address once more");
    let args = r#","args":{"cni":{"ips":["10.1.4.5/24"]}}"#;
    assert_eq!(ips(args, variables), r#"[{"address":"10.1.4.5/24"}]"#);
    let runtime = r#","runtimeConfig":{"ips":["10.1.5.6/24","fd05::6/64"]}"#;
    assert_eq!(ips(&format!("{args}{runtime}"), ""), r#"[{"address":"10.1.5.6/24"},{"address":"fd05::6/64"}]"#);
    assert!(run("ADD", "1.1.0", TWO, "", "MAC=02:00:00:00:00:01").unwrap_err().msg.contains("unknown args"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let wrong = r#","addresses":[{"address":"10.1.2.3"},{"address":"0.0.0.0/0"},{"address":"ff02::1/64"},{"gateway":"10.1.2.1"},
        {"address":"10.1.2.3/24","gateway":"fd00::1"},{"address":"10.1.2.3/16"}],"routes":[{"gw":"10.1.2.1"}]"#;
    let error = run("ADD", "1.1.0", wrong, "", "IP=x;GATEWAY=y").unwrap_err();
    assert_eq!(error.code, 7);
    for part in [
        "the 'address' field is expected to be in CIDR notation, got: '10.1.2.3'",
        "the 'address' field is expected to be in CIDR notation, got: ''",
        "address 0.0.0.0/0 is not that of one interface",
        "address ff02::1/64 is not that of one interface",
        "address 10.1.2.3/24: its gateway is of the other family",
        "address 10.1.2.3/16 is listed twice",
        "the 'ip' field is expected to be in CIDR notation, got: 'x'",
        "invalid gateway address: y",
        "ipam.routes[0]",
    ] {
        assert!(error.msg.contains(part), "{part:?} is not in {:?}", error.msg);
    }
    let error = run("ADD", "1.1.0", "", r#","runtimeConfig":{"ips":["10.1.5.6"]}"#, "").unwrap_err();
    assert_eq!((error.code, &*error.msg), (7, "an entry in the 'ips' field is NOT in CIDR notation, got: '10.1.5.6'"));
    let three = r#","addresses":[{"address":"10.1.2.3/24"},{"address":"10.1.3.3/24"},{"address":"fd00::3/64"}]"#;
    let error = run("ADD", "0.2.0", three, "", "").unwrap_err();
    assert_eq!(error.msg, "CNI version 0.2.0 does not support more than 1 address per family");
    for wrong in [r#","addresses":{}"#, r#","addresses":[{"address":7}]"#, r#","addresses":[{"gateway":"x"}]"#] {
        assert_eq!(run("ADD", "1.1.0", wrong, "", "").unwrap_err().code, 6, "{wrong}");
    }
}

#[test]
fn check_compares_addresses_and_the_configured_gateways() {
    let check = |ips: &str| {
        let rest = format!(r#","prevResult":{{"cniVersion":"1.1.0","ips":[{ips}]}}"#);
        run("CHECK", "1.1.0", TWO, &rest, "").map(drop).map_err(|error| error.msg)
    };
    let (v4, v6) = (r#"{"address":"10.1.2.3/24","gateway":"10.1.2.1"}"#, r#"{"address":"2001:db8::3/64"}"#);
    check(&format!("{v4},{v6}")).unwrap();
    check(&format!(r#"{v4},{{"address":"2001:db8::3/64","gateway":"2001:db8::1"}}"#)).unwrap();
    let error = check(r#"{"address":"10.1.2.3/24","gateway":"10.1.2.9"}"#).unwrap_err();
    assert!(error.contains("Failed to match addr 10.1.2.3/24 with gateway 10.1.2.1 on interface eth0"), "{error}");
    assert!(error.contains("Failed to match addr 2001:db8::3/64 on interface eth0"), "{error}");
    assert_eq!(run("CHECK", "1.1.0", TWO, "", "").unwrap_err().msg, "Required prevResult missing");
}

#[test]
fn del_gc_and_status_have_nothing_to_do() {
    let wrong = r#","addresses":[{"address":"x"}]"#;
    run("DEL", "1.1.0", wrong, "", "").unwrap();
    run("GC", "1.1.0", wrong, r#","cni.dev/valid-attachments":[]"#, "").unwrap();
    run("STATUS", "1.1.0", TWO, "", "").unwrap();
    assert_eq!(run("STATUS", "1.1.0", wrong, "", "").unwrap_err().code, 7);
}
