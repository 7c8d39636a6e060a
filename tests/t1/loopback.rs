//! loopback as an executable, in a namespace of its own.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is wrong")]

use std::process::Command;

use tests::harness::{Outcome, executables};

/// Runs a script in a new network namespace, where `call COMMAND [CONFIG]` calls the plugin for that namespace, from
/// another.
fn in_a_namespace(script: &str) -> String {
    let prelude = r#"
        export CNI_CONTAINERID=c1 CNI_IFNAME=eth9 CNI_PATH=/nowhere
        call() { echo "${2:-$CONF}" | CNI_NETNS=${NETNS:-/proc/$$/ns/net} CNI_COMMAND=$1 unshare --net $P loopback | tr -d ' \n'; echo; }
        up() { tr -d '\n' </sys/class/net/lo/flags; cat /sys/class/net/lo/operstate; }
        CONF='{"cniVersion":"1.0.0","name":"lo","type":"loopback"}'
    "#;
    let script = format!("P={}; {prelude}{script}", executables().unwrap().plugins.display());
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c", &format!("mount -t sysfs sysfs /sys && {script}")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "no namespace can be had");
    text
}

fn normal(text: &str) -> Vec<String> {
    let pid = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    text.lines()
        .map(|line| line.split('/').map(|w| if pid(w) { "N" } else { w }).collect::<Vec<_>>().join("/"))
        .collect()
}

pub fn up_checked_and_down() -> Outcome {
    let text = in_a_namespace(
        r#"
        call CHECK; call ADD; call ADD; up; call CHECK; call DEL; up; call DEL; call CHECK
        NETNS=/no/such/netns; call DEL; NETNS=; CNI_NETNS= call DEL
        NETNS=/no/such/netns; call ADD
        NETNS=/etc/passwd; call DEL
        "#,
    );
    let down = r#"{"code":999,"msg":"loopbackinterfaceisdown"}"#;
    let lines = normal(&text);
    assert_eq!(lines[0], down);
    assert!(
        lines[1].contains(
            r#"{"cniVersion":"1.0.0","interfaces":[{"mac":"00:00:00:00:00:00","name":"lo","sandbox":"/proc/"#
        )
    );
    assert!(
        text.contains(r#""ips":[{"address":"127.0.0.1/8","interface":0},{"address":"::1/128","interface":0}]"#),
        "{text}"
    );
    assert_eq!(lines[1], lines[2]);
    assert_eq!(lines[3], "0x9unknown");
    assert_eq!(lines[4..6], ["", ""]);
    assert_eq!(lines[6], "0x8down");
    assert_eq!(lines[7..9], ["", down]);
    assert_eq!(lines[9..11], ["", ""]);
    assert!(lines[11].starts_with(r#"{"code":8,"msg":"failedtoopennetns"#), "{}", lines[11]);
    assert_eq!(lines[12], "", "a path that leads to no namespace says that it is gone");
    Ok(())
}

pub fn every_versions_result_has_its_own_shape() -> Outcome {
    let text = in_a_namespace(
        r#"
        for v in 0.1.0 0.2.0 0.3.1 0.4.0; do call ADD "{\"cniVersion\":\"$v\",\"name\":\"lo\"}"; done
        call ADD '{"cniVersion":"1.0.0","name":"lo","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}}'
        "#,
    );
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[..2] {
        assert!(line.contains(r#""ip4":{"ip":"127.0.0.1/8"}"#) && line.ends_with(r#""dns":{}}"#), "{line}");
    }
    for line in &lines[2..4] {
        assert!(line.contains(r#"{"version":"4","interface":0,"address":"127.0.0.1/8"}"#), "{line}");
        assert!(line.ends_with(r#""dns":{}}"#), "{line}");
    }
    assert_eq!(lines[4], r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}"#);
    Ok(())
}

pub fn a_foreign_address_on_lo_is_an_error() -> Outcome {
    let text = in_a_namespace("PATH=$PATH:/usr/sbin:/sbin; ip addr add 10.1.2.3/32 dev lo; call ADD; up");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], r#"{"code":999,"msg":"loopbackinterfacefoundwithnon-loopbackaddress\"10.1.2.3\""}"#);
    assert_eq!(lines[1], "0x8down", "the failed ADD is undone");
    Ok(())
}

pub fn the_hosts_own_lo_is_not_taken_down() -> Outcome {
    let text = in_a_namespace(
        "call ADD >/dev/null; echo $CONF | CNI_NETNS=/proc/$$/ns/net CNI_COMMAND=DEL $P loopback | tr -d ' \n'; echo; up",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "", "the container is gone");
    assert_eq!(lines[1], "0x9unknown");
    Ok(())
}
