//! The comments by which an attachment's rules and elements are recognized, as the reference plugins write them
//! (containernetworking/plugins, pkg/ip/ipmasq_nftables_linux.go):
//!
//! ```text
//! 8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1
//! ```

use kernel::nft::clip;

use super::hash;
use crate::Key;

/// The start of the comments of everything of an attachment.
pub fn mark(key: Key<'_>) -> String {
    format!("{}{}", network_mark(key.network), hash(&format!("{}:{}", key.ifname, key.container)))
}

/// The start of the comments of everything of a network.
pub fn network_mark(network: &str) -> String {
    format!("{}-", hash(network))
}

/// The comment of an attachment's rules and elements.
pub fn comment(key: Key<'_>) -> String {
    let Key { network, container, ifname } = key;
    let description = format!("net: {network}, if: {ifname}, id: {container}").replace('"', "");
    clip(&format!("{}, {description}", mark(key))).to_owned()
}

/// Whether the comment belongs to an attachment of `network` that is none of `valid`.
pub fn is_stale(comment: Option<&str>, network: &str, valid: &[Key<'_>]) -> bool {
    let begins = |mark: &str| comment.is_some_and(|comment| comment.starts_with(mark));
    begins(&network_mark(network)) && !valid.iter().any(|key| begins(&mark(*key)))
}

/// The attachment that a comment names. `None` if the comment was cut, or is of another form.
pub fn named(comment: &str) -> Option<Key<'_>> {
    let (_, rest) = comment.split_once(", net: ")?;
    let (network, rest) = rest.split_once(", if: ")?;
    let (ifname, container) = rest.rsplit_once(", id: ")?;
    let key = Key { network, container, ifname };
    // a name that was cut has another hash
    comment.starts_with(&mark(key)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'_> = Key { network: "net1", container: "cid1", ifname: "eth0" };

    #[test]
    fn comments_are_upstreams() {
        assert_eq!(comment(KEY), "8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1");
        let long = "c".repeat(200);
        let odd = comment(Key { network: "n\"1\"", container: &long, ..KEY });
        assert!(odd.contains(", net: n1, if: eth0, id: ccc") && odd.len() == 128, "{odd}");
    }

    #[test]
    fn a_comment_names_its_attachment_unless_it_was_cut() {
        assert_eq!(named(&comment(KEY)), Some(KEY));
        let odd = Key { ifname: "a, id: b", ..KEY };
        assert_eq!(named(&comment(odd)), Some(odd));
        let long = "c".repeat(200);
        assert_eq!(named(&comment(Key { container: &long, ..KEY })), None);
        for other in ["", "cid1", "x-y, net: net1, if: eth0, id: cid1"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn what_no_valid_attachment_of_the_network_owns_is_stale() {
        let own = comment(KEY);
        assert!(is_stale(Some(&own), "net1", &[]));
        assert!(!is_stale(Some(&own), "net1", &[KEY]));
        assert!(!is_stale(Some(&own), "net2", &[]));
        assert!(!is_stale(None, "net1", &[]));
    }
}
