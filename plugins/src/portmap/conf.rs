//! The portmap plugin's configuration, before and after the check.

use std::collections::BTreeMap;
use std::net::IpAddr;

use attachment::rules::portmap::{
    Backend, Conditions, Masquerade, PROTOCOLS, are_of_iptables, check_conditions, protocol_name,
};
use cni::error::Error;
use cni::quote;
use kernel::types::Family;
use serde::Deserialize;

use crate::attach::fields::note;

/// Upstream's default for `markMasqBit`.
const MARK_BIT: i64 = 13;

/// The plugin's own fields of the document, in upstream's spelling.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Document {
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Vec<String>,
    backend: Option<String>,
    runtime_config: RuntimeConfig,
}

/// `runtimeConfig`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Vec<Asked>,
}

/// A port mapping of the runtime.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    host_port: i64,
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// The ports, without repetitions.
    pub mappings: Vec<Mapping>,
    /// Which connections are masqueraded; `None`: none.
    pub masquerade: Option<Masquerade>,
    /// Conditions on the packets.
    pub conditions: Conditions,
    /// Where the rules are.
    pub backend: Backend,
}

/// A port of the host that leads to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The IP protocol.
    pub protocol: u8,
    /// The address of the host.
    pub host: HostAddress,
    /// The host's port.
    pub port: u16,
    /// The container's port.
    pub pod_port: u16,
}

/// To which addresses of the host a mapping applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostAddress {
    /// All.
    Any,
    /// All of one family (`0.0.0.0`, `::`).
    AnyOf(Family),
    /// This one.
    One(IpAddr),
}

impl HostAddress {
    /// Whether the mapping applies to addresses of the family.
    pub fn has(self, family: Family) -> bool {
        match self {
            Self::Any => true,
            Self::AnyOf(of) => of == family,
            Self::One(address) => Family::from(address) == family,
        }
    }
}

impl Document {
    /// Checks the configuration, and reports all mistakes in one error.
    pub fn check(self) -> Result<Conf, Error> {
        let mut mistakes = Vec::new();
        if self.external_set_mark_chain.is_some() && self.mark_masq_bit.is_some() {
            mistakes.push("Cannot specify externalSetMarkChain and markMasqBit".to_owned());
        }
        let mark_bit = note(&mut mistakes, mark_bit(self.mark_masq_bit));
        let backend = self.backend(&mut mistakes);
        let mut mappings: Vec<Mapping> = Vec::new();
        for (at, asked) in self.runtime_config.port_mappings.iter().enumerate() {
            let found = asked.check(&mut mistakes, at);
            mappings.extend(found.filter(|mapping| !mappings.contains(mapping)));
        }
        mistakes.extend(twice(&mappings));
        match (mark_bit, backend) {
            (Some(mark_bit), Some(backend)) if mistakes.is_empty() => {
                let masquerade = Masquerade { mark_bit, all: self.masq_all };
                let masquerade = self.snat.unwrap_or(true).then_some(masquerade);
                let conditions = Conditions { v4: self.conditions_v4, v6: self.conditions_v6 };
                Ok(Conf { mappings, masquerade, conditions, backend })
            }
            _ => Err(Error::config(mistakes.join("; "))),
        }
    }

    /// The backend: that of `backend`, else the one whose options are used, else nf_tables.
    fn backend(&self, mistakes: &mut Vec<String>) -> Option<Backend> {
        let mut options: Vec<(&str, &str)> = Vec::new();
        for (name, words) in [("conditionsV4", &self.conditions_v4), ("conditionsV6", &self.conditions_v6)] {
            if words.iter().any(|word| word.chars().any(char::is_control)) {
                mistakes.push(format!("{name}: has a control character"));
            }
            options.extend(backend_of(words).map(|backend| (backend, name)));
        }
        options.extend(self.external_set_mark_chain.iter().map(|_| (IPTABLES, "externalSetMarkChain")));
        let asked = self.backend.as_deref().filter(|name| !name.is_empty());
        let chosen = asked.or(options.first().map(|(backend, _)| *backend)).unwrap_or(NFTABLES);
        if ![IPTABLES, NFTABLES].contains(&chosen) {
            mistakes.push(format!("unrecognized backend {}: must be {NFTABLES} or {IPTABLES}", quote(chosen)));
            return None;
        }
        let (other, wrong): (Vec<&str>, Vec<&str>) =
            options.into_iter().filter(|(backend, _)| *backend != chosen).unzip();
        if let Some(other) = other.first() {
            mistakes.push(format!(
                "{chosen} backend was requested but configuration contains {other}-specific options {wrong:?}"
            ));
        }
        if chosen == NFTABLES {
            self.check_conditions(mistakes);
            return Some(Backend::Nftables);
        }
        let chain = self.external_set_mark_chain.as_deref().map(chain).transpose();
        note(mistakes, chain).map(|set_mark_chain| Backend::Iptables { set_mark_chain })
    }

    fn check_conditions(&self, mistakes: &mut Vec<String>) {
        let of_family =
            [("conditionsV4", Family::V4, &self.conditions_v4), ("conditionsV6", Family::V6, &self.conditions_v6)];
        for (name, family, words) in of_family.into_iter().filter(|(_, _, words)| !are_of_iptables(words)) {
            mistakes.extend(check_conditions(family, words).map_err(|mistake| format!("{name}: {mistake}")).err());
        }
    }
}

/// Upstream's names of the backends.
const NFTABLES: &str = "nftables";
const IPTABLES: &str = "iptables";

fn backend_of(conditions: &[String]) -> Option<&'static str> {
    match conditions {
        [] => None,
        words if are_of_iptables(words) => Some(IPTABLES),
        _ => Some(NFTABLES),
    }
}

/// A chain's name: at most 28 bytes (XT_EXTENSION_MAXNAMELEN minus the terminating zero, linux/netfilter/x_tables.h).
fn chain(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_graphic() && !"\"'\\!".contains(c);
    match name.len() {
        1..=28 if name.chars().all(is_plain) && !name.starts_with('-') => Ok(name.to_owned()),
        _ => Err(format!("externalSetMarkChain {}: not the name of a chain", quote(name))),
    }
}

impl Asked {
    /// `at` is the mapping's place in the list, from 0.
    fn check(&self, mistakes: &mut Vec<String>, at: usize) -> Option<Mapping> {
        let placed = |mistake: String| format!("portMappings[{at}]: {mistake}");
        let host_port = note(mistakes, port("host", self.host_port).map_err(placed));
        let pod_port = note(mistakes, port("container", self.container_port).map_err(placed));
        let protocol = note(mistakes, protocol(&self.protocol).map_err(placed));
        let host = note(mistakes, host(&self.host_ip).map_err(placed));
        Some(Mapping { protocol: protocol?, host: host?, port: host_port?, pod_port: pod_port? })
    }
}

fn mark_bit(asked: Option<i64>) -> Result<u8, String> {
    match asked.unwrap_or(MARK_BIT) {
        bit @ 0..=31 => Ok(bit as u8),
        _ => Err("MasqMarkBit must be between 0 and 31".to_owned()),
    }
}

fn port(whose: &str, number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("Invalid {whose} port number: {number} (must be 1 to {})", u16::MAX))
}

fn protocol(name: &str) -> Result<u8, String> {
    let known = PROTOCOLS.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
    known.map(|(_, number)| number).ok_or_else(|| format!("protocol {}: must be tcp, udp or sctp", quote(name)))
}

fn host(text: &str) -> Result<HostAddress, String> {
    if text.is_empty() {
        return Ok(HostAddress::Any);
    }
    let address: IpAddr = text.parse().map_err(|_| format!("hostIP {}: not an IP address", quote(text)))?;
    let address = address.to_canonical();
    match address.is_unspecified() {
        true => Ok(HostAddress::AnyOf(address.into())),
        false => Ok(HostAddress::One(address)),
    }
}

/// The name of a port: `8080/tcp`, `10.0.0.1:53/udp`.
pub fn name(address: Option<IpAddr>, port: u16, protocol: u8) -> String {
    let protocol = protocol_name(protocol);
    match address {
        Some(address) => format!("{}/{protocol}", std::net::SocketAddr::new(address, port)),
        None => format!("{port}/{protocol}"),
    }
}

/// The ports that lead to different places.
fn twice(mappings: &[Mapping]) -> Vec<String> {
    let mut places: BTreeMap<(u8, u16, Option<IpAddr>, Family), Vec<u16>> = BTreeMap::new();
    for Mapping { protocol, host, port, pod_port } in mappings {
        let address = if let HostAddress::One(address) = host { Some(*address) } else { None };
        for family in Family::ALL.into_iter().filter(|family| host.has(*family)) {
            places.entry((*protocol, *port, address, family)).or_default().push(*pod_port);
        }
    }
    let mut all: Vec<String> = Vec::new();
    for ((protocol, port, address, _), mut pod_ports) in places {
        pod_ports.dedup();
        let text = format!("host port {} is mapped to container ports {pod_ports:?}", name(address, port, protocol));
        if pod_ports.len() > 1 && !all.contains(&text) {
            all.push(text);
        }
    }
    all
}
