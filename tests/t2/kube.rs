//! The Kubernetes store over HTTP: a double of the API server, and the store as a daemon uses it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::topology::Topology;
use lab::world::World;
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::NetConf;
use store::kubernetes::{HYSTERESIS, NodeName, Options};
use store::{Claim, Held, HoldError, Published, Store, StoreOptions};
use tests::apiserver::{Apiserver, Cut, Objects, Refusal, Streaming, User, claimed, node};
use tokio::time::Instant;

use crate::etcd_server::View;
use crate::{Failure, Outcome};

pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
pub(crate) const CONF: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// The end of an answer that ends too early.
const CUT: Cut = Cut { after: 5000, then_silent: false };

/// Where the test's files are: on the sandbox's own tmpfs.
pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/run/lab/kube")
}

fn listener() -> Result<TcpListener, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?)
}

pub(crate) fn serve(objects: Objects) -> Result<Apiserver, Failure> {
    fs::create_dir_all(dir())?;
    fs::write(dir().join("net-conf.json"), CONF)?;
    Ok(Apiserver::start(listener()?, objects)?)
}

pub(crate) fn options(url: &str) -> Options {
    Options {
        api_url: Some(url.to_owned()),
        kubeconfig: None,
        keys: "flannel.alpha.coreos.com".parse().unwrap_or_else(|error| panic!("{error}")),
        net_config: dir().join("net-conf.json"),
        node: NodeName::Named("n1".into()),
        set_network_unavailable: Some(HYSTERESIS),
        saved: dir().join("nodes.json"),
        answer: store::kubernetes::ANSWER,
    }
}

/// A store as a daemon on the node `n1` uses it.
pub(crate) struct Followed {
    pub(crate) store: Store,
    pub(crate) view: View,
    refused: BTreeMap<String, String>,
    pub(crate) config: Option<String>,
}

impl Followed {
    pub(crate) fn open(options: Options) -> Self {
        let store = Store::open(&StoreOptions::Kubernetes(Box::new(options)), "", Duration::from_secs(3600));
        let view = View { health: store.health(), leases: BTreeMap::new(), changes: 0, snapshots: 0 };
        Self { store, view, refused: BTreeMap::new(), config: None }
    }

    /// Waits until what was delivered is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while !wanted(self) {
            match tokio::time::timeout_at(end, self.store.changes()).await {
                Ok(changes) => self.take(changes?),
                Err(_) => return Err(format!("{what}: last seen {:?} {:?}", self.view, self.refused).into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, changes: store::Changes) {
        for (key, refusal) in &changes.leases.refused {
            match refusal {
                Some(refusal) => drop(self.refused.insert(key.clone(), refusal.to_string())),
                None => drop(self.refused.remove(key)),
            }
        }
        if let Some(config) = &changes.config {
            self.config = config.as_deref().map(|text| String::from_utf8_lossy(text).into_owned());
        }
        self.view.take(changes);
    }

    pub(crate) async fn complete(&mut self) -> Outcome {
        self.until("all Nodes", |seen| seen.view.health.complete).await
    }

    async fn hold(&mut self) -> Result<Held, HoldError> {
        let conf = NetConf::parse(CONF.as_bytes()).unwrap_or_else(|error| panic!("{error}")).conf;
        let (attrs, previous) = (attrs(), Subnets::default());
        let (started, now) = (false, Instant::now());
        self.store.hold(&Claim { conf: &conf, attrs: &attrs, previous, started, now, random: 0, avoid: &[] }).await
    }

    pub(crate) fn keys(&self) -> Vec<&str> {
        self.view.leases.keys().map(String::as_str).collect()
    }
}

/// What this host publishes.
fn attrs() -> LeaseAttrs {
    LeaseAttrs { public_ip: "192.0.2.1".parse().ok(), backend_type: "host-gw".into(), ..LeaseAttrs::default() }
}

/// Does the work on a host of its own, whose loopback device is up.
pub(crate) fn run(work: impl AsyncFnOnce() -> Outcome) -> Outcome {
    let world = World::build(Topology::flat(1))?;
    world.host(1)?.enter(|| block_on(work))?
}

fn block_on(work: impl AsyncFnOnce() -> Outcome) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work());
    runtime.shutdown_background();
    outcome
}

pub(crate) fn busy(code: u16, message: &str, retry_after: u32) -> Refusal {
    Refusal { code, reason: "", message: message.into(), retry_after }
}

/// Nodes `n1` … as other hosts' flannelds have claimed them.
pub(crate) fn cluster(nodes: u8) -> Objects {
    let mut objects = Objects::default();
    for n in 1..=nodes {
        objects.put(claimed(&format!("n{n}"), &format!("10.244.{n}.0/24"), &format!("192.0.2.{n}")));
    }
    objects
}

pub fn nodes_are_leases_as_they_change() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        api.objects(|all| all.put(node("control-plane", &["10.244.9.0/24"])));
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        assert_eq!(seen.keys(), ["10.244.1.0-24", "10.244.2.0-24"], "a Node that no flanneld claims is no lease");

        api.objects(|all| all.put(claimed("n3", "10.244.3.0/24", "192.0.2.3")));
        seen.until("a new Node", |seen| seen.view.leases.len() == 3).await?;
        let public = |seen: &Followed, key: &str| seen.view.leases.get(key).and_then(|attrs| attrs.public_ip);
        api.objects(|all| all.put(claimed("n3", "10.244.3.0/24", "192.0.2.33")));
        let new = "192.0.2.33".parse().ok();
        seen.until("its new address", |seen| public(seen, "10.244.3.0-24") == new).await?;

        // a recreated Node gets another podCIDR: upstream ignores that
        api.objects(|all| all.put(claimed("n3", "10.244.30.0/24", "192.0.2.33")));
        seen.until("its new podCIDR", |seen| seen.keys() == ["10.244.1.0-24", "10.244.2.0-24", "10.244.30.0-24"])
            .await?;

        api.objects(|all| all.put(claimed("n4", "10.244.30.0/24", "192.0.2.4")));
        let why = |seen: &Followed| seen.refused.get("node n4").cloned().unwrap_or_default();
        seen.until("a second holder", |seen| why(seen).contains("the node n3 has the same podCIDR")).await?;
        api.objects(|all| all.delete("n3"));
        seen.until("the second holder alone", |seen| {
            seen.refused.is_empty() && public(seen, "10.244.30.0-24") == "192.0.2.4".parse().ok()
        })
        .await?;

        api.objects(|all| all.change("n4", |node| node["metadata"]["annotations"] = serde_json::json!({})));
        seen.until("a Node that is not claimed any more", |seen| seen.keys() == ["10.244.1.0-24", "10.244.2.0-24"])
            .await
    })
}

pub fn heartbeats_wake_nobody() -> Outcome {
    run(async || {
        let api = serve(cluster(3))?;
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        let before = seen.view.changes;
        for beat in 0..1000_u32 {
            api.objects(|all| {
                all.change(&format!("n{}", beat % 3 + 1), |node| {
                    node["status"]["conditions"][0]["lastHeartbeatTime"] = beat.into();
                });
            });
        }
        api.objects(|all| all.put(claimed("n4", "10.244.4.0/24", "192.0.2.4")));
        seen.until("the Node after the heartbeats", |seen| seen.view.leases.len() == 4).await?;
        assert_eq!(seen.view.changes, before + 1, "only the new Node is a change");
        Ok(())
    })
}

pub fn servers_without_streaming_lists_are_read_by_pages() -> Outcome {
    run(async || {
        for streaming in [Streaming::Full, Streaming::Forbidden, Streaming::NoProgress] {
            let api = serve(cluster(250))?;
            api.faults(|faults| faults.streaming = streaming);
            let mut seen = Followed::open(options(&api.url()));
            seen.complete().await?;
            assert_eq!(seen.view.leases.len(), 250, "{streaming:?}");
            let pages = api.requests().iter().filter(|request| request.contains("limit=")).count();
            assert_eq!(pages, if streaming == Streaming::Full { 0 } else { 3 }, "{streaming:?}");
            // the watch follows, however the Nodes were read
            api.objects(|all| all.delete("n7"));
            seen.until("a deleted Node", |seen| seen.view.leases.len() == 249).await?;
            fs::remove_dir_all(dir())?;
        }
        Ok(())
    })
}

pub fn a_watch_goes_on_where_it_ended() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        // the server ends each watch after a short time, which is no error
        api.faults(|faults| faults.watches = Duration::from_millis(300));
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        api.requests();
        for n in 3..6 {
            let key = format!("10.244.{n}.0-24");
            api.objects(|all| all.put(claimed(&format!("n{n}"), &format!("10.244.{n}.0/24"), "192.0.2.9")));
            seen.until(&key, |seen| seen.view.leases.contains_key(&key)).await?;
            api.hang_up();
        }
        let again = |request: &&String| request.contains("sendInitialEvents") || request.contains("limit=");
        assert_eq!(api.requests().iter().find(again), None, "nothing is read again");
        assert_eq!(seen.view.snapshots, 1);

        // what the server has forgotten is read again
        api.objects(|all| {
            all.delete("n3");
            all.put(node("other", &[]));
            all.compact();
        });
        api.hang_up();
        seen.until("what happened meanwhile", |seen| seen.view.health.complete && seen.view.leases.len() == 4).await
    })
}

pub fn refusals_are_said_and_outlived() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let denied =
            r#"nodes is forbidden: User "system:serviceaccount:kube-flannel:flannel" cannot watch resource "nodes""#;
        api.faults(|faults| {
            faults.refuse.extend([
                busy(429, "too many requests", 1),
                busy(503, "the server is starting", 0),
                busy(403, denied, 0),
            ]);
        });
        let mut seen = Followed::open(options(&api.url()));
        let says =
            |seen: &Followed, text: &str| seen.view.health.error.as_deref().is_some_and(|error| error.contains(text));
        seen.until("the server is busy", |seen| says(seen, "too many requests (429) (the server is busy; retrying)"))
            .await?;
        seen.until("the server starts", |seen| says(seen, "the server is starting (503)")).await?;
        seen.until("a verb is missing", |seen| says(seen, "ClusterRole needs: nodes get, list, watch")).await?;
        seen.complete().await?;

        api.faults(|faults| faults.users = vec![User::admin("another")]);
        api.hang_up();
        seen.until("the token is of another cluster", |seen| says(seen, "Unauthorized (401) (is the token expired"))
            .await?;
        assert_eq!(seen.view.leases.len(), 2, "the last known leases stay");
        api.faults(|faults| faults.users.clear());
        seen.complete().await
    })
}

pub fn half_an_answer_is_no_answer() -> Outcome {
    run(async || {
        for streaming in [Streaming::Full, Streaming::Forbidden] {
            let api = serve(cluster(50))?;
            api.faults(|faults| (faults.streaming, faults.cut) = (streaming, Some(CUT)));
            let mut seen = Followed::open(options(&api.url()));
            seen.until("an error", |seen| seen.view.health.error.is_some()).await?;
            assert!(!seen.view.health.complete && seen.view.leases.is_empty(), "{:?}", seen.view);
            api.faults(|faults| faults.cut = None);
            seen.complete().await?;
            assert_eq!(seen.view.leases.len(), 50);
            // what was saved would be the next one's first view
            drop(seen);
            fs::remove_dir_all(dir())?;
        }
        Ok(())
    })
}

pub fn the_lease_is_the_nodes_pod_cidr() -> Outcome {
    run(async || {
        let api = serve(Objects::default())?;
        let mut options = options(&api.url());
        options.node = NodeName::OfPod { namespace: "kube-flannel".into(), pod: "kube-flannel-ds-x".into() };
        api.objects(|all| all.pod("kube-flannel", "kube-flannel-ds-x", "n1"));
        let mut seen = Followed::open(options);
        seen.complete().await?;
        let error = seen.hold().await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(r#"the node "n1" does not exist"#), "{error}");

        // a Node without annotations, as the API allows
        api.objects(|all| all.put(serde_json::json!({ "metadata": { "name": "n1" }, "spec": {} })));
        let changes = seen.view.changes;
        seen.until("the Node", |seen| seen.view.changes > changes).await?;
        let error = seen.hold().await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(r#"node "n1" pod cidr not assigned"#), "{error}");

        let changes = seen.view.changes;
        api.objects(|all| all.change("n1", |node| node["spec"]["podCIDR"] = "10.244.1.0/24".into()));
        seen.until("its podCIDR", |seen| seen.view.changes > changes).await?;
        assert_eq!(seen.hold().await?.subnets.to_string(), "10.244.1.0-24");
        assert_eq!(seen.store.publish(&attrs()).await?, Published::Written);
        assert_eq!(seen.store.publish(&attrs()).await?, Published::Unchanged);
        let node = api.objects(|all| all.node("n1")).unwrap_or_default();
        let expected = serde_json::json!({
            "flannel.alpha.coreos.com/backend-data": "null", "flannel.alpha.coreos.com/backend-type": "host-gw",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true", "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        });
        assert_eq!(node["metadata"]["annotations"], expected);
        assert_eq!(seen.store.published(), Some(attrs()));
        seen.until("it among the leases", |seen| seen.keys() == ["10.244.1.0-24"]).await?;

        // the operator's address is published instead of this host's own
        let overwrite = "flannel.alpha.coreos.com/public-ip-overwrite";
        let changes = seen.view.changes;
        api.objects(|all| all.change("n1", |node| node["metadata"]["annotations"][overwrite] = "198.51.100.1".into()));
        seen.until("the annotation", |seen| seen.view.changes > changes).await?;
        assert_eq!(seen.store.publish(&attrs()).await?, Published::Written);
        assert_eq!(api.objects(|all| all.annotation("n1", "public-ip")).as_deref(), Some("198.51.100.1"));
        assert_eq!(seen.store.publish(&attrs()).await?, Published::Unchanged);
        Ok(())
    })
}

pub fn another_writer_of_the_annotations_is_not_fought_with() -> Outcome {
    run(async || {
        let mut objects = cluster(2);
        objects.change("n1", |node| node["spec"]["podCIDRs"] = serde_json::json!(["10.244.1.0/24"]));
        let api = serve(objects)?;
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        seen.hold().await?;
        let mut waits = 0;
        for round in 0..6 {
            let changes = seen.view.changes;
            let other = format!("192.0.2.{}", 100 + round);
            api.objects(|all| all.put(claimed("n1", "10.244.1.0/24", &other)));
            seen.until("the other writer", |seen| seen.view.changes > changes).await?;
            waits += usize::from(matches!(seen.store.publish(&attrs()).await?, Published::After(_)));
        }
        assert!(waits > 0, "a write each time");
        Ok(())
    })
}

pub fn the_last_known_leases_outlive_the_server() -> Outcome {
    run(async || {
        let api = serve(cluster(3))?;
        let url = api.url();
        let mut seen = Followed::open(options(&url));
        seen.complete().await?;
        // it is written by the store itself, off this thread
        let saved = dir().join("nodes.json");
        let end = Instant::now() + PATIENCE;
        while !saved.exists() {
            assert!(Instant::now() < end, "{} is not written", saved.display());
            let _ = tokio::time::timeout(Duration::from_millis(20), seen.store.changes()).await;
        }
        drop(seen);
        let objects = api.stop();

        let mut again = Followed::open(options(&url));
        again.until("what was saved", |seen| seen.view.health.remembered.is_some()).await?;
        assert_eq!(again.view.leases.len(), 3);
        assert!(!again.view.health.complete, "nothing is deleted for what was saved");
        assert_eq!(again.config.as_deref(), Some(CONF));
        assert_eq!(again.hold().await?.subnets.to_string(), "10.244.1.0-24");
        again.until("the error", |seen| seen.view.health.error.is_some()).await?;
        assert!(again.view.health.remembered.is_some());

        let port = url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).ok_or("no port")?;
        let back = Apiserver::start(TcpListener::bind(("127.0.0.1", port))?, objects)?;
        back.objects(|all| all.delete("n3"));
        again.until("the server", |seen| seen.view.health.complete && seen.view.leases.len() == 2).await?;
        assert_eq!((again.view.health.remembered, again.view.health.error.clone()), (None, None));
        Ok(())
    })
}

pub fn the_condition_follows_the_network() -> Outcome {
    run(async || {
        let api = serve(cluster(1))?;
        let condition = || api.objects(|all| all.condition("n1", "NetworkUnavailable"));
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        seen.store.network_is(false);
        assert_eq!(condition(), None, "before the first success the cluster's condition stays");
        seen.store.network_is(true);
        let end = Instant::now() + PATIENCE;
        while condition().is_none() {
            assert!(Instant::now() < end, "no condition");
            let _ = tokio::time::timeout(Duration::from_millis(20), seen.store.changes()).await;
        }
        let written = condition().unwrap_or_default();
        let words = ["status", "reason", "message"].map(|key| written[key].as_str().unwrap_or_default().to_owned());
        assert_eq!(words, ["False", "FlannelIsUp", "Flannel is running on this node"]);
        let node = api.objects(|all| all.node("n1")).unwrap_or_default();
        assert_eq!(node["status"]["conditions"].as_array().map(Vec::len), Some(2), "the kubelet's condition stays");

        // a Node that is deleted and registered again has no condition of flannel's
        api.objects(|all| {
            all.delete("n1");
            all.put(claimed("n1", "10.244.7.0/24", "192.0.2.1"));
        });
        let end = Instant::now() + PATIENCE;
        while condition().is_none_or(|condition| condition["status"] != "False") {
            assert!(Instant::now() < end, "no condition of the new Node");
            let _ = tokio::time::timeout(Duration::from_millis(20), seen.store.changes()).await;
        }
        Ok(())
    })
}

pub fn a_config_map_that_is_replaced_is_followed() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        // as the kubelet mounts a ConfigMap: the file is a link through a link to a folder
        let mount = dir().join("mount");
        let put = |folder: &str, text: &str| -> Outcome {
            fs::create_dir_all(mount.join(folder))?;
            fs::write(mount.join(folder).join("net-conf.json"), text)?;
            let _ = fs::remove_file(mount.join("..data_tmp"));
            std::os::unix::fs::symlink(folder, mount.join("..data_tmp"))?;
            Ok(fs::rename(mount.join("..data_tmp"), mount.join("..data"))?)
        };
        put("..one", CONF)?;
        std::os::unix::fs::symlink("..data/net-conf.json", mount.join("net-conf.json"))?;
        let mut options = options(&api.url());
        options.net_config = mount.join("net-conf.json");
        let mut seen = Followed::open(options);
        seen.complete().await?;
        assert_eq!(seen.config.as_deref(), Some(CONF));
        let dual = CONF.replace("10.244.0.0/16\"", "10.244.0.0/16\",\"EnableIPv6\":true,\"IPv6Network\":\"fd00::/48\"");
        put("..two", &dual)?;
        seen.until("the new configuration", |seen| seen.config.as_deref() == Some(&dual)).await?;

        // Nodes are read with the families of the new configuration
        api.objects(|all| {
            all.change("n2", |node| {
                node["spec"]["podCIDRs"] = serde_json::json!(["10.244.2.0/24", "fd00:0:0:2::/64"]);
            });
        });
        seen.until("both families", |seen| seen.keys() == ["10.244.1.0-24", "10.244.2.0-24&fd00:0:0:2::-64"]).await?;
        fs::remove_file(Path::new(&mount).join("..data"))?;
        seen.until("no configuration", |seen| seen.config.is_none()).await
    })
}
