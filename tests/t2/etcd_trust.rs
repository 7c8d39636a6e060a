//! TLS and users: who etcd is, and who this host is to etcd.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use store::etcd::{Asked, Options, Secret};

use overlay::lease::StoredAttrs;

use crate::etcd_server::{Lab, Start, dir, quick, value, with_store};
use crate::{Failure, Outcome};

const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
const KEY: &str = "10.5.1.0-24";

fn openssl(args: &[&str]) -> Outcome {
    let output = Command::new("openssl").args(args).current_dir(dir()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("openssl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into())
}

/// An authority `ca.pem`, and `server` and `client` signed by it.
fn certificates(addr: &str) -> Outcome {
    fs::create_dir_all(dir())?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let new = |name: &str, more: &[&str]| {
        let (subject, file) = (format!("/CN={name}"), format!("{name}.key"));
        openssl(&[&["req"], &key[..], &["-subj", &subject, "-keyout", &file], more].concat())
    };
    new("ca", &["-x509", "-days", "2", "-out", "ca.pem"])?;
    let extensions = format!("subjectAltName=IP:{addr}\nextendedKeyUsage=serverAuth,clientAuth\n");
    fs::write(dir().join("extensions"), extensions)?;
    for name in ["server", "client"] {
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        new(name, &["-out", &request])?;
        let sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"];
        openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate], &sign[..]].concat())?;
    }
    Ok(())
}

fn file(name: &str) -> PathBuf {
    dir().join(name)
}

fn checked(asked: Asked) -> Result<Options, Failure> {
    Ok(quick(Options::check(asked).map_err(|mistakes| mistakes.join("; "))?))
}

fn start() -> Start {
    let path = |name: &str| file(name).display().to_string();
    let more = vec![
        format!("--cert-file={}", path("server.pem")),
        format!("--key-file={}", path("server.key")),
        format!("--trusted-ca-file={}", path("ca.pem")),
        "--client-cert-auth".into(),
    ];
    Start { more, tls: true, ..Start::default() }
}

fn asked(lab: &Lab, ca: &Path, pair: bool) -> Asked {
    Asked {
        // certificates mean TLS, whatever the scheme
        endpoints: Some(lab.etcd.url().replace("https", "http")),
        ca_file: Some(ca.to_owned()),
        cert_file: pair.then(|| file("client.pem")),
        key_file: pair.then(|| file("client.key")),
        ..Asked::default()
    }
}

pub fn certificates_are_read_anew() -> Outcome {
    let mut lab = Lab::prepare(1, &start())?;
    certificates("192.168.1.12")?;
    lab.etcd.start(&lab.world)?;
    fs::copy(file("ca.pem"), file("old-ca.pem"))?;
    let options = checked(asked(&lab, &file("ca.pem"), true))?;
    let (old_ca, no_pair) = (asked(&lab, &file("old-ca.pem"), true), asked(&lab, &file("ca.pem"), false));
    let Lab { world, etcd } = &mut lab;
    with_store(world, options, async |store| {
        let view = store.until("etcd by TLS", |view| view.health.complete).await?;
        assert!(view.health.name.starts_with("etcd https://"), "{}", view.health.name);
        assert_eq!(store.addresses(), ["192.168.1.12".parse::<IpAddr>()?]);
        assert!(store.create(KEY, value(1).as_bytes(), DAY).await?.is_done());
        // Another authority: the previous certificate is no longer accepted.
        etcd.kill()?;
        certificates("192.168.1.12")?;
        store.until("its end", |view| !view.health.complete).await?;
        etcd.start(world)?;
        store.until("etcd by the new certificates", |view| view.health.complete && view.leases.len() == 1).await?;
        assert!(store.renew(KEY, value(1).as_bytes(), value(2).as_bytes(), DAY).await?.is_done());
        Ok(())
    })?;
    for (asked, words) in [(old_ca, "certificate"), (no_pair, "etcd may require a client certificate")] {
        with_store(world, checked(asked)?, async |store| {
            let view = store.until("an error", |view| view.health.error.is_some()).await?;
            let error = view.health.error.unwrap_or_default();
            assert!(!view.health.complete && error.starts_with("etcd") && error.contains(words), "{error}");
            Ok(())
        })?;
    }
    let missing = Asked { ca_file: Some(file("no-such.pem")), ..asked(&lab, &file("ca.pem"), true) };
    with_store(&lab.world, checked(missing)?, async |store| {
        let view = store.until("an error", |view| view.health.error.is_some()).await?;
        let error = view.health.error.unwrap_or_default();
        assert!(error.contains("no-such.pem: No such file"), "{error}");
        Ok(())
    })
}

fn login(lab: &Lab, user: &str, password: &str) -> Result<Options, Failure> {
    checked(Asked {
        endpoints: Some(lab.etcd.url()),
        username: Some(user.into()),
        password: Some(Secret::new(password.into())),
        ..Asked::default()
    })
}

pub fn a_token_is_renewed() -> Outcome {
    let mut lab = Lab::up(1)?;
    for line in [
        "user add root:root-secret",
        "user grant-role root root",
        "role add flannel",
        "role grant-permission flannel --prefix=true readwrite /coreos.com/network/",
        "user add flannel:hunter2",
        "user grant-role flannel flannel",
        "user add nobody:hunter2",
    ] {
        lab.ctl(&line.split(' ').collect::<Vec<_>>())?;
    }
    let as_root: &[&str] = &["--user", "root:root-secret"];
    let options = login(&lab, "flannel", "hunter2")?;
    let (one, two) = (value(1), value(2));
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let (url, host) = (lab.etcd.url(), 2);
    let Lab { world, etcd } = &mut lab;
    let ctl = |args: &[&str]| crate::etcd_server::ctl(world, host, &url, &[as_root, args].concat());
    with_store(world, options, async |store| {
        store.until("etcd that asks for no user", |view| view.health.complete).await?;
        crate::etcd_server::ctl(world, host, &url, &["auth", "enable"])?;
        assert!(store.create(KEY, one, DAY).await?.is_done(), "by a new login");
        store.until("the watch goes on", |view| view.leases.contains_key(KEY)).await?;
        // the connection stays, and the token is nothing any more
        ctl(&["auth", "disable"])?;
        crate::etcd_server::ctl(world, host, &url, &["auth", "enable"])?;
        assert!(store.renew(KEY, one, one, DAY).await?.is_done());
        // the token goes with the server that gave it
        etcd.kill()?;
        etcd.start(world)?;
        assert!(store.renew(KEY, one, two, DAY).await?.is_done());
        let now = StoredAttrs::parse(two)?;
        store.until("its write", |view| view.leases.get(KEY) == Some(&now)).await?;
        Ok(())
    })?;
    let nobody = checked(Asked { endpoints: Some(lab.etcd.url()), ..Asked::default() })?;
    for (options, words) in [
        (login(&lab, "flannel", "hunter3")?, "log in as flannel: etcdserver: authentication failed"),
        (login(&lab, "nobody", "hunter2")?, "permission denied (the user's role needs"),
        (nobody, "user name is empty (etcd requires a login: set --etcd-username"),
    ] {
        with_store(&lab.world, options, async |store| {
            let view = store.until("an error", |view| view.health.error.is_some()).await?;
            let error = view.health.error.unwrap_or_default();
            assert!(error.contains(words) && !error.contains("hunter"), "{error}");
            Ok(())
        })?;
    }
    Ok(())
}
