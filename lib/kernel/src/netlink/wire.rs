//! Netlink messages and attributes, written and read (`struct nlmsghdr`, `struct nlattr`: linux/netlink.h; `struct
//! nfgenmsg`: linux/netfilter/nfnetlink.h).

/// Bytes of a message header (`struct nlmsghdr`).
pub(crate) const HEADER: usize = 16;
/// Bytes of `struct nfgenmsg`, which follows it: family, version, resource (big endian).
const GENERIC: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// Selects an attribute's type without the NLA_F_* flags.
const KIND: u16 = !(0b11 << 14);

/// The place of a message's sequence number.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// Writes the attributes of one message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Whether the bytes must not be sent: an attribute is longer than its 16-bit length can express, or a text
    /// contains a zero, where the kernel would end it.
    unfit: bool,
}

impl Writer {
    /// Appends an attribute, padded to four bytes.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// Appends a number in network order, as nearly all of nf_tables' are.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a 64-bit number in network order.
    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a text with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.unfit |= value.contains('\0');
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// Appends an attribute that contains what `body` writes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        body(self);
        self.close(start);
    }

    /// Appends encoded attributes.
    pub(crate) fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }

    /// The attributes; `None` if one did not fit.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.unfit).then_some(self.bytes)
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.unfit = true,
        }
        self.bytes.resize(start + align(self.bytes.len() - start), 0);
    }
}

/// A whole message with sequence number 0; `None` if an attribute did not fit. `kind` includes the subsystem;
/// `resource` is `nfgenmsg.res_id`.
pub(crate) fn message(
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    body: impl FnOnce(&mut Writer),
) -> Option<Vec<u8>> {
    let [high, low] = resource.to_be_bytes();
    framed(kind, flags, [family, 0, high, low], body)
}

/// As [`message`], with any four bytes after the header, as generic netlink also has (`struct genlmsghdr`).
pub(crate) fn framed(kind: u16, flags: u16, behind: [u8; GENERIC], body: impl FnOnce(&mut Writer)) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    writer.bytes.extend_from_slice(&[0; 4]);
    writer.bytes.extend_from_slice(&kind.to_ne_bytes());
    writer.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    writer.bytes.extend_from_slice(&[0; 8]);
    writer.bytes.extend_from_slice(&behind);
    body(&mut writer);
    let mut bytes = writer.finish()?;
    let len = u32::try_from(bytes.len()).ok()?;
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    Some(bytes)
}

/// Sets the sequence number, and adds flags, in a message made by [`message`].
pub(crate) fn stamp(message: &mut [u8], sequence: u32, more_flags: u16) {
    message[SEQUENCE].copy_from_slice(&sequence.to_ne_bytes());
    let flags = u16::from_ne_bytes([message[6], message[7]]) | more_flags;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The bytes after the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The messages of one datagram, up to the first incomplete one.
    pub(crate) fn all(datagram: &'a [u8]) -> impl Iterator<Item = Self> {
        let mut rest = datagram;
        std::iter::from_fn(move || {
            let header = rest.get(..HEADER)?;
            let len = word(header, 0)? as usize;
            let body = rest.get(HEADER..len)?;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            let sequence = word(header, 8)?;
            rest = rest.get(align(len)..).unwrap_or_default();
            Some(Self { kind, flags, sequence, body })
        })
    }

    /// The family of nf_tables (`nfgenmsg.nfgen_family`).
    pub(crate) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    /// The attributes after the four bytes of an nf_tables or generic netlink message.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes::read(self.body.get(GENERIC..).unwrap_or_default())
    }

    /// Whether the dump is inconsistent because something changed meanwhile (NLM_F_DUMP_INTR).
    pub(crate) fn is_interrupted(&self) -> bool {
        i32::from(self.flags) & libc::NLM_F_DUMP_INTR != 0
    }

    /// The errno of NLMSG_ERROR or NLMSG_DONE (0: success), with the kernel's message if it gave one.
    pub(crate) fn verdict(&self) -> (i32, Option<String>) {
        let errno = word(self.body, 0).map_or(libc::EPROTO, |n| match n as i32 {
            // the end of a dump may carry a number that is not an error
            1.. if i32::from(self.kind) == libc::NLMSG_DONE => 0,
            code => code.wrapping_neg(),
        });
        let tlvs = if self.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
            None
        } else if i32::from(self.kind) == libc::NLMSG_DONE {
            self.body.get(4..)
        } else if self.flags & libc::NLM_F_CAPPED as u16 != 0 {
            self.body.get(4 + HEADER..)
        } else {
            // without NETLINK_CAP_ACK the whole request is in between
            word(self.body, 4).and_then(|len| self.body.get(4 + align(len as usize)..))
        };
        const NLMSGERR_ATTR_MSG: u16 = 1;
        (errno, tlvs.and_then(|tlvs| Attributes::read(tlvs).text(NLMSGERR_ATTR_MSG)))
    }
}

/// The attributes of one level. They are looked up in place, so that reading many rules allocates nothing for them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Each type with its value, up to the first incomplete attribute.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let [l0, l1, k0, k1] = *rest.first_chunk::<4>()?;
            let len = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = rest.get(4..len)?;
            rest = rest.get(align(len)..).unwrap_or_default();
            Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
        })
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes::read)
    }

    pub(crate) fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// Whether the attribute is this text.
    pub(crate) fn is_text(&self, kind: u16, wanted: &str) -> bool {
        self.get(kind).and_then(|value| value.strip_suffix(&[0])) == Some(wanted.as_bytes())
    }
}

/// A zero-terminated text. Bytes that are not UTF-8 are replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Rounds up to a multiple of four (NLMSG_ALIGN, NLA_ALIGN).
pub(crate) fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}
