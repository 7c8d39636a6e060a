//! The Kubernetes store while the API server is away or ends each watch at once, and the Node's condition while the network
//! does not work.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::apiserver::Apiserver;
use tokio::time::Instant;

use crate::kube::{CONF, Followed, PATIENCE, busy, cluster, dir, options, run, serve};
use crate::{Failure, Outcome};

/// So many attempts take at least the pauses between them: 100 ms, 200 ms, 400 ms, 800 ms.
const ATTEMPTS: usize = 5;
const AT_LEAST: Duration = Duration::from_millis(1500);

/// Lets the store work until `seen` says that something has come.
async fn until(store: &mut Followed, what: &str, mut seen: impl FnMut() -> bool) -> Outcome {
    let end = Instant::now() + PATIENCE;
    while !seen() {
        if Instant::now() > end {
            return Err(format!("{what}: not within {} s", PATIENCE.as_secs()).into());
        }
        let _ = tokio::time::timeout(Duration::from_millis(20), store.store.changes()).await;
    }
    Ok(())
}

/// The attempts come ever more slowly.
async fn asked_less_often(store: &mut Followed, mut attempts: impl FnMut() -> usize) -> Outcome {
    let (begun, before) = (Instant::now(), attempts());
    until(store, "attempts", || attempts() - before >= ATTEMPTS).await?;
    let took = begun.elapsed();
    assert!(took >= AT_LEAST, "{ATTEMPTS} attempts within {took:?}");
    Ok(())
}

/// The number of requests with these words until now.
fn requests(api: &Apiserver, words: &'static str) -> impl FnMut() -> usize {
    let mut count = 0;
    move || {
        count += api.requests().iter().filter(|asked| asked.contains(words)).count();
        count
    }
}

fn port(url: &str) -> Result<u16, Failure> {
    Ok(url.rsplit(':').next().ok_or("no port")?.parse()?)
}

/// Counts connections, and ends each at once.
fn count(listener: TcpListener) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    count
}

pub fn a_server_that_is_away_is_asked_less_and_less_often() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let url = api.url();
        let mut seen = Followed::open(options(&url));
        seen.complete().await?;
        drop(api);
        let attempts = count(TcpListener::bind(("127.0.0.1", port(&url)?))?);
        asked_less_often(&mut seen, || attempts.load(Ordering::SeqCst)).await?;
        assert_eq!(seen.keys(), ["10.244.1.0-24", "10.244.2.0-24"], "the last known leases stay");
        Ok(())
    })
}

pub fn a_server_that_refuses_is_asked_less_and_less_often() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        api.faults(|faults| faults.refuse.extend((0..1000).map(|_| busy(503, "the server is starting", 0))));
        api.hang_up();
        asked_less_often(&mut seen, requests(&api, "watch=true")).await
    })
}

pub fn a_server_that_ends_each_watch_is_asked_less_and_less_often() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let mut seen = Followed::open(options(&api.url()));
        seen.complete().await?;
        api.faults(|faults| faults.watches = Duration::ZERO);
        api.hang_up();
        asked_less_often(&mut seen, requests(&api, "watch=true")).await?;
        assert_eq!(seen.keys(), ["10.244.1.0-24", "10.244.2.0-24"]);
        Ok(())
    })
}

pub fn a_configuration_that_changes_meanwhile_is_followed() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let url = api.url();
        let mut seen = Followed::open(options(&url));
        seen.complete().await?;
        let mut objects = api.stop();
        seen.until("the server is away", |seen| seen.view.health.error.is_some()).await?;
        let dual = CONF.replace("10.244.0.0/16\"", "10.244.0.0/16\",\"EnableIPv6\":true,\"IPv6Network\":\"fd00::/48\"");
        fs::write(dir().join("net-conf.json"), &dual)?;
        objects.change("n2", |node| node["spec"]["podCIDRs"] = json!(["10.244.2.0/24", "fd00:0:0:2::/64"]));
        let back = Apiserver::start(TcpListener::bind(("127.0.0.1", port(&url)?))?, objects)?;
        seen.until("the new configuration", |seen| seen.config.as_deref() == Some(&dual)).await?;
        seen.until("both families", |seen| seen.keys() == ["10.244.1.0-24", "10.244.2.0-24&fd00:0:0:2::-64"]).await?;
        drop(back);
        Ok(())
    })
}

fn condition(api: &Apiserver) -> Value {
    api.objects(|all| all.condition("n1", "NetworkUnavailable")).unwrap_or_default()
}

/// A store that has written that the network of `n1` works, and that says at once when it does not.
async fn written(api: &Apiserver) -> Result<Followed, Failure> {
    let mut options = options(&api.url());
    options.set_network_unavailable = Some(Duration::ZERO);
    let mut seen = Followed::open(options);
    seen.complete().await?;
    seen.store.network_is(true);
    until(&mut seen, "the condition", || condition(api)["status"] == "False").await?;
    Ok(seen)
}

pub fn a_network_that_does_not_work_is_said() -> Outcome {
    run(async || {
        let api = serve(cluster(1))?;
        let mut seen = written(&api).await?;
        seen.store.network_is(false);
        until(&mut seen, "it is down", || condition(&api)["status"] == "True").await?;
        assert_eq!(condition(&api)["reason"], "FlannelIsDown");
        seen.store.network_is(true);
        until(&mut seen, "it is up", || condition(&api)["status"] == "False").await?;
        assert_eq!(condition(&api)["reason"], "FlannelIsUp");
        Ok(())
    })
}

pub fn another_writer_of_the_condition_keeps_it() -> Outcome {
    run(async || {
        let api = serve(cluster(1))?;
        let mut seen = written(&api).await?;
        let theirs = json!({ "type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated" });
        api.objects(|all| {
            all.change("n1", |node| {
                let conditions = node["status"]["conditions"].as_array_mut();
                let known = conditions.into_iter().flatten().find(|known| known["type"] == "NetworkUnavailable");
                known.into_iter().for_each(|known| *known = theirs.clone());
            });
        });
        let mut asked: Vec<String> = Vec::new();
        api.requests();
        // the condition is read before each write: the second reading comes after all that the first one led to
        for (up, reads) in [(false, 1), (true, 2)] {
            seen.store.network_is(up);
            until(&mut seen, "the condition is read", || {
                asked.extend(api.requests());
                asked.iter().filter(|asked| *asked == "GET /api/v1/nodes/n1").count() >= reads
            })
            .await?;
        }
        assert!(!asked.iter().any(|asked| asked.starts_with("PATCH")), "{asked:?}");
        assert_eq!(condition(&api), theirs);
        Ok(())
    })
}
