//! The command line and the `FLANNELD_*` variables, with upstream's names and Go's rules.

mod etcd;
mod go;
mod kube;
mod rules;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use overlay::underlay::Select;
use store::StoreOptions;

use crate::logging::LogFormat;

/// The daemon's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The store of the leases.
    pub store: StoreOptions,
    /// The prefix of the store's keys, without a final `/`.
    pub etcd_prefix: String,
    /// How to find the underlay's interface.
    pub select: Select,
    /// The path of subnet.env. status.json is written beside it.
    pub subnet_file: PathBuf,
    /// How long before its expiry a lease is renewed. Default: 60 minutes.
    pub renew_margin: Duration,
    /// The address of `/healthz`, `/readyz` and `/metrics`. `None`: they are not served.
    pub health: Option<SocketAddr>,
    /// Whether a blackhole route drops packets to addresses of this host's subnet that no pod has.
    pub blackhole_route: bool,
    /// Whether the objects that plugins made for pods are repaired.
    pub heal_attachments: bool,
    /// The time between two checks of what other programs keep for pods.
    pub resync: Duration,
    /// Whether what plugins made for pods that are gone is removed.
    pub reclaim: bool,
    /// The folder of the kernel's parameters below `net/`. `None`: /proc/sys/net.
    pub proc_sys_net: Option<PathBuf>,
    /// Which packet rules are written.
    pub rules: overlay::rules::Options,
    /// klog's verbosity: 0 logs changes, 1 each step, 4 everything.
    pub verbosity: i32,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The file of the wireguard backend's private key (WIREGUARD_KEY_FILE).
    pub wireguard_key_file: PathBuf,
    /// The environment for the extension backend's commands.
    pub environment: Environment,
    /// Texts of warnings about flags and variables that are ignored.
    pub warnings: Vec<String>,
}

/// Environment variables by name. Debug output hides the values, which may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the daemon.
    Run(Box<Options>),
    /// Print this text and succeed.
    Print(String),
}

/// An invalid command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// An error of the parser, with the usage.
    #[error("{0}")]
    Usage(String),
    /// All other mistakes: flags for parts of upstream that do not exist here, flags that contradict each other, and
    /// invalid values.
    #[error("{}", .0.iter().map(|mistake| format!("flanneld: {mistake}")).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<String>),
}

/// Keeps this host's overlay network equal to the leases in the store.
#[derive(Parser)]
#[command(name = "flanneld", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
struct Raw {
    /// Directory of the embedded store, used instead of etcd: DIR/PREFIX/config and DIR/PREFIX/subnets; several daemons
    /// may share it
    #[arg(long, value_name = "DIR")]
    store_dir: Option<PathBuf>,
    /// The prefix of keys in etcd, or the path below the store's directory
    #[arg(long, default_value = "/coreos.com/network")]
    etcd_prefix: String,
    #[command(flatten)]
    etcd: etcd::EtcdFlags,
    /// Interface (name or address) for traffic between hosts; may be repeated, the first that matches is used
    #[arg(long, value_name = "NAME|IP")]
    iface: Vec<String>,
    /// Regular expression for the interface's name or address, tried after --iface; may be repeated
    #[arg(long, value_parser = pattern)]
    iface_regex: Vec<String>,
    /// Use the interface of the route to this address
    #[arg(long, value_name = "IP", value_parser = optional::<IpAddr>)]
    iface_can_reach: Option<Given<IpAddr>>,
    /// The file that is written for the CNI plugin; status.json is written beside it
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// Address to which other hosts send
    #[arg(long, value_name = "IP", value_parser = optional::<Ipv4Addr>)]
    public_ip: Option<Given<Ipv4Addr>>,
    /// IPv6 address to which other hosts send
    #[arg(long, value_name = "IP", value_parser = optional::<Ipv6Addr>)]
    public_ipv6: Option<Given<Ipv6Addr>>,
    /// Renew the lease this many minutes before it expires (1 to 1439)
    #[arg(long, default_value = "60", value_name = "MINUTES", value_parser = |text: &str| number(text, 1..=1439))]
    subnet_lease_renew_margin: i64,
    /// The address that serves /healthz, /readyz and /metrics (0.0.0.0: all addresses)
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", value_parser = all_or_one)]
    healthz_ip: IpAddr,
    /// The port of /healthz, /readyz and /metrics; 0 turns them off
    #[arg(long, value_name = "PORT", default_value = "0", value_parser = |text: &str| number(text, i64::MIN..=65_535))]
    healthz_port: i64,
    /// Drop packets to addresses of this host's subnet that no pod has (blackhole route)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    ip_blackhole_route: bool,
    /// Repair bridge, ports and packet rules of this host's pods if another program changes them; the file
    /// /run/cni-attachments/NETWORK/quarantine/ID@IF exempts one attachment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    heal_attachments: bool,
    /// Remove what plugins made for pods that are gone, and give their addresses back
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    reclaim: bool,
    /// Where the host's /proc/sys/net is mounted: a container's own is read-only
    #[arg(long, value_name = "DIR")]
    proc_sys_net: Option<PathBuf>,
    #[command(flatten)]
    kube: kube::KubeFlags,
    #[command(flatten)]
    rules: rules::RuleFlags,
    /// Accepted for upstream's unit files; has no effect
    #[arg(long, hide = true)]
    vmodule: Option<String>,
    /// Accepted for upstream's unit files; has no effect
    #[arg(long = "log_backtrace_at", hide = true)]
    log_backtrace_at: Option<String>,
    /// Print the version
    #[arg(long)]
    version: bool,
    /// Format of log lines; under journald, text has priorities instead of times
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Verbosity: 0 changes, 1 each step, 4 everything
    #[arg(long = "v", short = 'v', default_value_t = 0)]
    v: i32,
}

/// A value that may be empty. An empty value counts as not given.
#[derive(Debug, Clone, Copy)]
struct Given<T>(Option<T>);

fn optional<T: std::str::FromStr>(text: &str) -> Result<Given<T>, T::Err> {
    if text.is_empty() { Ok(Given(None)) } else { text.parse().map(|value| Given(Some(value))) }
}

/// As Go's `net.JoinHostPort` and `Listen`: an empty address means all addresses.
fn all_or_one(text: &str) -> Result<IpAddr, std::net::AddrParseError> {
    if text.is_empty() { Ok(IpAddr::from(Ipv6Addr::UNSPECIFIED)) } else { text.parse() }
}

fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
    let value = go::integer(text).ok_or("not a whole number")?;
    let (least, most) = (range.start(), range.end());
    if range.contains(&value) { Ok(value) } else { Err(format!("{value} is not in {least}..={most}")) }
}

fn pattern(text: &str) -> Result<String, regex_lite::Error> {
    regex_lite::Regex::new(text).map(|_| text.to_owned())
}

/// Parses a command line (without the program's name) and an environment.
pub fn parse(args: &[String], env: &BTreeMap<String, String>) -> Result<Command, FlagError> {
    let known = Raw::command();
    let mut line = go::read(args, |name| boolean(&known, name));
    if line.flags.iter().any(|f| f.name == "version" && f.value != "false") {
        return Ok(Command::Print(format!("v{}\n", env!("CARGO_PKG_VERSION"))));
    }
    // switched off explicitly
    line.flags.retain(|flag| flag.name != "version");
    add_environment(&known, &mut line, env);
    let args = line.flags.iter().map(go::Flag::to_arg);
    let raw = match Raw::try_parse_from(std::iter::once("flanneld".to_owned()).chain(args)) {
        Ok(raw) => raw,
        Err(help) if help.kind() == ErrorKind::DisplayHelp => return Ok(Command::Print(help.to_string())),
        Err(error) => return Err(FlagError::Usage(error.to_string())),
    };
    let mut options = options(raw, line.warnings, env)?;
    if let Some(path) = env.get("WIREGUARD_KEY_FILE").filter(|path| !path.is_empty()) {
        options.wireguard_key_file = path.into();
    }
    options.environment = Environment(env.clone());
    Ok(Command::Run(Box::new(options)))
}

fn options(raw: Raw, mut warnings: Vec<String>, env: &BTreeMap<String, String>) -> Result<Options, FlagError> {
    let mut mistakes = Vec::new();
    let etcd_prefix = prefix(&raw.etcd_prefix).map_err(|mistake| mistakes.push(mistake));
    let store = match raw.kube.selected() {
        false => etcd::store(raw.store_dir, raw.etcd),
        true => {
            // upstream ignores etcd's flags, too
            let named = raw.store_dir.filter(|dir| !dir.as_os_str().is_empty());
            let both = named.map(|_| "--store-dir and --kube-subnet-mgr: use one of the two stores".to_owned());
            match (both, raw.kube.store(&raw.subnet_file, env)) {
                (None, store) => store,
                (Some(both), store) => Err(std::iter::once(both).chain(store.err().into_iter().flatten()).collect()),
            }
        }
    };
    let store = store.map_err(|more| mistakes.extend(more));
    warnings.extend(raw.rules.warning());
    let (Ok(etcd_prefix), Ok(store)) = (etcd_prefix, store) else { return Err(FlagError::Mistakes(mistakes)) };
    if let StoreOptions::Etcd(etcd) = &store {
        warnings.extend(etcd.warnings.iter().cloned());
    }
    for (name, value) in [("vmodule", &raw.vmodule), ("log_backtrace_at", &raw.log_backtrace_at)] {
        // klog's defaults request nothing
        let asked = value.as_ref().filter(|value| !matches!(value.as_str(), "" | ":0"));
        warnings.extend(asked.map(|_| format!("--{name} has no effect here; see --v")));
    }
    Ok(Options {
        store,
        etcd_prefix,
        select: Select {
            iface: said(raw.iface),
            iface_regex: said(raw.iface_regex),
            can_reach: raw.iface_can_reach.and_then(|given| given.0),
            public_ip: raw.public_ip.and_then(|given| given.0),
            public_ipv6: raw.public_ipv6.and_then(|given| given.0),
        },
        subnet_file: raw.subnet_file,
        renew_margin: Duration::from_secs(60 * raw.subnet_lease_renew_margin.unsigned_abs()),
        // as upstream, a port below 1 turns them off
        health: u16::try_from(raw.healthz_port)
            .ok()
            .filter(|port| *port > 0)
            .map(|port| SocketAddr::new(raw.healthz_ip, port)),
        blackhole_route: raw.ip_blackhole_route,
        heal_attachments: raw.heal_attachments,
        resync: raw.rules.resync(),
        reclaim: raw.reclaim,
        proc_sys_net: raw.proc_sys_net.filter(|folder| !folder.as_os_str().is_empty()),
        rules: raw.rules.options(),
        verbosity: raw.v,
        log_format: raw.log_format,
        wireguard_key_file: crate::overlay::KEY_FILE.into(),
        environment: Environment::default(),
        warnings,
    })
}

/// Removes empty values, which upstream ignores for these flags.
fn said(values: Vec<String>) -> Vec<String> {
    values.into_iter().filter(|value| !value.is_empty()).collect()
}

/// Cleans a prefix as Go's `path.Join` does: one `/` between parts and none at the end. A `/` at the start is part of
/// every key in etcd.
fn prefix(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('/').filter(|p| !p.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|p| matches!(*p, "." | "..")) {
        return Err(format!("--etcd-prefix {text:?}: a prefix has one or more parts, and none of them is . or .."));
    }
    let root = if text.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", parts.join("/")))
}

/// `Some(true)` for a flag without a separate value, `None` for an unknown flag.
fn boolean(known: &clap::Command, name: &str) -> Option<bool> {
    if matches!(name, "help" | "h") {
        return Some(true);
    }
    let ours = known.get_arguments().find(|arg| arg.get_long() == Some(name));
    let switch = |arg: &clap::Arg| {
        !arg.get_action().takes_values() || arg.get_num_args().is_some_and(|number| number.min_values() == 0)
    };
    ours.map(switch)
}

/// Adds `FLANNELD_<FLAG>` for every flag that the command line does not set. As in upstream, an invalid variable only
/// causes a warning: a stale variable in a unit file must not keep a host without a network.
fn add_environment(known: &clap::Command, line: &mut go::Line, env: &BTreeMap<String, String>) {
    for name in known.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned) {
        let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
        let Some(value) = env.get(&variable).filter(|v| !v.is_empty()) else { continue };
        if matches!(name.as_str(), "version" | "help") || line.flags.iter().any(|f| f.name == name) {
            continue;
        }
        let value = match boolean(known, &name).filter(|switch| *switch).and_then(|_| go::truth(value)) {
            Some(truth) => truth.to_string(),
            None => value.clone(),
        };
        let flag = go::Flag { name, value, boolean: false };
        if reads(&flag) {
            line.flags.push(flag);
        } else {
            line.warnings.push(format!("{variable}={}: not a valid value for --{}; ignored", flag.value, flag.name));
        }
    }
}

fn reads(flag: &go::Flag) -> bool {
    Raw::try_parse_from(["flanneld", &flag.to_arg()]).is_ok()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_tests;
