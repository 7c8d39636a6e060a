//! Real container runtimes, each on a machine of its own, with this project's plugins and Debian's.

use std::process::ExitCode;

use tests::harness::{self, Environment, Outcome, Test};
use tests::need::Need;

mod apiserver;
mod cluster;
mod containerd;
mod control;
mod cri;
mod host;
mod image;
mod lists;
mod machine;
mod manifest;
mod node;
mod podman;
mod pods;

type Failure = Box<dyn std::error::Error>;

/// Each test: for the harness, which boots its machine, and for the machine.
macro_rules! tests {
    ($($module:ident :: $name:ident, $needs:expr;)*) => {
        static TESTS: &[Test] = &[$(Test {
            name: concat!(stringify!($module), "::", stringify!($name)),
            needs: $needs,
            run: || machine::boot(concat!(stringify!($module), "::", stringify!($name))),
        }),*];

        fn on_machine(name: &str) -> Option<fn() -> Outcome> {
            match name {
                $(concat!(stringify!($module), "::", stringify!($name)) => Some($module::$name),)*
                _ => None,
            }
        }
    };
}

/// What every machine needs, and these.
macro_rules! needs {
    ($($more:expr),*) => {
        &[
            Need::Root,
            Need::ControlGroups,
            Need::Program("unshare"),
            Need::Program("ip"),
            Need::Program("nft"),
            Need::Program("iptables"),
            Need::File(host::REFERENCE),
            $($more),*
        ]
    };
}

const HOST: &[Need] = needs!();
const PODMAN: &[Need] = needs!(
    Need::Program("podman"),
    Need::Program("conmon"),
    Need::Program("runc"),
    Need::File("/etc/containers/policy.json"),
    Need::File(image::BUSYBOX)
);
const IMAGE: &[Need] = needs!(
    Need::Program("podman"),
    Need::Program("buildah"),
    Need::Program("conmon"),
    Need::Program("runc"),
    Need::Program("strip"),
    Need::Program("sysctl"),
    Need::File("/etc/containers/policy.json")
);
const APISERVER: &[Need] =
    needs!(Need::Kubernetes, Need::Program("etcd"), Need::Program("etcdctl"), Need::Program("openssl"));
const CLUSTER: &[Need] = needs!(
    Need::Kubernetes,
    Need::Program("etcd"),
    Need::Program("openssl"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("runc"),
    Need::Program("nsenter"),
    Need::File(image::BUSYBOX)
);
const CONTAINERD: &[Need] = needs!(
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("runc"),
    Need::Program("tc"),
    Need::File(image::BUSYBOX)
);

tests! {
    apiserver::the_real_server_answers_as_the_table_says, APISERVER;
    cluster::pods_reach_each_other_services_and_the_outside, CLUSTER;
    cluster::nothing_is_lost_as_flanneld_and_its_backend_change, CLUSTER;
    cluster::nothing_is_lost_while_the_api_server_is_away, CLUSTER;
    cluster::a_node_comes_back_with_another_subnet, CLUSTER;
    lists::kube_flannel, HOST;
    lists::k3s, HOST;
    lists::podman, HOST;
    lists::nerdctl, HOST;
    lists::containerd, HOST;
    lists::crio, HOST;
    lists::nomad, HOST;
    lists::buildkit, HOST;
    lists::kindnet, HOST;
    containerd::a_container_lives_and_goes_on_ours, CONTAINERD;
    containerd::a_container_lives_and_goes_with_their_chained_plugins, CONTAINERD;
    containerd::a_container_lives_and_goes_behind_their_plugins, CONTAINERD;
    containerd::gc_takes_what_ctr_leaves, CONTAINERD;
    pods::a_pod_lives_and_goes_on_ours, CONTAINERD;
    pods::a_pod_lives_and_goes_with_their_chained_plugins, CONTAINERD;
    pods::a_pod_lives_and_goes_behind_their_plugins, CONTAINERD;
    pods::a_pod_on_ptp_lives_and_goes, CONTAINERD;
    pods::limits_of_annotations_are_set, CONTAINERD;
    pods::a_refused_pod_leaves_nothing, CONTAINERD;
    manifest::a_node_runs_the_image, IMAGE;
    manifest::the_seccomp_profile_suffices, IMAGE;
    podman::a_network_lives_and_goes_on_ours, PODMAN;
    podman::a_network_lives_and_goes_with_their_chained_plugins, PODMAN;
    podman::a_network_lives_and_goes_behind_their_plugins, PODMAN;
    podman::a_container_is_started_again, PODMAN;
    podman::bandwidth_is_limited, PODMAN;
    podman::a_refused_container_leaves_nothing, PODMAN;
}

#[expect(clippy::print_stderr, reason = "a test runner's own output")]
fn complain(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// The test itself, in the machine's namespaces.
fn inside(name: &str) -> ExitCode {
    let Some(test) = on_machine(name) else { return complain(&format!("no test is called {name:?}")) };
    match test() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&*error),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [machine::INIT, group, name] => return machine::init(group, name),
        [machine::INSIDE, name] => return inside(name),
        [node::HOLD] => return node::hold(),
        _ => {}
    }
    let environment = Environment {
        tier: "t3",
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO").filter(|_| std::env::var_os("PREBUILT").is_none()),
        drills: false,
        in_vm: false,
    };
    harness::main(TESTS, &environment)
}
