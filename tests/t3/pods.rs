//! containerd by CRI, as kubelet calls it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::wait::eventually;

use crate::containerd::{Containerd, SOCKET, network};
use crate::cri::{Cri, LinuxSandbox, Metadata, PortMapping, SandboxConfig};
use crate::host::{Whose, fetch_in, left, nothing_left, serve};
use crate::{Failure, Outcome, host};

/// What pods leave in packet rules: their addresses.
const ADDRESSES: [&str; 2] = ["10.77.0.", "fd77::"];
const PATIENCE: Duration = Duration::from_secs(20);

/// A pod of this name whose port 80 is the host's 8080.
fn pod(name: &str) -> SandboxConfig {
    SandboxConfig {
        metadata: Some(Metadata { name: name.into(), uid: name.into(), namespace: "tests".into(), attempt: 0 }),
        hostname: name.into(),
        linux: Some(LinuxSandbox::default()),
        ..SandboxConfig::default()
    }
}

fn published(name: &str) -> SandboxConfig {
    let port = PortMapping { protocol: 0, container_port: 80, host_port: 8080, host_ip: String::new() };
    SandboxConfig { port_mappings: vec![port], ..pod(name) }
}

/// Starts a pod, and returns its ID and the path of its network namespace.
fn run(cri: &Cri, config: SandboxConfig) -> Result<(String, PathBuf), Failure> {
    let before = namespaces()?;
    let id = cri.run(config)?;
    let new = namespaces()?.into_iter().find(|netns| !before.contains(netns));
    Ok((id, new.ok_or("the pod has no network namespace")?))
}

fn namespaces() -> Result<BTreeSet<PathBuf>, Failure> {
    let entries = fs::read_dir("/run/netns")?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<BTreeSet<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.to_string_lossy().contains("cni-")).collect())
}

fn ready(cri: &Cri) -> Outcome {
    let look = || match cri.not_ready() {
        Ok(wrong) if wrong.is_empty() => Ok(()),
        Ok(wrong) => Err(format!("{wrong:?}")),
        Err(error) => Err(error.to_string()),
    };
    Ok(eventually("the runtime is ready", PATIENCE, look)?)
}

/// RunPodSandbox with a host port, status, traffic, stop, remove.
fn a_pod_lives_and_goes(whose: Whose) -> Outcome {
    let containerd = Containerd::new(whose, &network())?;
    let cri = Cri::connect(SOCKET)?;
    ready(&cri)?;
    let (one, netns) = run(&cri, published("one"))?;
    let (two, other) = run(&cri, pod("two"))?;
    assert_eq!(cri.status(&one)?, (true, vec!["10.77.0.2".to_owned(), "fd77::2".to_owned()]));
    assert_eq!(cri.status(&two)?, (true, vec!["10.77.0.3".to_owned(), "fd77::3".to_owned()]));
    for at in ["10.77.0.2:81", "[fd77::2]:81"] {
        let server = serve(&netns, 81, b"to the other pod".to_vec())?;
        assert_eq!(fetch_in(&other, at.parse()?)?, "to the other pod");
        server.done()?;
    }
    let server = serve(&netns, 80, b"to outside".to_vec())?;
    assert_eq!(containerd.host.fetch(8080)?, "to outside");
    server.done()?;
    cri.remove(&one)?;
    cri.remove(&two)?;
    nothing_left(&ADDRESSES)
}

pub fn a_pod_lives_and_goes_on_ours() -> Outcome {
    a_pod_lives_and_goes(Whose::Ours)
}

pub fn a_pod_lives_and_goes_with_their_chained_plugins() -> Outcome {
    a_pod_lives_and_goes(Whose::OursThenTheirs)
}

pub fn a_pod_lives_and_goes_behind_their_plugins() -> Outcome {
    a_pod_lives_and_goes(Whose::TheirsThenOurs)
}

/// The annotations of kubelet limit what the pod receives and sends. containerd asks for a burst that takes gigabytes to use
/// up, so that no transfer shows the rate.
pub fn limits_of_annotations_are_set() -> Outcome {
    let _containerd = Containerd::new(Whose::Ours, &network())?;
    let cri = Cri::connect(SOCKET)?;
    let limits = [("kubernetes.io/ingress-bandwidth", "8M"), ("kubernetes.io/egress-bandwidth", "4M")];
    let annotations = limits.map(|(key, rate)| (key.to_owned(), rate.to_owned())).into();
    let (slow, _) = run(&cri, SandboxConfig { annotations, ..pod("slow") })?;
    let (fast, _) = run(&cri, pod("fast"))?;
    let shown = host::run("tc", &["qdisc", "show"])?;
    let limited: Vec<&str> = shown.lines().filter(|line| line.contains("qdisc tbf")).collect();
    assert_eq!(limited.len(), 2, "one in each direction: {shown}");
    for (dev, rate) in [("dev veth", "rate 8Mbit"), ("dev bwp", "rate 4Mbit")] {
        assert!(limited.iter().any(|line| line.contains(dev) && line.contains(rate)), "{dev} {rate}: {shown}");
    }
    cri.remove(&slow)?;
    cri.remove(&fast)?;
    nothing_left(&ADDRESSES)
}

/// A pod that cannot have a network is refused with the plugin's words, and leaves nothing.
pub fn a_refused_pod_leaves_nothing() -> Outcome {
    let mut network = network();
    network["plugins"][0]["ipam"]["ranges"] = serde_json::json!([[{ "subnet": "10.77.0.0/30" }]]);
    network["plugins"][0]["ipam"]["routes"] = serde_json::json!([{ "dst": "0.0.0.0/0" }]);
    let _containerd = Containerd::new(Whose::Ours, &network)?;
    let cri = Cri::connect(SOCKET)?;
    let (one, _) = run(&cri, pod("one"))?;
    let before = left(&ADDRESSES)?;
    let error = run(&cri, pod("two")).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("no IP addresses available in range set"), "{error}");
    assert_eq!(left(&ADDRESSES)?, before);
    cri.remove(&one)?;
    nothing_left(&ADDRESSES)
}

/// A pod without a pair's bridge: kindnet's way.
pub fn a_pod_on_ptp_lives_and_goes() -> Outcome {
    let mut network = network();
    network["plugins"][0]["type"] = serde_json::json!("ptp");
    let containerd = Containerd::new(Whose::Ours, &network)?;
    let cri = Cri::connect(SOCKET)?;
    let (one, netns) = run(&cri, published("one"))?;
    let (two, other) = run(&cri, pod("two"))?;
    for at in ["10.77.0.2:81", "[fd77::2]:81"] {
        let server = serve(&netns, 81, b"to the other pod".to_vec())?;
        assert_eq!(fetch_in(&other, at.parse()?)?, "to the other pod");
        server.done()?;
    }
    let server = serve(&netns, 80, b"to outside".to_vec())?;
    assert_eq!(containerd.host.fetch(8080)?, "to outside");
    server.done()?;
    let here = Path::new("/proc/self/ns/net");
    let server = serve(&other, 80, b"to the host".to_vec())?;
    assert_eq!(fetch_in(here, "10.77.0.3:80".parse()?)?, "to the host");
    server.done()?;
    cri.remove(&one)?;
    cri.remove(&two)?;
    nothing_left(&ADDRESSES)
}
