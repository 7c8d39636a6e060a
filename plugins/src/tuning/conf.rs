//! The tuning plugin's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni::args::Args;
use cni::error::Error;
use gojson::{Json, Reader};
use kernel::types::{Mac, Mtu};

use super::sysctl;
use crate::attach::fields::{note, parse_mac};

/// Where ADD stores what DEL restores; upstream's folder.
pub const DATA_DIR: &str = "/run/cni/tuning";

/// ETH_MIN_MTU, linux/if_ether.h
const SMALLEST_MTU: i64 = 68;

/// The checked configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// The values of parameters by their paths below `/proc/sys`.
    pub sysctls: BTreeMap<String, String>,
    /// The names of the parameters as they are written in the configuration.
    pub names: Vec<String>,
    /// What the pod's interface is to have.
    pub link: Tuned,
    /// The folder of what DEL restores.
    pub data_dir: PathBuf,
}

/// Settings of an interface; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuned {
    /// The MAC address.
    pub mac: Option<Mac>,
    /// Promiscuous mode. ADD only switches it on.
    pub promisc: Option<bool>,
    /// The MTU in bytes.
    pub mtu: Option<Mtu>,
    /// Whether all multicast packets are received.
    pub allmulti: Option<bool>,
    /// The largest number of packets that wait to be sent.
    pub queue_len: Option<u32>,
}

/// The fields of one object: the document, or `args.cni`.
#[derive(Debug, Default)]
struct Fields {
    sysctls: Vec<(String, String)>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<i64>,
    allmulti: Option<bool>,
    queue_len: Option<u32>,
}

impl Conf {
    /// Reads the document, `runtimeConfig.mac`, `args.cni` and CNI_ARGS. Reports all mistakes in one error. `IFNAME` in
    /// the name of a parameter stands for `ifname`.
    pub fn read(document: &Json, args: &str, ifname: &str) -> Result<Self, Error> {
        let mut mistakes = Vec::new();
        let from_args = Args::parse(args, &["MAC"])?;
        let mut reader = reader("", document, &mut mistakes);
        let data_dir = reader.take::<String>("dataDir").filter(|dir| !dir.is_empty());
        let own = Fields::read(reader, &mut mistakes);
        let runtime = mac_of(child(document, "runtimeConfig"), &mut mistakes);
        let args = child(document, "args").get("cni").unwrap_or(&Json::Null);
        for name in ["runtimeConfig", "args"] {
            reader_of(name, child(document, name), &mut mistakes);
        }
        let over = Fields::read(self::reader("args.cni", args, &mut mistakes), &mut mistakes);
        let asked = over.mac.clone().map_or_else(
            || {
                vec![
                    runtime.unwrap_or_default(),
                    from_args.get("MAC").unwrap_or_default().to_owned(),
                    own.mac.unwrap_or_default(),
                ]
            },
            |mac| vec![mac],
        );
        let mac = note(&mut mistakes, parse_mac(asked.iter().map(String::as_str))).flatten();
        let mtu = note(&mut mistakes, mtu(over.mtu.or(own.mtu))).flatten();
        let names = own.sysctls.iter().chain(&over.sysctls).map(|(name, _)| name.clone()).collect();
        let mut sysctls = sysctl::paths(&own.sysctls, ifname, &mut mistakes);
        sysctls.extend(sysctl::paths(&over.sysctls, ifname, &mut mistakes));
        if !mistakes.is_empty() {
            return Err(Error::config(mistakes.join("; ")));
        }
        let link = Tuned {
            mac,
            promisc: over.promisc.or(own.promisc),
            mtu,
            allmulti: over.allmulti.or(own.allmulti),
            queue_len: over.queue_len.or(own.queue_len),
        };
        Ok(Self { sysctls, names, link, data_dir: data_dir.unwrap_or_else(|| DATA_DIR.to_owned()).into() })
    }
}

/// The folder that a configuration names, which may have mistakes elsewhere.
pub fn data_dir(document: &Json) -> PathBuf {
    let named = document.get("dataDir").and_then(Json::as_str).filter(|dir| !dir.is_empty());
    named.unwrap_or(DATA_DIR).into()
}

fn child<'a>(value: &'a Json, name: &str) -> &'a Json {
    value.get(name).unwrap_or(&Json::Null)
}

/// A reader; an object without fields if the value is none.
fn reader<'a>(path: &'static str, value: &'a Json, mistakes: &mut Vec<String>) -> Reader<'a> {
    reader_of(path, value, mistakes).unwrap_or_else(empty)
}

fn reader_of<'a>(path: &'static str, value: &'a Json, mistakes: &mut Vec<String>) -> Option<Reader<'a>> {
    Reader::new(path, value).map_err(|wrong| mistakes.push(wrong.to_string())).ok()
}

#[expect(clippy::unreachable, reason = "null is an object without fields")]
fn empty<'a>() -> Reader<'a> {
    Reader::new("", &Json::Null).unwrap_or_else(|_| unreachable!())
}

fn mac_of(runtime: &Json, mistakes: &mut Vec<String>) -> Option<String> {
    let mut reader = Reader::new("runtimeConfig", runtime).ok()?;
    let mac = reader.take::<String>("mac");
    mistakes.extend(reader.finish().0.iter().map(ToString::to_string));
    mac
}

fn whole(value: &Json) -> Option<i64> {
    if let Json::Number(number) = value { number.as_i64() } else { None }
}

impl Fields {
    fn read(mut reader: Reader<'_>, mistakes: &mut Vec<String>) -> Self {
        let fields = Self {
            sysctls: sysctls(&mut reader),
            mac: reader.take("mac"),
            promisc: reader.take("promisc"),
            mtu: reader.take_with("mtu", "a whole number", whole),
            allmulti: reader.take("allmulti"),
            queue_len: reader.take_with("txQLen", "a whole number from 0 to 4294967295", |value| {
                u32::try_from(value.as_u64()?).ok()
            }),
        };
        mistakes.extend(reader.finish().0.iter().map(ToString::to_string));
        fields
    }
}

/// Names with their values. Their order does not matter, so a name may occur only once.
fn sysctls(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let object = |value: &Json| value.as_object().map(<[(String, Json)]>::to_vec);
    let members = reader.take_with("sysctl", "an object", object).unwrap_or_default();
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in members {
        match value.as_str().map(str::trim) {
            _ if found.iter().any(|(other, _)| *other == name) => {
                reader.wrong("sysctl", format_args!("has {name:?} twice: duplicated sysctl keys are not allowed"));
            }
            None => reader.wrong("sysctl", format_args!("has no string for {name:?}, but {value}")),
            Some("") => reader.wrong("sysctl", format_args!("has no value for {name:?}")),
            Some(text) => found.push((name, text.to_owned())),
        }
    }
    found
}

fn mtu(mtu: Option<i64>) -> Result<Option<Mtu>, String> {
    match mtu {
        None | Some(0) => Ok(None),
        Some(mtu @ SMALLEST_MTU..) => {
            u32::try_from(mtu).map(|mtu| Some(Mtu(mtu))).map_err(|_| format!("invalid mtu {mtu}"))
        }
        Some(mtu) => Err(format!("invalid mtu {mtu} (must be 0 to leave it, or at least {SMALLEST_MTU})")),
    }
}
