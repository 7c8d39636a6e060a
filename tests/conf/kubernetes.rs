//! conf/kubernetes: the manifest has the names that a Go flannel's has, no right that flanneld does not use, and starts it.

use std::collections::{BTreeMap, BTreeSet};

use cni::SUITE;
use cni::runtime::NetworkList;
use flanneld::flags::{self, Command, Options};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Namespace, PodSpec, Probe, SecurityContext, ServiceAccount, Volume, VolumeMount,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use overlay::netconf::NetConf;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::StoreOptions;
use store::kubernetes::NodeName;

use super::read;

fn objects() -> Vec<Value> {
    let text = String::from_utf8(read("kubernetes/kube-flannel.yml")).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

#[track_caller]
fn the<T: DeserializeOwned>(kind: &str) -> T {
    let found = objects().into_iter().find(|object| object["kind"] == kind);
    serde_json::from_value(found.unwrap_or_else(|| panic!("no {kind}"))).unwrap()
}

fn pod() -> PodSpec {
    the::<DaemonSet>("DaemonSet").spec.unwrap().template.spec.unwrap()
}

fn daemon() -> Container {
    pod().containers.into_iter().next().unwrap()
}

/// An unknown field would be gone after it was read and written.
#[track_caller]
fn is_whole<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(&serde_json::to_value(typed).unwrap(), object);
}

#[test]
fn every_object_is_one_of_kubernetes() {
    let mut kinds = Vec::new();
    for object in objects() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "Namespace" => is_whole::<Namespace>(&object),
            "ClusterRole" => is_whole::<ClusterRole>(&object),
            "ClusterRoleBinding" => is_whole::<ClusterRoleBinding>(&object),
            "ServiceAccount" => is_whole::<ServiceAccount>(&object),
            "ValidatingAdmissionPolicy" => is_whole::<ValidatingAdmissionPolicy>(&object),
            "ValidatingAdmissionPolicyBinding" => is_whole::<ValidatingAdmissionPolicyBinding>(&object),
            "ConfigMap" => is_whole::<ConfigMap>(&object),
            "DaemonSet" => is_whole::<DaemonSet>(&object),
            other => panic!("{other}"),
        }
        kinds.push(kind);
    }
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

/// `kubectl apply` changes the objects of these names; a DaemonSet's selector cannot be changed.
#[test]
fn names_and_selector_are_those_of_go_flannel() {
    let name = |object: &Value| {
        let [kind, name, namespace] = ["/kind", "/metadata/name", "/metadata/namespace"]
            .map(|path| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned());
        (kind, name, namespace)
    };
    let found: BTreeSet<_> = objects().iter().map(name).collect();
    for (kind, name, namespace) in [
        ("Namespace", "kube-flannel", ""),
        ("ClusterRole", "flannel", ""),
        ("ClusterRoleBinding", "flannel", ""),
        ("ServiceAccount", "flannel", "kube-flannel"),
        ("ConfigMap", "kube-flannel-cfg", "kube-flannel"),
        ("DaemonSet", "kube-flannel-ds", "kube-flannel"),
    ] {
        assert!(found.contains(&(kind.into(), name.into(), namespace.into())), "{kind} {name}: {found:?}");
    }
    let set = the::<DaemonSet>("DaemonSet").spec.unwrap();
    assert_eq!(set.selector.match_labels, Some([("app".to_owned(), "flannel".to_owned())].into()));
    assert_eq!(set.selector.match_expressions, None);
    let labels = set.template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels, [("app", "flannel"), ("tier", "node")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

/// The calls of lib/store/src/kubernetes/client.rs: list and watch Nodes, get one, patch its status.
#[test]
fn rights_are_those_that_flanneld_uses() {
    let rules = serde_json::to_value(the::<ClusterRole>("ClusterRole").rules).unwrap();
    let wanted = json!([
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
    ]);
    assert_eq!(rules, wanted);
}

/// What the daemon starts with: its arguments and its environment on node n1.
fn options() -> Options {
    let daemon = daemon();
    let mut env = BTreeMap::new();
    for variable in daemon.env.unwrap() {
        let path = variable.value_from.unwrap().field_ref.unwrap().field_path;
        assert_eq!(path, "spec.nodeName");
        env.insert(variable.name, "n1".to_owned());
    }
    assert_eq!(daemon.command.unwrap(), ["/opt/bin/flanneld"]);
    match flags::parse(&daemon.args.unwrap(), &env) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_arguments_start_the_daemon() {
    let options = options();
    assert_eq!(options.warnings, Vec::<String>::new());
    assert!(options.rules.masquerade.is_some());
    let StoreOptions::Kubernetes(store) = &options.store else { panic!("{:?}", options.store) };
    assert_eq!(store.node, NodeName::Named("n1".into()));
    assert!(store.kubeconfig.is_none() && store.api_url.is_none(), "the pod's service account");
}

#[test]
fn probes_ask_the_daemon_on_the_hosts_loopback() {
    let (daemon, options) = (daemon(), options());
    let asked = |probe: Option<Probe>| {
        let get = probe.unwrap().http_get.unwrap();
        let port = serde_json::to_value(get.port).unwrap();
        (format!("{}:{port}", get.host.unwrap()).parse().ok(), get.path.unwrap())
    };
    assert!(options.health.is_some());
    assert_eq!(asked(daemon.liveness_probe), (options.health, "/healthz".into()));
    assert_eq!(asked(daemon.readiness_probe), (options.health, "/readyz".into()));
    assert_eq!(daemon.ports, None, "a port of a pod in the host's network is one of the host");
}

fn mounts(container: &Container) -> BTreeMap<String, VolumeMount> {
    container.volume_mounts.iter().flatten().map(|mount| (mount.mount_path.clone(), mount.clone())).collect()
}

#[test]
fn files_of_the_daemon_are_on_the_host() {
    let (pod, options) = (pod(), options());
    let daemon = mounts(&pod.containers[0]);
    let host: BTreeMap<String, String> = pod
        .volumes
        .unwrap()
        .into_iter()
        .filter_map(|Volume { name, host_path, .. }| Some((name, host_path?.path)))
        .collect();
    let on_host = |path: &str| {
        let mount = daemon.get(path).unwrap_or_else(|| panic!("{path} is not mounted"));
        (host[&mount.name].clone(), mount.read_only.unwrap_or_default(), mount.mount_propagation.clone())
    };
    let same = |path: &str| assert_eq!(on_host(path), (path.to_owned(), false, None));
    same(options.subnet_file.parent().unwrap().to_str().unwrap());
    same(attachment::record::DIRECTORY);
    let data = std::path::Path::new(attachment::reservations::DEFAULT_DATA_DIR);
    same(data.parent().unwrap().to_str().unwrap());
    let settings = options.proc_sys_net.unwrap();
    assert_eq!(on_host(settings.to_str().unwrap()), ("/proc/sys/net".into(), false, None));
    // without this, every pod would look as if it were gone
    assert_eq!(on_host("/run/netns"), ("/run/netns".into(), true, Some("HostToContainer".into())));

    let used: BTreeSet<&String> =
        daemon.values().map(|mount| &mount.name).filter(|name| host.contains_key(*name)).collect();
    let install = mounts(&pod.init_containers.as_ref().unwrap()[0]);
    let all: BTreeSet<&String> = install.values().map(|mount| &mount.name).chain(used).collect();
    assert!(host.keys().all(|name| all.contains(name)), "every volume is mounted");
}

#[test]
fn no_container_is_privileged() {
    let pod = pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!((pod.host_pid, pod.host_ipc), (None, None));
    let whole = serde_json::to_value(pod.security_context).unwrap();
    let wanted = json!({ "seccompProfile": { "type": "RuntimeDefault" }, "seLinuxOptions": { "type": "spc_t" } });
    assert_eq!(whole, wanted);
    let check = |context: SecurityContext, capability: &str| {
        let wanted = json!({
            "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsUser": 0,
            "capabilities": { "drop": ["ALL"], "add": [capability] },
        });
        assert_eq!(serde_json::to_value(context).unwrap(), wanted);
    };
    let [daemon] = pod.containers.try_into().unwrap();
    let [install] = pod.init_containers.unwrap().try_into().unwrap();
    check(daemon.security_context.unwrap(), "NET_ADMIN");
    check(install.security_context.unwrap(), "DAC_OVERRIDE");
    assert_eq!(daemon.image, install.image);
}

#[test]
fn the_configuration_is_taken() {
    let data = the::<ConfigMap>("ConfigMap").data.unwrap();
    let parsed = NetConf::parse(data["net-conf.json"].as_bytes()).unwrap();
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    assert_eq!(parsed.conf.backend.name(), "vxlan");
    let list = NetworkList::parse(data["cni-conf.json"].as_bytes()).unwrap();
    assert_eq!(list.name, "cbr0");
    let kinds: Vec<&str> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
    assert_eq!(kinds, ["flannel", "portmap"]);
    assert!(kinds.iter().all(|kind| SUITE.contains(kind)));
    let install = pod().init_containers.unwrap().remove(0);
    assert_eq!(install.command.unwrap(), ["/opt/bin/flannelctl"]);
    assert_eq!(install.args.unwrap(), ["install", "--conf=/etc/kube-flannel/cni-conf.json"]);
}

/// The policy names the account that the pod has.
#[test]
fn the_policy_is_about_the_account() {
    let policy = the::<ValidatingAdmissionPolicy>("ValidatingAdmissionPolicy").spec.unwrap();
    let account = the::<ServiceAccount>("ServiceAccount").metadata;
    let name = format!("system:serviceaccount:{}:{}", account.namespace.unwrap(), account.name.clone().unwrap());
    assert_eq!(policy.match_conditions.unwrap()[0].expression, format!("request.userInfo.username == '{name}'"));
    assert_eq!(policy.failure_policy.as_deref(), Some("Fail"));
    assert_eq!(pod().service_account_name, account.name);
    let binding = the::<ValidatingAdmissionPolicyBinding>("ValidatingAdmissionPolicyBinding").spec.unwrap();
    assert_eq!(binding.validation_actions, Some(vec!["Deny".to_owned()]));
    assert_eq!(binding.policy_name.as_deref(), Some("flannel-own-node"));
}

/// The files of the chart, which t1 renders.
const CHART: [&str; 9] = [
    "kubernetes/chart/.helmignore",
    "kubernetes/chart/Chart.yaml",
    "kubernetes/chart/templates/_helpers.tpl",
    "kubernetes/chart/templates/config.yaml",
    "kubernetes/chart/templates/daemonset.yaml",
    "kubernetes/chart/templates/policy.yaml",
    "kubernetes/chart/templates/rbac.yaml",
    "kubernetes/chart/templates/serviceaccount.yaml",
    "kubernetes/chart/values.yaml",
];

#[test]
fn the_chart_has_the_version_and_every_value_is_used() {
    let read = |file: &&str| String::from_utf8(read(file)).unwrap();
    let chart: Value = serde_saphyr::from_str(&read(&CHART[1])).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&env!("CARGO_PKG_VERSION").into(), &env!("CARGO_PKG_VERSION").into())
    );
    let templates: String = CHART[2..8].iter().map(read).collect();
    let values: Value = serde_saphyr::from_str(&read(&CHART[8])).unwrap();
    let image = &values["flannel"]["image"];
    assert_eq!(
        pod().containers[0].image,
        Some(format!("{}:{}", image["repository"].as_str().unwrap(), image["tag"].as_str().unwrap()))
    );
    for key in values["flannel"].as_object().unwrap().keys() {
        assert!(templates.contains(&format!(".flannel.{key}")) || templates.contains(&format!("$f.{key}")), "{key}");
    }
}

/// What flanneld and flannelctl were seen to call, and what a C library or another architecture calls instead; t3 uses it.
#[test]
fn the_seccomp_profile_allows_nothing_that_leads_out() {
    let profile: Value = serde_json::from_slice(&read("kubernetes/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(profile["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]));
    let [only] = profile["syscalls"].as_array().unwrap().as_slice() else { panic!("one list") };
    assert_eq!(only["action"], "SCMP_ACT_ALLOW");
    let names: Vec<&str> = only["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.is_sorted());
    let outward = [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "pivot_root",
        "chroot",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "bpf",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "reboot",
        "mknod",
        "mknodat",
        "keyctl",
        "add_key",
        "perf_event_open",
        "io_uring_setup",
        "userfaultfd",
        "open_by_handle_at",
        "clock_settime",
    ];
    assert!(outward.iter().all(|name| !names.contains(name)));
}

/// The programs that make the image; t3 runs them.
#[test]
fn the_image_holds_what_the_manifest_starts() {
    let build = String::from_utf8(read("image/build")).unwrap();
    for program in ["flanneld", "flannelctl", "cni-plugins"] {
        assert!(build.lines().any(|line| line.starts_with("programs=(") && line.contains(program)), "{program}");
    }
    assert!(build.contains("\"$root/opt/bin/$program\""));
    assert!(String::from_utf8(read("image/bill")).unwrap().contains("CycloneDX"));
}

#[test]
fn modules_are_named() {
    let text = String::from_utf8(read("modules-load.d/flannel.conf")).unwrap();
    let modules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(modules, ["br_netfilter"]);
}
