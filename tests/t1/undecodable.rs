//! An object that this code cannot decode does not count as missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use kernel::Kernel;
use kernel::diff::Step;
use kernel::message::read_datagram;
use kernel::state::{Link, LinkKind};
use lab::netns::Room;
use serde_json::json;
use tests::harness::Outcome;

use crate::bridge::{conf, link, name, with};
use crate::call::{Caller, Pod, Whose};

/// In ISO 8859-1, as a name of another age is written: no UTF-8.
const LATIN: &[u8] = b"caf\xe9";

fn ip(words: &[&[u8]]) {
    let output = Command::new("ip").args(words.iter().map(|word| OsStr::from_bytes(word))).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn make(bridge: &str) -> Kernel {
    let mut host = Kernel::open().unwrap();
    host.apply(&[Step::CreateLink(name(bridge), Link::up(LinkKind::Bridge(kernel::state::Bridge::default())))])
        .ok()
        .unwrap();
    host
}

/// A link whose alias is no UTF-8, asked for by name.
pub fn a_link_with_an_alias_in_latin_1_is_not_absent() -> Outcome {
    let mut host = make("cni0");
    ip(&[b"link", b"set", b"cni0", b"alias", LATIN]);
    let seen = host.link(&name("cni0"));
    assert!(!matches!(seen, Ok(None)), "the link cni0 is there and counts as absent");
    Ok(())
}

/// The same among all links.
pub fn a_link_with_an_alias_in_latin_1_is_listed_or_an_error() -> Outcome {
    let mut host = make("cni0");
    ip(&[b"link", b"set", b"cni0", b"alias", LATIN]);
    if let Ok(links) = host.links() {
        assert!(links.iter().any(|link| link.name.as_str() == "cni0"), "the link cni0 is left out of the list");
    }
    Ok(())
}

/// An address whose label is no UTF-8.
pub fn an_address_with_a_label_in_latin_1_is_listed_or_an_error() -> Outcome {
    let mut host = make("cni0");
    ip(&[b"addr", b"add", b"192.0.2.1/24", b"dev", b"cni0", b"label", b"cni0:\xe9"]);
    let index = host.index(&name("cni0"))?;
    if let Ok(addresses) = host.addresses_of(index) {
        assert_eq!(addresses.len(), 1, "the address 192.0.2.1/24 is left out of the list");
    }
    Ok(())
}

/// A pod on such a bridge: the result names the bridge correctly, or the error names the problem.
pub fn a_pod_on_a_bridge_with_an_alias_in_latin_1_is_told_no_untruth() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut host = make("cni0");
    let mac = link(&mut host, "cni0").link.mac.unwrap().to_string();
    ip(&[b"link", b"set", b"cni0", b"alias", LATIN]);
    let conf = conf(&caller);
    let answer = caller.call("ADD", &pod, &conf);
    if answer.status != 0 {
        let error = answer.error();
        assert!(!error.contains("ENODEV"), "ADD says that the bridge does not exist: {error}");
        return Ok(());
    }
    let result = answer.json();
    assert_eq!(result["interfaces"][0]["mac"], json!(mac), "the result has another MAC than the bridge");
    caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    Ok(())
}

/// A netlink message of `kind` with `header` and one attribute.
fn message(kind: u16, header: &[u8], attribute: u16, value: &[u8]) -> Vec<u8> {
    let mut body = header.to_vec();
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(attribute.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(body);
    bytes
}

/// Such a message is an object or an error.
fn is_something(what: &str, bytes: &[u8]) {
    let (objects, refusals) = read_datagram(bytes);
    assert_eq!(objects.len() + refusals.len(), 1, "{what} that cannot be decoded is nothing at all");
}

/// linux/rtnetlink.h: RTM_NEWROUTE, struct rtmsg for 10.0.0.0/8 in the main table, RTA_OIF of two bytes.
pub fn a_route_with_a_short_attribute_is_an_error() -> Outcome {
    let header = [2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    is_something("a route", &message(24, &header, 4, &[1, 0, 0, 0]));
    is_something("a route", &message(24, &header, 4, &[1, 0]));
    Ok(())
}

/// RTM_NEWLINK, struct ifinfomsg, IFLA_MTU of one byte.
pub fn a_link_with_a_short_attribute_is_an_error() -> Outcome {
    let header = [0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    is_something("a link", &message(16, &header, 4, &[0xdc, 5, 0, 0]));
    is_something("a link", &message(16, &header, 4, &[5]));
    Ok(())
}

/// RTM_NEWNEIGH whose struct ndmsg is cut off.
pub fn a_neighbour_that_is_cut_off_is_an_error() -> Outcome {
    let mut bytes = message(28, &[2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 1], 1, &[192, 0, 2, 1]);
    is_something("a neighbour", &bytes);
    bytes.truncate(16 + 4);
    bytes[..4].copy_from_slice(&20u32.to_ne_bytes());
    is_something("a neighbour", &bytes);
    Ok(())
}
