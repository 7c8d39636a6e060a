//! The options for the connection to etcd, checked: all mistakes are reported at once.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Upstream's default.
pub const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:4001,http://127.0.0.1:2379";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for sending only.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The flags' values. An empty value counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--etcd-endpoints`
    pub endpoints: Option<String>,
    /// `--etcd-keyfile`
    pub key_file: Option<PathBuf>,
    /// `--etcd-certfile`
    pub cert_file: Option<PathBuf>,
    /// `--etcd-cafile`
    pub ca_file: Option<PathBuf>,
    /// `--etcd-username`
    pub username: Option<String>,
    /// `--etcd-password`
    pub password: Option<Secret>,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Use TLS.
    pub tls: bool,
    /// Host and port.
    pub authority: String,
}

impl Address {
    /// The host, if it is an address rather than a name.
    pub fn ip(&self) -> Option<IpAddr> {
        let (host, _) = self.authority.rsplit_once(':')?;
        host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// The TLS files. They are read at every connection, so that a replaced file takes effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may sign the server's certificate; the default is the system's roots.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password in etcd.
    pub password: Secret,
}

/// Time limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// To connect to one member.
    pub connect: Duration,
    /// To answer a call. etcd's own limit is longer (7 s, its `ReqTimeout`).
    pub call: Duration,
    /// The time between two checks whether a silent member is alive …
    pub keep_alive: Duration,
    /// … and the time for its answer.
    pub keep_alive_answer: Duration,
}

impl Default for Timing {
    /// The default leaves a dead member after 19 s, or after 4 s when a call is waiting. An idle daemon checks four
    /// times a minute; etcd treats more than one check in 5 s as an attack (`--grpc-keepalive-min-time`).
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(4),
            keep_alive: Duration::from_secs(15),
            keep_alive_answer: Duration::from_secs(4),
        }
    }
}

/// How to reach etcd: checked, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// In the order in which they are tried; never empty.
    pub endpoints: Vec<Address>,
    /// For the endpoints over TLS.
    pub tls: TlsFiles,
    /// The user, where etcd requires one.
    pub login: Option<Login>,
    /// Time limits.
    pub timing: Timing,
    /// Accepted settings that deserve attention.
    pub warnings: Vec<String>,
}

impl Options {
    /// Checks the flags. The error lists every mistake, one per line.
    pub fn check(asked: Asked) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let tls = tls_files(&asked, &mut mistakes);
        let login = login(&asked, &mut mistakes);
        let text = asked.endpoints.as_deref().unwrap_or(DEFAULT_ENDPOINTS);
        let mut endpoints = endpoints(text, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let mut warnings = Vec::new();
        // Upstream would connect without TLS, and send unencrypted what the files are meant to protect.
        if tls != TlsFiles::default() && endpoints.iter().any(|address| !address.tls) {
            endpoints.iter_mut().for_each(|address| address.tls = true);
            warnings.push(
                "--etcd-endpoints: using https:// instead of http://, because certificates are configured".into(),
            );
        }
        if login.is_some() && endpoints.iter().any(|address| !address.tls) {
            warnings.push("--etcd-password is sent unencrypted: use https:// endpoints".into());
        }
        Ok(Self { endpoints, tls, login, timing: Timing::default(), warnings })
    }
}

fn tls_files(asked: &Asked, mistakes: &mut Vec<String>) -> TlsFiles {
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let ca = given(&asked.ca_file);
    let pair = match (given(&asked.cert_file), given(&asked.key_file)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            mistakes.push("--etcd-certfile needs --etcd-keyfile".into());
            None
        }
        (None, Some(_)) => {
            mistakes.push("--etcd-keyfile needs --etcd-certfile".into());
            None
        }
    };
    TlsFiles { ca, pair }
}

fn login(asked: &Asked, mistakes: &mut Vec<String>) -> Option<Login> {
    let user = asked.username.clone().filter(|user| !user.is_empty());
    let password = asked.password.clone().filter(|password| !password.expose().is_empty());
    match (user, password) {
        (Some(user), Some(password)) => Some(Login { user, password }),
        (None, None) => None,
        (Some(_), None) => {
            mistakes.push("--etcd-username needs --etcd-password".into());
            None
        }
        (None, Some(_)) => {
            mistakes.push("--etcd-password needs --etcd-username".into());
            None
        }
    }
}

fn endpoints(text: &str, mistakes: &mut Vec<String>) -> Vec<Address> {
    let read = |text: &str| match address(text.trim()) {
        Ok(address) => Some(address),
        Err(why) => {
            // The text before an @ may be a password.
            let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
            mistakes.push(format!("--etcd-endpoints: {shown:?}: {why}"));
            None
        }
    };
    text.split(',').filter_map(read).collect()
}

/// Parses `http://HOST:PORT`, `https://HOST:PORT` or, as Go's client does, `HOST:PORT`.
fn address(text: &str) -> Result<Address, &'static str> {
    let (tls, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return Err("an endpoint begins with http:// or https://"),
        None => (false, text),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err("the user belongs in --etcd-username and --etcd-password");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("an endpoint has no path");
    }
    let Some((host, port)) = authority.rsplit_once(':') else {
        return Err("an endpoint has the form http://HOST:PORT");
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address is in brackets, followed by a port: http://[::1]:2379");
    }
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an endpoint has the form http://HOST:PORT");
    }
    match format!("http://{authority}/").parse::<tonic::transport::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Address { tls, authority: authority.into() }),
        _ => Err("an endpoint has the form http://HOST:PORT"),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
