//! TLS and credentials of the API server, and a server that does not answer.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use store::kubernetes::Options;
use tests::apiserver::tls::{Authority, identity};
use tests::apiserver::{Apiserver, Cut, Streaming, User, claimed, client};

use crate::kube::{Followed, cluster, dir, options, run, serve};
use crate::{Failure, Outcome};

/// How long these servers may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

fn quick(url: &str) -> Options {
    Options { answer: ANSWER, ..options(url) }
}

fn authority() -> Result<Authority, Failure> {
    Authority::make(&dir().join("pki"), "cluster")
}

/// A server that proves itself with a new certificate of this authority.
fn identify(api: &Apiserver, authority: &Authority) -> Outcome {
    api.identify(Some(identity(&authority.sign("apiserver", &["127.0.0.1"])?)?));
    Ok(())
}

/// The options of a host with a kubeconfig file whose token is in the file `token`.
fn with_kubeconfig(url: &str, authority: &Authority) -> Result<Options, Failure> {
    let mut config = client::kubeconfig(url, Some(&authority.certificate()), "");
    config["users"][0]["user"] = json!({ "tokenFile": token() });
    let path = dir().join("kubeconfig");
    fs::write(&path, config.to_string())?;
    Ok(Options { api_url: None, kubeconfig: Some(path), ..quick(url) })
}

fn token() -> PathBuf {
    dir().join("token")
}

/// Waits until the watch has begun, by a change that it delivers: a connection that comes later is not hung up.
async fn watches(api: &Apiserver, seen: &mut Followed) -> Outcome {
    let before = seen.view.changes;
    api.objects(|all| all.put(claimed("n2", "10.244.2.0/24", &format!("192.0.2.{}", 100 + before))));
    seen.until("a change", |seen| seen.view.changes > before).await
}

fn says(seen: &Followed, text: &str) -> bool {
    seen.view.health.error.as_deref().is_some_and(|error| error.contains(text))
}

pub fn a_rotated_authority_and_token_are_read_anew() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        let old = authority()?;
        identify(&api, &old)?;
        api.faults(|faults| faults.users = vec![User::admin("first")]);
        fs::write(token(), "first")?;
        let mut seen = Followed::open(with_kubeconfig(&api.url(), &old)?);
        seen.complete().await?;
        assert!(seen.view.health.name.starts_with("kubernetes https://127.0.0.1:"), "{}", seen.view.health.name);

        // the server has the new certificate before this host has the new authority
        let new = Authority::make(&dir().join("new"), "cluster")?;
        identify(&api, &new)?;
        watches(&api, &mut seen).await?;
        api.hang_up();
        seen.until("another authority", |seen| says(seen, "invalid peer certificate")).await?;
        assert_eq!(seen.view.leases.len(), 2, "the last known leases stay");
        fs::copy(new.certificate(), old.certificate())?;
        seen.complete().await?;

        // the server takes the new token alone before this host has it
        api.faults(|faults| faults.users = vec![User::admin("second")]);
        watches(&api, &mut seen).await?;
        api.hang_up();
        seen.until("another token", |seen| says(seen, "Unauthorized (401) (is the token expired")).await?;
        fs::write(token(), "second")?;
        seen.complete().await?;
        assert_eq!(seen.view.leases.len(), 2);

        // a token that is renewed in time costs nothing
        fs::write(token(), "third")?;
        api.faults(|faults| faults.users = vec![User::admin("second"), User::admin("third")]);
        api.objects(|all| all.delete("n2"));
        seen.until("a deleted Node", |seen| seen.view.leases.len() == 1 && seen.view.health.error.is_none()).await
    })
}

pub fn a_certificate_for_another_name_is_refused() -> Outcome {
    run(async || {
        let api = serve(cluster(1))?;
        let authority = authority()?;
        api.identify(Some(identity(&authority.sign("apiserver", &["192.0.2.9", "elsewhere"])?)?));
        fs::write(token(), "t")?;
        let mut seen = Followed::open(with_kubeconfig(&api.url(), &authority)?);
        seen.until("a refusal", |seen| says(seen, "certificate not valid for name \"127.0.0.1\"")).await?;
        assert!(!seen.view.health.complete && seen.view.leases.is_empty(), "{:?}", seen.view);
        Ok(())
    })
}

pub fn a_silent_server_is_given_up_and_asked_again() -> Outcome {
    run(async || {
        let api = serve(cluster(2))?;
        api.faults(|faults| faults.silent = true);
        let mut seen = Followed::open(quick(&api.url()));
        seen.until("no answer", |seen| says(seen, "no answer within 1 s")).await?;
        assert!(!seen.view.health.complete && seen.view.leases.is_empty(), "{:?}", seen.view);
        api.faults(|faults| faults.silent = false);
        seen.complete().await?;
        assert_eq!(seen.view.leases.len(), 2);

        // by TLS the silence begins before the first request
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://{}", listener.local_addr()?);
        let mut seen = Followed::open(quick(&url));
        seen.until("no answer", |seen| says(seen, "no answer within 1 s")).await
    })
}

pub fn an_answer_that_stops_halfway_is_given_up() -> Outcome {
    run(async || {
        for streaming in [Streaming::Full, Streaming::Forbidden] {
            let api = serve(cluster(50))?;
            let cut = Cut { after: 5000, then_silent: true };
            api.faults(|faults| (faults.streaming, faults.cut) = (streaming, Some(cut)));
            let mut seen = Followed::open(quick(&api.url()));
            seen.until("no answer", |seen| says(seen, "no answer within 1 s")).await?;
            assert!(!seen.view.health.complete && seen.view.leases.is_empty(), "{streaming:?}: {:?}", seen.view);
            api.faults(|faults| faults.cut = None);
            seen.complete().await?;
            assert_eq!(seen.view.leases.len(), 50, "{streaming:?}");
            // what was saved would be the next one's first view
            drop(seen);
            fs::remove_dir_all(dir())?;
        }
        Ok(())
    })
}
