//! The `ipam` object with the runtime's additions, checked completely.

use std::net::IpAddr;

use cni::args::Args;
use cni::conf;
use cni::error::Error;
use cni::result::{Dns, IpConfig, Route};
use cni::version::Version;
use gojson::{Ip, Json, parse_cidr, parse_ip};
use kernel::types::Family;
use serde::Deserialize;

use crate::attach::fields;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Doc {
    ipam: Option<IpamDoc>,
    args: ArgsDoc,
    runtime_config: IpsDoc,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpamDoc {
    addresses: Vec<AddressDoc>,
    routes: Json,
    dns: Dns,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AddressDoc {
    address: String,
    gateway: Ip,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ArgsDoc {
    cni: IpsDoc,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpsDoc {
    ips: Vec<String>,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The addresses, in order. There may be none.
    pub(super) ips: Vec<IpConfig>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
}

impl Conf {
    /// Reads the configuration. Returns code 7 with all mistakes, or code 6 for a member of the wrong type; `args` is
    /// CNI_ARGS.
    pub(super) fn read(conf: &conf::Conf, args: &str) -> Result<Self, Error> {
        let doc: Doc = conf.decode()?;
        let ipam = doc.ipam.ok_or_else(|| Error::config("IPAM config missing 'ipam' key"))?;
        let args = Args::parse(args, &["IP", "GATEWAY"])?;
        let mut mistakes = Vec::new();
        let mut ips = configured(ipam.addresses, &mut mistakes);
        add_variables(&args, &mut ips, &mut mistakes);
        for replacement in [doc.args.cni.ips, doc.runtime_config.ips].into_iter().filter(|ips| !ips.is_empty()) {
            let wrong = "an entry in the 'ips' field is NOT in CIDR notation, got";
            ips = parse_all(replacement.iter().map(String::as_str), wrong, &mut mistakes);
        }
        check_together(&ips, conf.version, &mut mistakes);
        let routes = fields::note(&mut mistakes, fields::ipam_routes(ipam.routes));
        match routes {
            Some(routes) if mistakes.is_empty() => Ok(Self { ips, routes, dns: ipam.dns }),
            _ => Err(Error::config(mistakes.join("; "))),
        }
    }
}

fn configured(docs: Vec<AddressDoc>, mistakes: &mut Vec<String>) -> Vec<IpConfig> {
    let mut ips: Vec<IpConfig> = Vec::new();
    for AddressDoc { address, gateway: Ip(gateway) } in docs {
        let wrong = "the 'address' field is expected to be in CIDR notation, got";
        let Some(ip) = fields::note(mistakes, parse(&address, wrong)) else { continue };
        if ips.iter().any(|other| other.address.ip() == ip.address.ip()) {
            mistakes.push(format!("address {address} is listed twice"));
        }
        if gateway.is_some_and(|gateway| Family::from(gateway) != Family::from(ip.address)) {
            mistakes.push(format!("address {address}: its gateway is of the other family"));
        }
        ips.push(IpConfig { gateway, ..ip });
    }
    ips
}

/// `IP` of CNI_ARGS adds addresses, `GATEWAY` sets the gateway of every address in whose network it is.
fn add_variables(args: &Args, ips: &mut Vec<IpConfig>, mistakes: &mut Vec<String>) {
    let list = |key| args.get(key).filter(|text| !text.is_empty()).into_iter().flat_map(|text| text.split(','));
    let wrong = "the 'ip' field is expected to be in CIDR notation, got";
    for ip in parse_all(list("IP").map(str::trim), wrong, mistakes) {
        if !ips.iter().any(|other| other.address.ip() == ip.address.ip()) {
            ips.push(ip);
        }
    }
    for text in list("GATEWAY").map(str::trim) {
        match parse_ip(text) {
            Some(gateway) => set_gateway(ips, gateway),
            None => mistakes.push(format!("invalid gateway address: {text}")),
        }
    }
}

fn set_gateway(ips: &mut [IpConfig], gateway: IpAddr) {
    let around = ips.iter_mut().filter(|ip| ip.address.contains(gateway));
    around.for_each(|ip| ip.gateway = Some(gateway));
}

/// Each address once.
fn parse_all<'a>(texts: impl Iterator<Item = &'a str>, wrong: &str, mistakes: &mut Vec<String>) -> Vec<IpConfig> {
    let mut ips: Vec<IpConfig> = Vec::new();
    for text in texts {
        match fields::note(mistakes, parse(text, wrong)) {
            Some(ip) if !ips.contains(&ip) => ips.push(ip),
            _ => {}
        }
    }
    ips
}

fn parse(text: &str, wrong: &str) -> Result<IpConfig, String> {
    let address = parse_cidr(text).ok_or_else(|| format!("{wrong}: '{text}'"))?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("address {text} is not that of one interface"));
    }
    Ok(IpConfig { interface: None, address, gateway: None })
}

fn check_together(ips: &[IpConfig], version: Version, mistakes: &mut Vec<String>) {
    let several = |family| ips.iter().filter(|ip| Family::from(ip.address) == family).count() > 1;
    if version < Version::V030 && Family::ALL.into_iter().any(several) {
        mistakes.push(format!("CNI version {version} does not support more than 1 address per family"));
    }
}
