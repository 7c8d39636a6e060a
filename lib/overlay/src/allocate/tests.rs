use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn conf(fields: &str) -> NetConf {
    let text = format!(r#"{{{fields},"Backend":{{"Type":"host-gw"}}}}"#);
    NetConf::parse(text.as_bytes()).unwrap().conf
}

fn v4() -> NetConf {
    conf(r#""Network":"10.5.0.0/16""#)
}

fn dual() -> NetConf {
    conf(r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56""#)
}

fn attrs(v4: &str, v6: &str) -> LeaseAttrs {
    LeaseAttrs { public_ip: v4.parse().ok(), public_ipv6: v6.parse().ok(), ..LeaseAttrs::default() }
}

fn stored(key: &str, v4: &str, v6: &str) -> Stored {
    Stored { subnets: key.parse().unwrap(), public_ip: v4.parse().ok(), public_ipv6: v6.parse().ok() }
}

fn pick(conf: &NetConf, leases: &[Stored], own: &LeaseAttrs, previous: &str) -> Choice {
    let previous = previous.parse().unwrap_or_default();
    choose(&Inputs { conf, own, previous, random: 7, avoid: &[] }, leases.iter().copied()).unwrap()
}

#[test]
fn the_hosts_own_lease_is_adopted() {
    let own = attrs("10.99.0.2", "");
    let leases = [
        stored("10.5.1.0-24", "10.99.0.1", ""),
        stored("10.5.2.0-24", "10.99.0.2", ""),
        stored("10.5.3.0-24", "10.99.0.2", ""),
    ];
    let adopted = |key: &str| Choice::Adopt { subnets: key.parse().unwrap() };
    assert_eq!(pick(&v4(), &leases, &own, ""), adopted("10.5.2.0-24"));
    assert_eq!(pick(&v4(), &leases, &own, "10.5.3.0-24"), adopted("10.5.3.0-24"), "pods have addresses of this one");
}

#[test]
fn a_lease_that_no_longer_fits_is_replaced_and_what_fits_is_kept() {
    let own = attrs("10.99.0.2", "fd99::2");
    let replaced = |old: &str, choice: Choice| match choice {
        Choice::Replace { old: key, subnets } if key.to_string() == old => subnets,
        other => panic!("{other:?}"),
    };
    // IPv6 was turned on
    let leases = [stored("10.5.2.0-24", "10.99.0.2", "")];
    let subnets = replaced("10.5.2.0-24", pick(&dual(), &leases, &own, ""));
    assert_eq!(subnets.v4.unwrap().to_string(), "10.5.2.0/24");
    assert!(subnets.v6.is_some());
    // and off again
    let leases = [stored("10.5.2.0-24&fd05:0:0:9::-64", "10.99.0.2", "fd99::2")];
    let subnets = replaced("10.5.2.0-24&fd05:0:0:9::-64", pick(&v4(), &leases, &own, ""));
    assert_eq!(subnets.to_string(), "10.5.2.0-24");
    // the network moved
    let leases = [stored("10.6.2.0-24", "10.99.0.2", "")];
    let subnets = replaced("10.6.2.0-24", pick(&v4(), &leases, &own, "10.5.4.0-24"));
    assert_eq!(subnets.to_string(), "10.5.4.0-24", "the last run's");
}

#[test]
fn the_last_runs_subnet_is_taken_again_if_free() {
    let own = attrs("10.99.0.2", "fd99::2");
    let others = [stored("10.5.7.0-24&fd05:0:0:7::-64", "10.99.0.1", "fd99::1")];
    let take = |previous: &str| match pick(&dual(), &others, &own, previous) {
        Choice::Take { subnets } => subnets,
        other => panic!("{other:?}"),
    };
    assert_eq!(take("10.5.9.0-24&fd05:0:0:9::-64").to_string(), "10.5.9.0-24&fd05:0:0:9::-64");
    let half = take("10.5.7.0-24&fd05:0:0:9::-64");
    assert_ne!(half.v4.unwrap().to_string(), "10.5.7.0/24");
    assert_eq!(half.v6.unwrap().to_string(), "fd05:0:0:9::/64");
    let unfit = take("10.5.9.0-25&fd06::-64");
    assert!(unfit.v4.unwrap().prefix() == 24 && unfit.v6.unwrap().to_string().starts_with("fd05:"));
}

#[test]
fn hosts_without_ipv4_do_not_share_a_lease() {
    let v6 = conf(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/56""#);
    let leases = [stored("0.0.0.0-0&fd05:0:0:7::-64", "0.0.0.0", "fd99::1")];
    assert!(matches!(pick(&v6, &leases, &attrs("0.0.0.0", "fd99::2"), ""), Choice::Take { .. }));
    assert!(matches!(pick(&v6, &leases, &attrs("", "fd99::1"), ""), Choice::Adopt { .. }));
    // nor do two hosts behind one IPv4 address that have their own IPv6
    let leases = [stored("10.5.7.0-24&fd05:0:0:7::-64", "10.99.0.1", "fd99::1")];
    assert!(matches!(pick(&dual(), &leases, &attrs("10.99.0.1", "fd99::2"), ""), Choice::Take { .. }));
    // and a lease that publishes nothing is nobody's
    let leases = [stored("10.5.7.0-24", "0.0.0.0", "")];
    assert!(matches!(pick(&v4(), &leases, &attrs("", ""), ""), Choice::Take { .. }));
}

#[test]
fn a_full_network_says_so_and_a_hostile_claim_does_not_fill_it() {
    let small = conf(r#""Network":"10.5.0.0/26","SubnetLen":28"#);
    let mut leases: Vec<Stored> =
        ["10.5.0.16-28", "10.5.0.32-28", "10.5.0.48-28"].iter().map(|key| stored(key, "10.99.0.1", "")).collect();
    let own = LeaseAttrs::default();
    let try_all = |leases: &[Stored]| {
        choose(
            &Inputs { conf: &small, own: &own, previous: Subnets::default(), random: 3, avoid: &[] },
            leases.iter().copied(),
        )
    };
    let said = try_all(&leases).unwrap_err().to_string();
    assert_eq!(
        said,
        "out of subnets: every /28 from 10.5.0.16 to 10.5.0.48 of 10.5.0.0/26 is leased; remove leases of \
                      hosts that are gone, or enlarge the network"
    );
    leases.remove(1);
    assert_eq!(try_all(&leases).unwrap().subnets().to_string(), "10.5.0.32-28");
    for hostile in ["10.5.0.0-26", "10.0.0.0-8", "128.0.0.0-1", "10.5.0.33-27"] {
        leases.push(stored(hostile, "10.99.0.66", ""));
    }
    assert_eq!(try_all(&leases).unwrap().subnets().to_string(), "10.5.0.32-28");
}

#[test]
fn every_free_subnet_can_be_drawn_and_no_other() {
    let conf = conf(r#""Network":"10.5.0.0/16","SubnetMin":"10.5.4.0","SubnetMax":"10.5.15.0""#);
    let allocation = conf.v4.unwrap().allocation;
    let taken: Vec<IpNetwork> = ["10.5.0.0/22", "10.5.6.0/23", "10.5.8.0/22", "10.5.9.128/25", "10.5.15.0/24"]
        .map(|net| net.parse().unwrap())
        .into();
    let drawn: BTreeSet<String> = (0..70).map(|random| draw(allocation, &taken, random).unwrap().to_string()).collect();
    let free = [4, 5, 12, 13, 14].map(|n| format!("10.5.{n}.0/24"));
    assert_eq!(drawn, free.into_iter().collect());
}

#[test]
fn the_first_and_the_last_subnet_of_the_range_can_be_drawn() {
    let conf = conf(r#""Network":"10.5.0.0/16","SubnetMin":"10.5.4.0","SubnetMax":"10.5.6.0""#);
    let allocation = conf.v4.unwrap().allocation;
    let drawn = |taken: &[&str]| -> Vec<String> {
        let taken: Vec<IpNetwork> = taken.iter().map(|net| net.parse().unwrap()).collect();
        (0..6).filter_map(|random| draw(allocation, &taken, random)).map(|net| net.to_string()).collect()
    };
    let all = ["10.5.4.0/24", "10.5.5.0/24", "10.5.6.0/24"];
    assert_eq!(drawn(&[]), [all, all].concat(), "each as often as the others");
    assert_eq!(drawn(&all[..2]), [all[2]; 6]);
    assert_eq!(drawn(&all[1..]), [all[0]; 6]);
    assert_eq!(drawn(&all), Vec::<String>::new());
}

#[test]
fn a_large_network_costs_what_its_leases_cost() {
    let large =
        conf(r#""Network":"10.0.0.0/8","SubnetLen":30,"EnableIPv6":true,"IPv6Network":"fd00::/8","IPv6SubnetLen":120"#);
    let leases: Vec<Stored> = (0..100_000_u32)
        .map(|i| {
            stored(
                &format!("{}-30&fd00::{:x}:{:x}00-120", std::net::Ipv4Addr::from(0x0a00_0000 + i * 8), i >> 8, i & 255),
                "10.99.0.1",
                "",
            )
        })
        .collect();
    let own = attrs("10.99.0.2", "");
    let start = std::time::Instant::now();
    let choice = pick(&large, &leases, &own, "");
    assert!(matches!(choice, Choice::Take { .. }));
    // two sorts of 100,000; one pass over the 2^22 or 2^112 subnets would take far longer
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

proptest! {
    /// Hosts that come one after the other never get what another has, and get subnets as long as there are any.
    #[test]
    fn allocations_never_overlap(randoms in proptest::collection::vec(any::<u64>(), 1..40), foreign in any::<Option<(u8, u8)>>()) {
        let conf = conf(r#""Network":"10.5.0.0/24","SubnetLen":29,"EnableIPv6":true,"IPv6Network":"fd05::/120","IPv6SubnetLen":125"#);
        let mut leases = Vec::new();
        if let Some((addr, len)) = foreign {
            let key = format!("10.5.0.{addr}-{}", 25 + len % 7);
            leases.push(stored(&key, "10.99.9.9", ""));
        }
        for (host, random) in randoms.into_iter().enumerate() {
            let own = attrs(&format!("10.99.0.{host}"), &format!("fd99::{host:x}"));
            let inputs = Inputs { conf: &conf, own: &own, previous: Subnets::default(), random, avoid: &[] };
            let Ok(choice) = choose(&inputs, leases.iter().copied()) else {
                prop_assert!(leases.len() >= 15, "31 subnets, of which a foreign lease has 16 at most");
                break;
            };
            let subnets = choice.subnets();
            for family in Family::ALL {
                let net = subnets.get(family).unwrap();
                prop_assert!(allocatable(conf.family(family).unwrap().allocation, net));
                for other in leases.iter().filter(|other| peers::shape(other.subnets.get(Family::V4).unwrap(), conf.v4.unwrap().network).is_ok()) {
                    let taken = other.subnets.get(family);
                    prop_assert!(!taken.is_some_and(|taken| net::overlap(taken, net)), "{} {}", other.subnets, net);
                }
            }
            leases.push(Stored { subnets, public_ip: own.public_ip, public_ipv6: own.public_ipv6 });
            let again = Inputs { conf: &conf, own: &own, previous: Subnets::default(), random: 0, avoid: &[] };
            prop_assert_eq!(choose(&again, leases.iter().copied()).unwrap(), Choice::Adopt { subnets });
        }
    }
}

/// The bridge's address on this host's LAN would take the LAN away; a LAN around the whole network leaves no choice.
#[test]
fn a_subnet_on_the_hosts_lan_is_the_last_choice() {
    let own = attrs("10.5.1.9", "");
    let small = conf(r#""Network":"10.5.0.0/22","SubnetMin":"10.5.0.0""#);
    let choose = |avoid: &[&str], previous: &str, random| {
        let avoid: Vec<IpNetwork> = avoid.iter().map(|net| net.parse().unwrap()).collect();
        let previous = previous.parse().unwrap_or_default();
        let inputs = Inputs { conf: &small, own: &own, previous, random, avoid: &avoid };
        choose(&inputs, std::iter::empty()).unwrap().subnets().v4.unwrap().to_string()
    };
    for random in 0..16 {
        let subnet = choose(&["10.5.1.9/24", "10.5.2.1/25"], "", random);
        assert!(["10.5.0.0/24", "10.5.3.0/24"].contains(&subnet.as_str()), "{subnet}");
    }
    assert!(choose(&["10.0.0.1/8"], "", 7).starts_with("10.5."));
    assert_eq!(choose(&["10.5.1.9/24"], "10.5.1.0-24", 7), "10.5.1.0/24", "pods have addresses of it");
}
