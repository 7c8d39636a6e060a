//! A lease has one spelling. Pure: which of several spellings is followed.

use std::collections::BTreeSet;

use overlay::netconf::NetConf;
use overlay::peers::{Own, Peer, Peers, check};
use tests::harness::Outcome;

const CONF: &[u8] =
    br#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd10:244::/48","Backend":{"Type":"host-gw"}}"#;
const OWN: &str = "10.244.1.0-24&fd10:244:0:1::-64";

/// A lease of the host that ends in `n`.
fn lease(n: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":"2001:db8::{n}","BackendType":"host-gw"}}"#)
}

fn judge(keys: &[&str]) -> Result<Peers, Box<dyn std::error::Error>> {
    let conf = NetConf::parse(CONF)?.conf;
    let own = Own { subnets: OWN.parse()?, addresses: BTreeSet::from(["192.0.2.1".parse()?]).into(), ..Own::default() };
    Ok(check(&conf, &own, keys.iter().zip(2..).map(|(key, n)| (*key, lease(n)))))
}

/// The holder's lease is followed, and the other one, of the same subnet by another spelling, is named with a reason.
fn the_holder_keeps_its_subnet(holder: &str, other: &str) -> Outcome {
    let peers = judge(&[holder, other])?;
    let good: Vec<String> = peers.good.iter().map(Peer::key).collect();
    assert!(good == [holder], "another spelling is followed: {good:?}, and not {holder} alone");
    assert!(peers.rejected.iter().any(|rejected| rejected.key == other), "{other} is not named: {:?}", peers.rejected);
    Ok(())
}

pub fn a_padded_length_is_not_canonical() -> Outcome {
    the_holder_keeps_its_subnet("10.244.40.0-24", "10.244.40.0-024")
}

pub fn a_padded_length_of_ipv6_is_not_canonical() -> Outcome {
    the_holder_keeps_its_subnet("0.0.0.0-0&fd10:244:0:40::-64", "0.0.0.0-0&fd10:244:0:40::-064")
}

pub fn an_address_that_is_not_compressed_is_not_canonical() -> Outcome {
    the_holder_keeps_its_subnet("0.0.0.0-0&fd10:244:0:40::-64", "0.0.0.0-0&fd10:244:0:40:0:0:0:0-64")
}

pub fn a_padded_group_is_not_canonical() -> Outcome {
    the_holder_keeps_its_subnet("0.0.0.0-0&fd10:244:0:40::-64", "0.0.0.0-0&fd10:0244:0:40::-64")
}

/// This host is the holder: it learns of the other spelling of its own subnet.
pub fn another_spelling_of_the_own_subnet_is_named() -> Outcome {
    let other = OWN.replace("-24", "-024");
    let peers = judge(&[OWN, &other])?;
    let named = peers.rejected.iter().any(|rejected| rejected.key == other);
    assert!(named, "another spelling of the own subnet is passed over: {:?}", peers.rejected);
    Ok(())
}

pub fn padded_addresses_and_upper_case_are_refused() -> Outcome {
    for other in ["010.244.40.0-24", "10.244.040.0-24"] {
        the_holder_keeps_its_subnet("10.244.40.0-24", other)?;
    }
    the_holder_keeps_its_subnet("0.0.0.0-0&fd10:244:0:40::-64", "0.0.0.0-0&FD10:244:0:40::-64")
}
