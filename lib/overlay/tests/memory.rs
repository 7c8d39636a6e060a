//! What a store's leases take of memory: a test program of its own, which counts what it allocates.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::net::{Ipv4Addr, Ipv6Addr};

use overlay::lease::{LeaseChanges, StoredLease};
use overlay::netconf::NetConf;
use overlay::peers::{Book, Own};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COUNT: u32 = 10_000;

/// The subnets and addresses of the n-th host, of both families.
fn key(n: u32, dual: bool) -> String {
    let v6 = Ipv6Addr::from((0xfd05_u128 << 112) | (u128::from(n) << 64));
    let v6 = if dual { format!("&{v6}-64") } else { String::new() };
    format!("{}-24{v6}", Ipv4Addr::from(0x0a00_0000 + (n << 8)))
}

fn vxlan(n: u32, dual: bool) -> StoredLease {
    let [_, a, b, c] = n.to_be_bytes();
    let data = |family: u8| format!(r#"{{"VNI":1,"VtepMAC":"02:{family:02x}:00:{a:02x}:{b:02x}:{c:02x}"}}"#);
    let v6 = if dual { format!(r#""fd99::{n:x}","BackendV6Data":{}"#, data(6)) } else { "null".into() };
    let public = Ipv4Addr::from(0xac10_0000 + n);
    let value =
        format!(r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{},"PublicIPv6":{v6}}}"#, data(4));
    StoredLease::read(&key(n, dual), value.as_bytes(), n.into()).unwrap()
}

fn wireguard(n: u32, dual: bool) -> StoredLease {
    let data = format!(r#"{{"PublicKey":"{n:042}0=","Port":51820}}"#);
    let v6 = if dual { format!(r#""fd99::{n:x}","BackendV6Data":{data}"#) } else { "null".into() };
    let public = Ipv4Addr::from(0xac10_0000 + n);
    let value =
        format!(r#"{{"PublicIP":"{public}","BackendType":"wireguard","BackendData":{data},"PublicIPv6":{v6}}}"#);
    StoredLease::read(&key(n, dual), value.as_bytes(), n.into()).unwrap()
}

/// The bytes per lease, of a book that was given all at once and of one that was given them one by one.
fn bytes(conf: &NetConf, lease: impl Fn(u32) -> StoredLease) -> (usize, usize) {
    let held = |one_by_one: bool| {
        let region = Region::new(ALLOCATOR);
        let mut book = Book::default();
        if !one_by_one {
            let put = (1..=COUNT).map(&lease).collect();
            book.apply(LeaseChanges { snapshot: true, put, ..LeaseChanges::default() });
        } else {
            for n in 1..=COUNT {
                book.apply(LeaseChanges { put: vec![lease(n)], ..LeaseChanges::default() });
                book.judge(conf, &Own::default());
            }
        }
        book.judge(conf, &Own::default());
        assert_eq!(book.len(), COUNT as usize, "{:?}", book.rejected().next());
        let change = region.change();
        (change.bytes_allocated - change.bytes_deallocated) / COUNT as usize
    };
    (held(false), held(true))
}

#[test]
fn a_lease_takes_a_few_hundred_bytes() {
    let conf = |backend: &str| {
        let text = format!(
            r#"{{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd05::/32","IPv6SubnetLen":64,"Backend":{{"Type":"{backend}"}}}}"#
        );
        NetConf::parse(text.as_bytes()).unwrap().conf
    };
    let (vxlan_conf, wireguard_conf) = (conf("vxlan"), conf("wireguard"));
    let found = [
        ("vxlan", bytes(&vxlan_conf, |n| vxlan(n, false)), 320),
        ("vxlan of both families", bytes(&vxlan_conf, |n| vxlan(n, true)), 470),
        ("wireguard", bytes(&wireguard_conf, |n| wireguard(n, false)), 380),
        ("wireguard of both families", bytes(&wireguard_conf, |n| wireguard(n, true)), 590),
    ];
    for (what, (at_once, one_by_one), most) in found {
        println!("{what}: {at_once} bytes per lease, {one_by_one} when they came one by one");
        assert!(
            at_once <= most && one_by_one <= most * 2,
            "{what}: {at_once} {one_by_one}, at most {most} {}",
            most * 2
        );
    }
}
