use proptest::prelude::*;

use super::*;

fn spec(subnet: &str, first: &str, last: &str, gateway: &str) -> RangeSpec {
    let ip = |text: &str| gojson::parse_ip(text);
    RangeSpec { subnet: gojson::parse_cidr(subnet), first: ip(first), last: ip(last), gateway: ip(gateway) }
}

fn text(set: &RangeSet) -> String {
    let ranges = set.ranges().iter().map(|r| format!("{r} of {} via {}", r.subnet, r.gateway));
    ranges.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_left_out_is_filled_in() {
    for (range, want) in [
        (spec("10.1.2.0/24", "", "", ""), "10.1.2.1-10.1.2.254 of 10.1.2.0/24 via 10.1.2.1"),
        (spec("10.1.2.0/30", "", "", ""), "10.1.2.1-10.1.2.2 of 10.1.2.0/30 via 10.1.2.1"),
        (spec("fd00::/64", "", "", ""), "fd00::1-fd00::ffff:ffff:ffff:ffff of fd00::/64 via fd00::1"),
        (spec("fd00::/126", "", "", ""), "fd00::1-fd00::3 of fd00::/126 via fd00::1"),
        (
            spec("10.1.2.0/24", "10.1.2.0", "10.1.2.255", "192.0.2.1"),
            "10.1.2.0-10.1.2.255 of 10.1.2.0/24 via 192.0.2.1",
        ),
        (spec("::ffff:10.1.2.0/120", "", "", ""), "10.1.2.1-10.1.2.254 of 10.1.2.0/24 via 10.1.2.1"),
        (spec("0.0.0.0/0", "", "", ""), "0.0.0.1-255.255.255.254 of 0.0.0.0/0 via 0.0.0.1"),
    ] {
        assert_eq!(text(&RangeSet::canonical(&[range]).unwrap()), want);
    }
}

#[test]
fn every_mistake_has_upstreams_words() {
    let a = || spec("10.1.2.0/24", "", "", "");
    for (ranges, want) in [
        (vec![], vec!["empty range set"]),
        (vec![RangeSpec::default()], vec!["a range without subnet"]),
        (vec![spec("10.1.2.0/31", "", "", "")], vec!["Network 10.1.2.0/31 too small to allocate from"]),
        (vec![spec("fd00::/127", "", "", "")], vec!["Network fd00::/127 too small to allocate from"]),
        (
            vec![spec("10.1.2.3/24", "", "", "")],
            vec!["Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0"],
        ),
        (
            vec![spec("10.1.2.0/24", "10.1.3.1", "10.1.1.9", "fd00::1")],
            vec![
                "RangeStart 10.1.3.1 not in network 10.1.2.0/24",
                "RangeEnd 10.1.1.9 not in network 10.1.2.0/24",
                "gateway fd00::1 is not of the family of 10.1.2.0/24",
            ],
        ),
        (
            vec![spec("10.1.2.0/24", "10.1.2.9", "10.1.2.8", "")],
            vec!["RangeEnd 10.1.2.8 is before RangeStart 10.1.2.9"],
        ),
        (vec![a(), spec("fd00::/64", "", "", "")], vec!["mixed address families"]),
        (
            vec![a(), spec("10.1.2.0/25", "", "", "")],
            vec!["subnets 10.1.2.1-10.1.2.254 and 10.1.2.1-10.1.2.126 overlap"],
        ),
    ] {
        let got: Vec<String> = RangeSet::canonical(&ranges).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(got, want);
    }
}

/// Upstream's iterator: one address at a time, cyclic over the ranges, until it reaches its start.
fn upstream_order(set: &RangeSet, last: Option<Number>) -> Vec<Number> {
    let ranges = set.ranges();
    let known = last.and_then(|last| Some((ranges.iter().position(|r| r.contains(last))?, last)));
    let (mut at, mut current) = known.unwrap_or((ranges.len() - 1, ranges[ranges.len() - 1].span.last));
    let mut order = Vec::new();
    loop {
        if current == ranges[at].span.last {
            at = (at + 1) % ranges.len();
            current = ranges[at].span.first;
        } else {
            current = current.next();
        }
        if order.first() == Some(&current) {
            return order;
        }
        order.push(current);
    }
}

proptest! {
    #[test]
    fn the_search_visits_what_upstream_visits(
        sizes in prop::collection::vec(1_u8..20, 1..5),
        last in prop::option::of((0_u8..5, 0_u8..32)),
    ) {
        let ranges: Vec<RangeSpec> = (0..).zip(&sizes)
            .map(|(i, n): (u8, &u8)| spec(&format!("10.0.{i}.0/27"), &format!("10.0.{i}.3"), &format!("10.0.{i}.{}", 2 + n), ""))
            .collect();
        let set = RangeSet::canonical(&ranges).unwrap();
        let last = last.map(|(net, host)| Number::from(IpAddr::from([10, 0, net, host])));
        let got: Vec<Number> = set.search_order(last).into_iter()
            .flat_map(|(_, span)| (span.first.0..=span.last.0).map(Number)).collect();
        prop_assert_eq!(got, upstream_order(&set, last));
    }
}
