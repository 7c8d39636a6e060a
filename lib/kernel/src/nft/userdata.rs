//! The user data of objects. The kernel does not interpret it; `nft` and libnftnl agree on a list of one-byte types and
//! lengths (libnftnl/udata.h). `nft list ruleset` needs it to print comments and keys in host byte order.

use crate::netlink::wire::text;

/// The longest comment `nft` accepts, in bytes (NFTNL_UDATA_COMMENT_MAXLEN).
pub const COMMENT_MAX: usize = 128;

/// The TLV type of the comment of a table, chain, rule or element.
const COMMENT: u8 = 0;
/// The TLV type of a set's comment (NFTNL_UDATA_SET_COMMENT).
const SET_COMMENT: u8 = 7;
/// NFTNL_UDATA_SET_KEYBYTEORDER.
const SET_KEY_BYTE_ORDER: u8 = 0;
/// BYTEORDER_HOST_ENDIAN of nft's datatype.h.
const HOST_ENDIAN: u32 = 1;
/// NFTNL_UDATA_SET_ELEM_FLAGS.
const ELEMENT_FLAGS: u8 = 1;
/// Marks an interval without an end, because it reaches the largest key.
const ELEMENT_OPEN: u32 = 1;

/// `comment` as it is stored: at most [`COMMENT_MAX`] bytes, cut at a character's boundary.
pub fn clip(comment: &str) -> &str {
    &comment[..comment.floor_char_boundary(COMMENT_MAX)]
}

/// The user data with the comment of a table, chain or rule; empty for `None`.
pub(super) fn comment(comment: Option<&str>) -> Vec<u8> {
    comment.map(|text| comment_tlv(COMMENT, text)).unwrap_or_default()
}

/// The user data of a set. The byte order must be exactly right: a wrong one makes the administrator's `nft` abort.
pub(super) fn set(host_order_key: bool, comment: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if host_order_key {
        bytes.extend(number_tlv(SET_KEY_BYTE_ORDER, HOST_ENDIAN));
    }
    bytes.extend(comment.map(|text| comment_tlv(SET_COMMENT, text)).unwrap_or_default());
    bytes
}

/// The user data of an element. `open` marks an interval without an end.
pub(super) fn element(comment: Option<&str>, open: bool) -> Vec<u8> {
    let mut bytes = self::comment(comment);
    if open {
        bytes.extend(number_tlv(ELEMENT_FLAGS, ELEMENT_OPEN));
    }
    bytes
}

/// The comment in the user data of a table, chain, rule or element.
pub(super) fn read_comment(bytes: &[u8]) -> Option<String> {
    find(bytes, COMMENT).map(text)
}

/// The comment in a set's user data.
pub(super) fn read_set_comment(bytes: &[u8]) -> Option<String> {
    find(bytes, SET_COMMENT).map(text)
}

fn comment_tlv(kind: u8, comment: &str) -> Vec<u8> {
    // readers would end the comment at a zero
    let comment = clip(comment.split('\0').next().unwrap_or_default());
    let mut bytes = vec![kind, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

fn number_tlv(kind: u8, value: u32) -> [u8; 6] {
    let [a, b, c, d] = value.to_ne_bytes();
    [kind, 4, a, b, c, d]
}

fn find(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, len, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*len))?;
        if *kind == wanted {
            return Some(value);
        }
        bytes = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_cut_between_characters() {
        assert_eq!(clip(&"x".repeat(200)).len(), COMMENT_MAX);
        let umlauts = format!("x{}", "ü".repeat(100));
        assert_eq!(clip(&umlauts).len(), 127);
        assert_eq!(read_comment(&comment(Some(&umlauts))).as_deref(), Some(clip(&umlauts)));
    }

    #[test]
    fn tlvs_are_those_of_nft() {
        assert_eq!(comment(Some("tc")), [0, 3, b't', b'c', 0]);
        assert_eq!(comment(None), []);
        assert_eq!(set(false, Some("sc")), [7, 3, b's', b'c', 0]);
        assert_eq!(set(true, None)[..2], [0, 4]);
        assert_eq!(set(true, None)[2..], 1u32.to_ne_bytes());
        assert_eq!(element(None, true)[..2], [1, 4]);
        assert_eq!(read_set_comment(&set(true, Some("sc"))).as_deref(), Some("sc"));
    }

    #[test]
    fn broken_user_data_is_no_comment() {
        for bytes in [&[][..], &[0], &[0, 9, 1], &[1, 4, 0]] {
            assert_eq!(read_comment(bytes), None, "{bytes:?}");
        }
    }
}
