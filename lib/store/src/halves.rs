//! A lease of both families has two halves. Two leases may share a half without sharing a key. Pure.

use ipnetwork::IpNetwork;
use overlay::lease::{LeaseAttrs, Subnets};

/// The two halves of a key, as they appear in other keys.
#[derive(Debug)]
pub(crate) struct Halves {
    v4: Option<String>,
    v6: Option<String>,
}

impl Halves {
    pub(crate) fn of(key: Subnets) -> Self {
        let text = |net: IpNetwork| format!("{}-{}", net.ip(), net.prefix());
        Self { v4: key.v4.map(|net| text(net.into())), v6: key.v6.map(|net| text(net.into())) }
    }

    /// The IPv4 half, with which a key starts.
    pub(crate) fn v4(&self) -> Option<&str> {
        self.v4.as_deref()
    }

    /// Whether the canonical key `theirs` contains one of these halves. A key with a wider subnet does not count: it
    /// is refused when it is read.
    pub(crate) fn are_in(&self, theirs: &str) -> bool {
        let (first, second) = match theirs.split_once('&') {
            Some((first, second)) => (first, Some(second)),
            None => (theirs, None),
        };
        self.v4.as_deref() == Some(first) || (self.v6.is_some() && self.v6.as_deref() == second)
    }
}

/// Whether `theirs`, the value of a lease that shares a half with the lease `key`, belongs to another host: the two
/// publish no common address. A value that is not a lease belongs to no host.
pub(crate) fn is_of_another(key: Subnets, value: &[u8], theirs: &[u8]) -> bool {
    let (Ok(own), Ok(their)) = (LeaseAttrs::parse(value), LeaseAttrs::parse(theirs)) else { return false };
    let publish_the_same =
        |half: IpNetwork| their.public(half.into()).is_some_and(|public| own.public(half.into()) == Some(public));
    !key.iter().any(publish_the_same)
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
            let key: Subnets = name.parse().unwrap();
            let shared = Halves::of(key).are_in(theirs) && is_of_another(key, ONE, value);
            assert_eq!(shared, expected, "{name} {theirs}");
        }
    }
}
