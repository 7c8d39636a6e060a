//! conf/kubernetes, as helm renders it and as Kubernetes' published schemas judge it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::harness::Outcome;
use tests::tools::{helm, mistakes};

/// The oldest version with admission policies, and the newest two of the validator's.
const VERSIONS: [&str; 3] = ["1.30", "1.36", "1.37"];

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes").join(name)
}

fn render(values: &[&str]) -> Result<String, String> {
    let chart = conf("chart");
    let base = ["template", "flannel", chart.to_str().unwrap(), "--namespace", "kube-flannel"];
    let set = values.iter().flat_map(|value| ["--set", value]);
    let output = helm(&base.into_iter().chain(set).collect::<Vec<_>>()).unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    if output.status.success() { Ok(out) } else { Err(err) }
}

/// The objects by kind; configurations as what they say.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for mut object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
        for (_, text) in object["data"].as_object_mut().into_iter().flatten() {
            *text = serde_json::from_str(text.as_str().unwrap()).unwrap();
        }
        objects.insert(object["kind"].as_str().unwrap().to_owned(), object);
    }
    objects
}

/// helm makes the namespace itself (`--create-namespace`).
pub fn without_values_it_is_the_manifest() -> Outcome {
    let mut manifest = objects(&fs::read_to_string(conf("kube-flannel.yml"))?);
    manifest.remove("Namespace").unwrap();
    let chart = objects(&render(&[])?);
    assert_eq!(chart.keys().collect::<Vec<_>>(), manifest.keys().collect::<Vec<_>>());
    for (kind, object) in manifest {
        assert_eq!(chart[&kind], object, "{kind}");
    }
    Ok(())
}

pub fn lint_finds_nothing() -> Outcome {
    let output = helm(&["lint", "--strict", conf("chart").to_str().unwrap()])?;
    assert!(output.status.success(), "{}{}", String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    Ok(())
}

fn net_conf(values: &[&str]) -> Value {
    objects(&render(values).unwrap())["ConfigMap"]["data"]["net-conf.json"].clone()
}

/// Every value of upstream's chart that goes into the network's configuration.
pub fn values_become_the_networks_configuration() -> Outcome {
    let flannel = |values: &[&'static str]| {
        net_conf(
            &values
                .iter()
                .map(|value| format!("flannel.{value}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )["Backend"]
            .clone()
    };
    let vxlan = ["backendPort=4789", "vni=7", "GBP=true", "directRouting=true", "mtu=1400", "macPrefix=0E-2A"];
    let wanted = json!({
        "Type": "vxlan", "Port": 4789, "VNI": 7, "GBP": true, "DirectRouting": true, "MTU": 1400, "MacPrefix": "0E-2A",
    });
    assert_eq!(flannel(&vxlan), wanted);
    let wireguard = [
        "backend=wireguard",
        "backendPort=51000",
        "backendPortv6=51001",
        "psk=a2V5",
        "mtu=1400",
        "tunnelMode=auto",
        "keepaliveInterval=25",
    ];
    let wanted = json!({
        "Type": "wireguard", "ListenPort": 51000, "ListenPortV6": 51001, "PSK": "a2V5", "MTU": 1400, "Mode": "auto",
        "PersistentKeepaliveInterval": 25,
    });
    assert_eq!(flannel(&wireguard), wanted);
    assert_eq!(flannel(&["backend=udp", "backendPort=8286", "vni=7"]), json!({ "Type": "udp", "Port": 8286 }));
    assert_eq!(flannel(&["backend=host-gw", "mtu=1400"]), json!({ "Type": "host-gw" }));

    let v6 = net_conf(&["podCidr=", "podCidrv6=fd10::/48", "flannel.enableNFTables=true"]);
    let wanted = json!({
        "EnableIPv4": false, "IPv6Network": "fd10::/48", "EnableIPv6": true, "EnableNFTables": true,
        "Backend": { "Type": "vxlan" },
    });
    assert_eq!(v6, wanted);
    let error = render(&["podCidr="]).unwrap_err();
    assert!(error.contains("podCidr and podCidrv6 are both empty"), "{error}");
    Ok(())
}

/// The other values of upstream's chart.
pub fn values_become_the_daemonset() -> Outcome {
    let text = render(&[
        "global.imagePullSecrets[0].name=registry",
        "flannel.image.repository=example.org/f",
        "flannel.image.tag=1",
        "flannel.flannel_cni.image.repository=example.org/c",
        "flannel.flannel_cni.image.tag=2",
        "flannel.cniBinDir=/bin1",
        "flannel.cniConfDir=/conf1",
        "flannel.skipCNIConfigInstallation=true",
        "flannel.args={--kube-subnet-mgr,--v=1}",
        "flannel.resources.limits.memory=1Gi",
        "flannel.healthz.port=9000",
        "flannel.healthz.livenessProbe.periodSeconds=7",
        "flannel.tolerations=null",
        "flannel.nodeSelector.a=b",
        "flannel.seccompProfile=profiles/flannel.json",
        "flannel.nodePolicy=false",
        "netpol.enabled=true",
        "netpol.image.tag=v2",
    ])?;
    let all = objects(&text);
    assert!(!all.contains_key("ValidatingAdmissionPolicy"));
    let pod = &all["DaemonSet"]["spec"]["template"]["spec"];
    for (path, wanted) in [
        ("/imagePullSecrets", json!([{ "name": "registry" }])),
        ("/containers/0/image", json!("example.org/f:1")),
        ("/initContainers/0/image", json!("example.org/c:2")),
        ("/initContainers/0/args", json!(["install"])),
        ("/volumes/1/hostPath/path", json!("/bin1")),
        ("/volumes/2/hostPath/path", json!("/conf1")),
        (
            "/containers/0/args",
            json!(["--kube-subnet-mgr", "--v=1", "--healthz-port=9000", "--proc-sys-net=/host/proc/sys/net"]),
        ),
        ("/containers/0/resources/limits/memory", json!("1Gi")),
        ("/containers/0/livenessProbe/periodSeconds", json!(7)),
        ("/containers/0/livenessProbe/httpGet/port", json!(9000)),
        ("/nodeSelector", json!({ "a": "b" })),
        (
            "/securityContext/seccompProfile",
            json!({ "type": "Localhost", "localhostProfile": "profiles/flannel.json" }),
        ),
        ("/containers/1/image", json!("registry.k8s.io/networking/kube-network-policies:v2")),
    ] {
        assert_eq!(pod.pointer(path), Some(&wanted), "{path}");
    }
    assert_eq!(pod.pointer("/tolerations"), None);
    let rules = all["ClusterRole"]["rules"].as_array().ok_or("no rules")?;
    assert!(rules.iter().any(|rule| rule["resources"] == json!(["networkpolicies"])));
    Ok(())
}

pub fn without_health_there_are_no_probes() -> Outcome {
    let all = objects(&render(&["flannel.healthz.port=0"])?);
    let daemon = &all["DaemonSet"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(daemon["args"], json!(["--ip-masq", "--kube-subnet-mgr", "--proc-sys-net=/host/proc/sys/net"]));
    assert!(daemon["livenessProbe"].is_null() && daemon["readinessProbe"].is_null());
    Ok(())
}

pub fn udp_has_its_device() -> Outcome {
    let all = objects(&render(&["flannel.backend=udp"])?);
    let pod = &all["DaemonSet"]["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    let tun = json!({ "name": "tun", "hostPath": { "path": "/dev/net/tun", "type": "CharDevice" } });
    assert!(pod["volumes"].as_array().is_some_and(|volumes| volumes.contains(&tun)), "{pod}");
    Ok(())
}

pub fn published_schemas_accept_it() -> Outcome {
    let dir = tempfile::tempdir()?;
    let every = ["flannel.backend=udp", "netpol.enabled=true", "flannel.seccompProfile=p", "podCidrv6=fd10::/48"];
    let rendered = dir.path().join("rendered.yml");
    fs::write(&rendered, render(&every)?)?;
    for version in VERSIONS {
        for file in [&conf("kube-flannel.yml"), &rendered] {
            assert_eq!(mistakes(version, file)?, None, "{version}: {}", file.display());
        }
    }
    // the validator sees a mistake
    let wrong = dir.path().join("wrong.yml");
    fs::write(&wrong, fs::read_to_string(&rendered)?.replace("runAsUser", "runAsUsr"))?;
    assert!(mistakes("1.36", &wrong)?.is_some_and(|text| text.contains("runAsUsr")));
    Ok(())
}
