//! Netlink framing: the header of each message and the extended acknowledgement behind an error
//! (include/uapi/linux/netlink.h; Documentation/userspace-api/netlink/intro.rst).

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage;

use super::error::{Errno, KernelError};

/// struct nlmsghdr
pub(super) const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message as received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) seq: u32,
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// What a message means to whoever asked.
#[derive(Debug)]
pub(super) enum Meaning {
    /// The request was carried out.
    Ack,
    /// It was refused.
    Refused(Errno, Option<String>),
    /// A dump has ended; a refused dump ends with its error here and not in an error message.
    Done(Result<(), (Errno, Option<String>)>),
    /// An object.
    Object(Box<RouteNetlinkMessage>),
    /// Something this code does not know.
    Other,
}

impl Frame<'_> {
    /// The dump was inconsistent: something changed while it went on.
    pub(super) fn interrupted(self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    pub(super) fn meaning(self) -> Meaning {
        match self.kind {
            NLMSG_NOOP => Meaning::Other,
            NLMSG_ERROR => match self.code() {
                0 => Meaning::Ack,
                // the kernel echoes the request's header, 16 bytes with NETLINK_CAP_ACK
                code => Meaning::Refused(Errno(code.wrapping_neg()), self.text(4 + HEADER)),
            },
            NLMSG_DONE => match self.code() {
                0.. => Meaning::Done(Ok(())),
                code => Meaning::Done(Err((Errno(code.wrapping_neg()), self.text(4)))),
            },
            kind => self.object(kind),
        }
    }

    fn object(self, kind: u16) -> Meaning {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        match RouteNetlinkMessage::deserialize(&header, self.payload) {
            Ok(message) => Meaning::Object(Box::new(message)),
            Err(_) => Meaning::Other,
        }
    }

    fn code(self) -> i32 {
        self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    }

    fn text(self, tlvs_at: usize) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let (_, value) = attributes(self.payload.get(tlvs_at..)?).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// Splits a received datagram into its messages; a malformed rest is dropped.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let frame = Frame {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            seq: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(frame)
    })
}

/// What a datagram of the kernel says, for those who have one without a socket: its objects, and its refusals with the
/// kernel's sentence. A malformed rest is dropped.
pub fn read_datagram(bytes: &[u8]) -> (Vec<RouteNetlinkMessage>, Vec<KernelError>) {
    let (mut objects, mut refusals) = (Vec::new(), Vec::new());
    for frame in frames(bytes) {
        match frame.meaning() {
            Meaning::Object(object) => objects.push(*object),
            Meaning::Refused(errno, text) | Meaning::Done(Err((errno, text))) => {
                refusals.push(KernelError { what: format!("request {}", frame.seq), errno, text });
            }
            Meaning::Ack | Meaning::Done(Ok(())) | Meaning::Other => {}
        }
    }
    (objects, refusals)
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RTM_NEWROUTE refused by Linux 6.18 with NETLINK_EXT_ACK and NETLINK_CAP_ACK, as received.
    fn refused() -> Vec<u8> {
        let text = b"Nexthop has invalid gateway\0";
        let tlv = 4 + text.len();
        let length = HEADER + 4 + HEADER + tlv;
        let mut bytes = Vec::new();
        bytes.extend((length as u32).to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend((0x100 | NLM_F_ACK_TLVS).to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend((-libc::ENETUNREACH).to_ne_bytes());
        bytes.extend([0; HEADER]);
        bytes.extend((tlv as u16).to_ne_bytes());
        bytes.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend(text);
        bytes
    }

    #[test]
    fn the_kernels_sentence_is_found() {
        let bytes = refused();
        let frame = frames(&bytes).next().unwrap();
        assert_eq!(frame.seq, 7);
        match frame.meaning() {
            Meaning::Refused(errno, Some(text)) => {
                assert_eq!((errno.0, text.as_str()), (libc::ENETUNREACH, "Nexthop has invalid gateway"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_code_that_has_no_opposite_is_read() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let mut bytes = refused();
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[HEADER..HEADER + 4].copy_from_slice(&i32::MIN.to_ne_bytes());
            let (objects, refusals) = read_datagram(&bytes);
            assert_eq!((objects.len(), refusals.len(), refusals[0].errno), (0, 1, Errno(i32::MIN)));
        }
    }

    #[test]
    fn cut_input_is_not_trusted() {
        let bytes = refused();
        for end in 0..bytes.len() {
            for frame in frames(&bytes[..end]) {
                let _ = format!("{:?}", frame.meaning());
            }
            assert_eq!(frames(&bytes[..end]).count(), 0, "{end}");
        }
    }
}
