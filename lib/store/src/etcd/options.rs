//! Where etcd is and how it is spoken to, checked: all mistakes at once.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// As upstream.
pub const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:4001,http://127.0.0.1:2379";

/// A text that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// For the wire.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What the flags say, as text. An empty one says nothing.
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
    /// Over TLS.
    pub tls: bool,
    /// Host and port.
    pub authority: String,
}

impl Address {
    /// The host, where it is an address and not a name.
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

/// The files of TLS. They are read at each connection, so that a file which was replaced is used from then on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the server's certificate; without it the system's roots.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password, as etcd has it.
    pub password: Secret,
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a connection to one member.
    pub connect: Duration,
    /// For the answer to a call. etcd itself gives up later (7 s, its `ReqTimeout`), and so would hold us longer.
    pub call: Duration,
    /// Between two questions whether a silent member is still there …
    pub keep_alive: Duration,
    /// … and for the answer.
    pub keep_alive_answer: Duration,
}

impl Default for Timing {
    /// A member that has stopped is left after 19 s when nothing else is asked of it, and after 4 s when something is. An idle
    /// daemon asks four times a minute; etcd takes more than one in 5 s for an attack (`--grpc-keepalive-min-time`).
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(4),
            keep_alive: Duration::from_secs(15),
            keep_alive_answer: Duration::from_secs(4),
        }
    }
}

/// How etcd is reached: checked, and with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Tried in this order; never empty.
    pub endpoints: Vec<Address>,
    /// For the endpoints over TLS.
    pub tls: TlsFiles,
    /// Who to be; nobody where etcd asks nobody.
    pub login: Option<Login>,
    /// How long is waited for what.
    pub timing: Timing,
    /// What was understood and deserves a look.
    pub warnings: Vec<String>,
}

impl Options {
    /// Checks what the flags say; the error is every mistake, a line each.
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
        // upstream would speak without TLS to such an endpoint, and show the world what the files were to protect
        if tls != TlsFiles::default() && endpoints.iter().any(|address| !address.tls) {
            endpoints.iter_mut().for_each(|address| address.tls = true);
            warnings
                .push("--etcd-endpoints: https:// is used in place of http://, because certificates are given".into());
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
            // what stands before an @ may be a password
            let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
            mistakes.push(format!("--etcd-endpoints: {shown:?}: {why}"));
            None
        }
    };
    text.split(',').filter_map(read).collect()
}

/// Reads `http://HOST:PORT`, `https://HOST:PORT` or, as Go's client takes it, `HOST:PORT`.
fn address(text: &str) -> Result<Address, &'static str> {
    let (tls, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return Err("an endpoint begins with http:// or https://"),
        None => (false, text),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err("a user belongs into --etcd-username and --etcd-password");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("an endpoint has no path");
    }
    let Some((host, port)) = authority.rsplit_once(':') else { return Err("an endpoint is http://HOST:PORT") };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address stands in brackets, and a port after it: http://[::1]:2379");
    }
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an endpoint is http://HOST:PORT");
    }
    match format!("http://{authority}/").parse::<tonic::transport::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Address { tls, authority: authority.into() }),
        _ => Err("an endpoint is http://HOST:PORT"),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
