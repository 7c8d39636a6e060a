//! The `ipam` object with the runtime's additions, checked completely.

use std::net::IpAddr;
use std::path::PathBuf;

use attachment::reservations::{DEFAULT_DATA_DIR, RangeError, RangeSet, RangeSpec};
use cni::args::Args;
use cni::conf;
use cni::error::Error;
use cni::result::Route;
use cni::version::Version;
use gojson::{Cidr, Ip, Json, parse_cidr, parse_ip};
use kernel::types::Family;
use serde::Deserialize;

use crate::attach::fields::ipam_routes;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Doc {
    ipam: Option<IpamDoc>,
    args: Option<ArgsDoc>,
    runtime_config: Option<RuntimeDoc>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpamDoc {
    subnet: Option<Cidr>,
    range_start: Ip,
    range_end: Ip,
    gateway: Ip,
    ranges: Vec<Vec<RangeDoc>>,
    routes: Json,
    resolv_conf: String,
}

/// A range as written.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RangeDoc {
    subnet: Option<Cidr>,
    range_start: Ip,
    range_end: Ip,
    gateway: Ip,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ArgsDoc {
    cni: Option<CniArgsDoc>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CniArgsDoc {
    ips: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeDoc {
    ips: Vec<String>,
    ip_ranges: Vec<Vec<RangeDoc>>,
}

impl From<&RangeDoc> for RangeSpec {
    fn from(range: &RangeDoc) -> Self {
        let RangeDoc { subnet, range_start, range_end, gateway } = *range;
        Self { subnet: subnet.map(|Cidr(net)| net), first: range_start.0, last: range_end.0, gateway: gateway.0 }
    }
}

/// A mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Mistake {
    #[error("no IP ranges specified")]
    NoRanges,
    #[error("invalid range set {0}: {1}")]
    Set(usize, RangeError),
    #[error("range set {0} overlaps with {1}")]
    Overlap(usize, usize),
    #[error("CNI version {0} does not support more than 1 address per family")]
    SeveralPerFamily(Version),
    #[error("cannot understand ip: {0:?} is neither an address nor address/length")]
    Requested(String),
    #[error("{0}")]
    Routes(String),
}

/// A checked configuration.
#[derive(Debug)]
pub struct Conf {
    pub(super) data_dir: PathBuf,
    /// Each set provides one address; never empty.
    pub(super) sets: Vec<RangeSet>,
    /// The requested addresses, without duplicates, in order of precedence.
    pub(super) requested: Vec<IpAddr>,
    pub(super) routes: Vec<Route>,
    pub(super) resolv_conf: Option<PathBuf>,
}

/// `ipam.dataDir`, whatever mistakes the rest has: an address can be released without a valid range.
pub(super) fn data_dir(conf: &conf::Conf) -> PathBuf {
    let given = conf.tree().get("ipam").and_then(|ipam| ipam.get("dataDir")).and_then(Json::as_str);
    given.filter(|dir| !dir.is_empty()).unwrap_or(DEFAULT_DATA_DIR).into()
}

impl Conf {
    /// Reads the configuration. Returns code 7 with all mistakes, or code 6 for a member of the wrong type; `args` is
    /// CNI_ARGS.
    pub(super) fn read(conf: &conf::Conf, args: &str) -> Result<Self, Error> {
        let doc: Doc = conf.decode()?;
        let ipam = doc.ipam.ok_or_else(|| Error::config("IPAM config missing 'ipam' key"))?;
        let runtime = doc.runtime_config.unwrap_or_default();
        let wanted_by_args = doc.args.and_then(|args| args.cni).unwrap_or_default().ips;
        let args = Args::parse(args, &["IP"])?;
        let by_variable = args.get("IP").filter(|ip| !ip.is_empty()).map(str::to_owned);

        let mut mistakes = Vec::new();
        let texts = by_variable.into_iter().chain(wanted_by_args).chain(runtime.ips);
        let requested = requested(texts, &mut mistakes);
        let sets = sets(&raw_sets(&ipam, runtime.ip_ranges), conf.version, &mut mistakes);
        let routes = routes(ipam.routes, &mut mistakes);
        if mistakes.is_empty() {
            let resolv_conf = Some(ipam.resolv_conf).filter(|path| !path.is_empty()).map(PathBuf::from);
            return Ok(Self { data_dir: data_dir(conf), sets, requested, routes, resolv_conf });
        }
        Err(Error::config(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
    }
}

/// The runtime's ranges come first, then the single range of old configurations, then the list.
fn raw_sets(ipam: &IpamDoc, runtime: Vec<Vec<RangeDoc>>) -> Vec<Vec<RangeDoc>> {
    let IpamDoc { subnet, range_start, range_end, gateway, .. } = *ipam;
    let single = subnet.map(|_| vec![RangeDoc { subnet, range_start, range_end, gateway }]);
    runtime.into_iter().chain(single).chain(ipam.ranges.iter().cloned()).collect()
}

fn requested(texts: impl Iterator<Item = String>, mistakes: &mut Vec<Mistake>) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for text in texts {
        match parse_cidr(&text).map(|net| net.ip()).or_else(|| parse_ip(&text)) {
            Some(ip) if out.contains(&ip) => {}
            Some(ip) => out.push(ip),
            None => mistakes.push(Mistake::Requested(text)),
        }
    }
    out
}

fn sets(raw: &[Vec<RangeDoc>], version: Version, mistakes: &mut Vec<Mistake>) -> Vec<RangeSet> {
    let mut sets: Vec<(usize, RangeSet)> = Vec::new();
    for (i, raw) in raw.iter().enumerate() {
        match RangeSet::canonical(&raw.iter().map(RangeSpec::from).collect::<Vec<_>>()) {
            Ok(set) => sets.push((i, set)),
            Err(errors) => mistakes.extend(errors.into_iter().map(|error| Mistake::Set(i, error))),
        }
    }
    if raw.is_empty() {
        mistakes.push(Mistake::NoRanges);
    }
    let several = |family| sets.iter().filter(|(_, set)| set.family() == Some(family)).count() > 1;
    if version < Version::V030 && Family::ALL.into_iter().any(several) {
        mistakes.push(Mistake::SeveralPerFamily(version));
    }
    for (at, (i, a)) in sets.iter().enumerate() {
        let later = sets[at + 1..].iter().filter(|(_, b)| a.overlaps(b));
        mistakes.extend(later.map(|(j, _)| Mistake::Overlap(*i, *j)));
    }
    sets.into_iter().map(|(_, set)| set).collect()
}

fn routes(tree: Json, mistakes: &mut Vec<Mistake>) -> Vec<Route> {
    ipam_routes(tree).unwrap_or_else(|cause| {
        mistakes.push(Mistake::Routes(cause));
        Vec::new()
    })
}
