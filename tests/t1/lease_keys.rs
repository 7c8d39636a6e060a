//! A lease has one spelling: an entry of the store by another one is refused with a reason, and whoever holds the subnet
//! keeps it.

use std::fs;

use overlay::lease::Refusal;
use store::{Changes, Embedded};
use tests::harness::Outcome;

/// A lease of the host that ends in `n`.
fn lease(n: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":"2001:db8::{n}","BackendType":"host-gw"}}"#)
}

/// What a store tells that holds a lease under each of these keys.
fn told(keys: &[&str]) -> Result<Changes, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("subnets"))?;
    for (key, n) in keys.iter().zip(2..) {
        fs::write(dir.path().join("subnets").join(key), lease(n))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let (_store, mut feed) = Embedded::open(dir.path().to_owned());
        feed.changes().await
    })?)
}

/// The holder's lease is handed out, and the other one, of the same subnet by another spelling, is named with a reason.
fn the_holder_keeps_its_subnet(holder: &str, other: &str) -> Outcome {
    let leases = told(&[holder, other])?.leases;
    let put: Vec<String> = leases.put.iter().map(|lease| lease.subnets.to_string()).collect();
    assert!(put == [holder], "another spelling counts: {put:?}, and not {holder} alone");
    let [(key, Some(refusal))] = &leases.refused[..] else { return Err(format!("{:?}", leases.refused).into()) };
    assert!(key == other && matches!(refusal, Refusal::NotCanonical { .. } | Refusal::Key(_)), "{key}: {refusal}");
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

/// One of both families, with one half spelt another way.
pub fn one_padded_half_is_enough() -> Outcome {
    the_holder_keeps_its_subnet("10.244.1.0-24&fd10:244:0:1::-64", "10.244.1.0-024&fd10:244:0:1::-64")
}

pub fn padded_addresses_and_upper_case_are_refused() -> Outcome {
    for other in ["010.244.40.0-24", "10.244.040.0-24"] {
        the_holder_keeps_its_subnet("10.244.40.0-24", other)?;
    }
    the_holder_keeps_its_subnet("0.0.0.0-0&fd10:244:0:40::-64", "0.0.0.0-0&FD10:244:0:40::-64")
}
