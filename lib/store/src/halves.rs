//! A lease of both families has two halves, and two leases may share one without sharing a key. Pure.

use ipnetwork::IpNetwork;
use overlay::lease::{LeaseAttrs, Subnets};

/// True when another host's lease (`theirs`) has a subnet that the lease `name` has, too; only then its value is read. What is not a lease counts for
/// nothing, and neither does a wider claim: those are refused when they are read.
pub(super) fn is_half_of_another(
    name: &str,
    value: &[u8],
    theirs: &str,
    their_value: impl FnOnce() -> Vec<u8>,
) -> bool {
    let (Ok(wanted), Ok(there)) = (name.parse::<Subnets>(), theirs.parse::<Subnets>()) else { return false };
    if !wanted.iter().any(|half| there.iter().any(|theirs| theirs == half)) {
        return false;
    }
    let (Ok(own), Ok(their)) = (LeaseAttrs::parse(value), LeaseAttrs::parse(&their_value())) else { return false };
    let publishes_the_same =
        |half: IpNetwork| their.public(half.into()).is_some_and(|public| own.public(half.into()) == Some(public));
    !wanted.iter().any(publishes_the_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = br#"{"PublicIP":"192.0.2.1","PublicIPv6":"fd99::1"}"#;
    const TWO: &[u8] = br#"{"PublicIP":"192.0.2.2","PublicIPv6":"fd99::2"}"#;

    #[test]
    fn a_half_is_another_hosts_or_ones_own() {
        let both = "10.5.1.0-24&fd05:0:0:1::-64";
        for (name, theirs, value, expected) in [
            (both, "10.5.1.0-24&fd05:0:0:2::-64", TWO, true),
            (both, "10.5.2.0-24&fd05:0:0:1::-64", TWO, true),
            (both, "10.5.1.0-24", TWO, true),
            (both, "0.0.0.0-0&fd05:0:0:1::-64", TWO, true),
            ("10.5.1.0-24", both, TWO, true),
            (both, "10.5.1.0-24", ONE, false),
            (both, "10.5.2.0-24&fd05:0:0:2::-64", TWO, false),
            ("0.0.0.0-0&fd05:0:0:1::-64", "0.0.0.0-0&fd05:0:0:2::-64", TWO, false),
            (both, "10.5.1.0-24", b"{", false),
            (both, "10.5.0.0-16", TWO, false),
            (both, "README", TWO, false),
        ] {
            assert_eq!(is_half_of_another(name, ONE, theirs, || value.to_vec()), expected, "{name} {theirs}");
        }
    }
}
