//! Objects in `nft`'s syntax, for steps and errors. Nothing is ever parsed from these texts.

mod field;
mod rule;

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::expr::Verdict;
use super::types::{Chain, Data, DataType, Element, Hook, NftFamily, Policy, Rule, Set, Timeout};
use super::userdata::clip;
use super::value::{Type, Value};
use crate::types::Family;

/// The most elements that are shown.
const SHOWN: usize = 3;

/// What follows `add rule TABLE CHAIN`: `ip saddr 10.1.2.3 masquerade comment "…"`. An unknown expression is shown as
/// its kernel name in parentheses, which `nft` does not accept.
pub(crate) fn rule(family: NftFamily, rule: &Rule) -> String {
    let mut words = rule::statements(family, &rule.exprs);
    words.extend(rule.comment.as_deref().map(comment));
    words.join(" ")
}

/// What follows `add chain TABLE`: `c`, or `c { type nat hook postrouting priority 100; policy accept; }`.
pub(crate) fn chain(chain: &Chain) -> String {
    let mut lines = Vec::new();
    if let Some(base) = &chain.base {
        let device = base.device.as_ref().map(|name| format!(" device \"{name}\"")).unwrap_or_default();
        let (kind, hook, priority) = (base.kind.name(), hook(base.hook), base.priority);
        lines.push(format!("type {kind} hook {hook}{device} priority {priority}"));
        lines.push(format!("policy {}", if base.policy == Policy::Drop { "drop" } else { "accept" }));
    }
    lines.extend(chain.comment.as_deref().map(comment));
    block(&chain.name, &lines)
}

/// What follows `add set TABLE` or `add map TABLE`: `s { type ipv4_addr; flags interval; }`.
pub(crate) fn set(set: &Set) -> String {
    let key = types(&set.key);
    let mut lines = vec![match &set.data {
        None => format!("type {key}"),
        Some(DataType::Verdict) => format!("type {key} : verdict"),
        Some(DataType::Values(data)) => format!("type {key} : {}", types(data)),
    }];
    let flags = [("interval", set.interval), ("timeout", set.timeout == Timeout::PerElement)];
    let flags: Vec<_> = flags.into_iter().filter(|(_, has)| *has).map(|(flag, _)| flag).collect();
    if !flags.is_empty() {
        lines.push(format!("flags {}", flags.join(", ")));
    }
    if let Timeout::Default(time) = set.timeout {
        lines.push(format!("timeout {}", duration(time)));
    }
    lines.extend(set.comment.as_deref().map(comment));
    block(&set.name, &lines)
}

/// What follows `add element TABLE SET`: `{ 10.0.0.0/8 }`. Of many elements only the first are shown: `{ 10.0.0.0/8,
/// 11.0.0.0/8, 12.0.0.0/8, … and 7 more }`.
pub(crate) fn elements(elements: &[Element]) -> String {
    let mut list: Vec<_> = elements.iter().take(SHOWN).map(one).collect();
    if elements.len() > SHOWN {
        list.push(format!("… and {} more", elements.len() - SHOWN));
    }
    if list.is_empty() { "{ }".to_owned() } else { format!("{{ {} }}", list.join(", ")) }
}

fn one(element: &Element) -> String {
    let ranges = element.key.iter().enumerate().map(|(at, first)| {
        let last = element.last.as_ref().and_then(|last| last.get(at));
        last.filter(|last| *last != first).map_or_else(|| value(first), |last| range(first, last))
    });
    let mut text = ranges.collect::<Vec<_>>().join(" . ");
    if let Some(time) = element.timeout {
        let _ = write!(text, " timeout {}", duration(time));
    }
    if let Some(words) = &element.comment {
        let _ = write!(text, " {}", comment(words));
    }
    match &element.data {
        Some(Data::Verdict(to)) => text + " : " + &verdict(to),
        Some(Data::Values(values)) => text + " : " + &values.iter().map(value).collect::<Vec<_>>().join(" . "),
        None => text,
    }
}

/// A range, as a prefix if it is one. The spaces around the dash keep `nft` from reading a name such as `tcp-udp`.
fn range(first: &Value, last: &Value) -> String {
    match (first, last) {
        (Value::Addr(from), Value::Addr(to)) => match prefix(*from, *to) {
            Some(length) => format!("{from}/{length}"),
            None => format!("{from}-{to}"),
        },
        _ => format!("{} - {}", value(first), value(last)),
    }
}

/// The length of the prefix that contains exactly the addresses from `from` to `to`.
fn prefix(from: IpAddr, to: IpAddr) -> Option<u8> {
    (0..=Family::from(from).bits()).find(|length| {
        ipnetwork::IpNetwork::new(from, *length).is_ok_and(|net| net.network() == from && net.broadcast() == to)
    })
}

fn value(value: &Value) -> String {
    match value {
        Value::Addr(addr) => addr.to_string(),
        Value::Mac(mac) => mac.to_string(),
        Value::Proto(proto) => protocol(*proto),
        Value::Port(port) => port.to_string(),
        Value::Word(word) => format!("{word:#x}"),
        Value::IfName(name) => format!("\"{name}\""),
        Value::Bytes(bytes) => hex(bytes),
    }
}

/// The protocol names that every `nft` knows without the host's `/etc/protocols`.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        132 => "sctp".into(),
        _ => number.to_string(),
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn types(types: &[Type]) -> String {
    let name = |one: &Type| match one {
        Type::Ipv4Addr => "ipv4_addr".to_owned(),
        Type::Ipv6Addr => "ipv6_addr".to_owned(),
        Type::EtherAddr => "ether_addr".to_owned(),
        Type::InetProto => "inet_proto".to_owned(),
        Type::InetService => "inet_service".to_owned(),
        Type::Mark => "mark".to_owned(),
        Type::CtState => "ct_state".to_owned(),
        Type::IfName => "ifname".to_owned(),
        Type::Other(id, _) => format!("(type {id})"),
    };
    types.iter().map(name).collect::<Vec<_>>().join(" . ")
}

fn hook(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}

/// The comment as it is stored. nft's quoted texts have no escapes, and the text must stay on one line of a log.
fn comment(text: &str) -> String {
    let plain: String = clip(text).chars().filter(|c| *c != '"' && !c.is_control()).collect();
    format!("comment \"{plain}\"")
}

fn block(name: &str, lines: &[String]) -> String {
    if lines.is_empty() { name.to_owned() } else { format!("{name} {{ {}; }}", lines.join("; ")) }
}

fn duration(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
