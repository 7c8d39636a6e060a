//! Messages of D-Bus as bytes (D-Bus Specification 0.43, "Message Protocol"). Bodies are strings, lists of them and booleans,
//! which is all that firewalld's calls need. Pure.

/// METHOD_CALL
pub const CALL: u8 = 1;
/// METHOD_RETURN
pub const RETURN: u8 = 2;
/// ERROR
pub const ERROR: u8 = 3;
/// NO_AUTO_START: the call does not start the service.
const NO_AUTO_START: u8 = 2;
/// The bytes of a header before its fields: up to the length of their array.
pub const HEAD: usize = 16;
/// The longest message that is read, in bytes. Answers of firewalld are far shorter.
const LONGEST: usize = 1 << 20;

// codes of header fields
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A value of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `b`
    Flag(bool),
}

/// A message. Fields that it does not have are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// [`CALL`], [`RETURN`], [`ERROR`], or a signal.
    pub kind: u8,
    /// The number of the message, which the sender chose.
    pub serial: u32,
    /// The number of the message that it answers; 0 if it is no answer.
    pub reply_to: u32,
    /// The object.
    pub path: String,
    /// The interface of the member.
    pub interface: String,
    /// The method or signal.
    pub member: String,
    /// The name of an error.
    pub error: String,
    /// The receiver.
    pub destination: String,
    /// The values up to the first of another type.
    pub body: Vec<Value>,
}

/// The bytes of messages, little endian.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn texts(&mut self, texts: &[String]) {
        self.u32(0);
        let start = self.0.len();
        texts.iter().for_each(|text| self.text(text));
        let length = (self.0.len() - start) as u32;
        self.0[start - 4..start].copy_from_slice(&length.to_le_bytes());
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, kind: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        value(self);
    }
}

impl Message {
    /// The message as bytes. A service is not started for it.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        let mut types = String::new();
        for value in &self.body {
            match value {
                Value::Text(text) => {
                    types.push('s');
                    body.text(text);
                }
                Value::Texts(texts) => {
                    types.push_str("as");
                    body.texts(texts);
                }
                Value::Flag(flag) => {
                    types.push('b');
                    body.u32((*flag).into());
                }
            }
        }
        let mut w = Writer(vec![b'l', self.kind, NO_AUTO_START, 1]);
        w.u32(body.0.len() as u32);
        w.u32(self.serial);
        w.u32(0);
        let texts = [
            (PATH, "o", &self.path),
            (INTERFACE, "s", &self.interface),
            (MEMBER, "s", &self.member),
            (ERROR_NAME, "s", &self.error),
            (DESTINATION, "s", &self.destination),
        ];
        for (code, kind, text) in texts.into_iter().filter(|(.., text)| !text.is_empty()) {
            w.field(code, kind, |w| w.text(text));
        }
        if self.reply_to != 0 {
            w.field(REPLY_SERIAL, "u", |w| w.u32(self.reply_to));
        }
        if !types.is_empty() {
            w.field(SIGNATURE, "g", |w| w.signature(&types));
        }
        let fields = (w.0.len() - HEAD) as u32;
        w.0[HEAD - 4..HEAD].copy_from_slice(&fields.to_le_bytes());
        w.align(8);
        w.0.extend(body.0);
        w.0
    }

    /// How many bytes follow the first [`HEAD`] of a message. `None`: this is no message, or it is too long.
    pub fn rest(head: &[u8; HEAD]) -> Option<usize> {
        let mut r = Reader { bytes: head, at: 4, big: is_big(head[0])? };
        let (body, _, fields) = (r.u32()? as usize, r.u32()?, r.u32()? as usize);
        let rest = fields.checked_next_multiple_of(8)?.checked_add(body)?;
        (rest <= LONGEST).then_some(rest)
    }

    /// Reads a whole message. `None`: it is malformed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader { bytes, at: 4, big: is_big(*bytes.first()?)? };
        let mut message = Self { kind: *bytes.get(1)?, ..Self::default() };
        let body = r.u32()? as usize;
        message.serial = r.u32()?;
        let end = (r.u32()? as usize).checked_add(HEAD)?;
        let mut types = String::new();
        while r.at < end {
            r.align(8)?;
            let code = r.byte()?;
            match (code, r.signature()?.as_str()) {
                (SIGNATURE, _) => types = r.signature()?,
                (REPLY_SERIAL, _) => message.reply_to = r.u32()?,
                (_, "u") => drop(r.u32()?),
                (_, "g") => drop(r.signature()?),
                (code, "s" | "o") => message.set(code, r.text()?),
                _ => return None,
            }
        }
        r.align(8)?;
        if bytes.len() != r.at.checked_add(body)? {
            return None;
        }
        let mut types = types.as_str();
        while let Some((value, rest)) = r.value(types)? {
            message.body.push(value);
            types = rest;
        }
        Some(message)
    }

    fn set(&mut self, code: u8, text: String) {
        match code {
            PATH => self.path = text,
            INTERFACE => self.interface = text,
            MEMBER => self.member = text,
            ERROR_NAME => self.error = text,
            DESTINATION => self.destination = text,
            _ => {}
        }
    }

    /// The first text of the body, which is an error's description.
    pub fn text(&self) -> &str {
        match self.body.first() {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }
}

fn is_big(mark: u8) -> Option<bool> {
    match mark {
        b'l' => Some(false),
        b'B' => Some(true),
        _ => None,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether numbers are big endian.
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (start, end) = (self.at, self.at.checked_add(len)?);
        self.at = end;
        self.bytes.get(start..end)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// The first value of these types, and the types of the others. `Some(None)`: none is left, or the next is of another type.
    fn value<'t>(&mut self, types: &'t str) -> Option<Option<(Value, &'t str)>> {
        Some(Some(if let Some(rest) = types.strip_prefix('s') {
            (Value::Text(self.text()?), rest)
        } else if let Some(rest) = types.strip_prefix('b') {
            (Value::Flag(self.u32()? != 0), rest)
        } else if let Some(rest) = types.strip_prefix("as") {
            (Value::Texts(self.texts()?), rest)
        } else {
            return Some(None);
        }))
    }

    fn texts(&mut self) -> Option<Vec<String>> {
        let len = self.u32()? as usize;
        let end = self.at.checked_add(len)?;
        let mut all = Vec::new();
        while self.at < end {
            all.push(self.text()?);
        }
        (self.at == end).then_some(all)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let big = self.big;
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        self.terminated(len)
    }

    fn signature(&mut self) -> Option<String> {
        let len = self.byte()?;
        self.terminated(len.into())
    }

    /// A text that a zero byte follows.
    fn terminated(&mut self, len: usize) -> Option<String> {
        let text = String::from_utf8(self.take(len)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Message {
        Message {
            kind: CALL,
            serial: 2,
            path: "/org/fedoraproject/FirewallD1".into(),
            interface: "org.fedoraproject.FirewallD1.zone".into(),
            member: "addSource".into(),
            destination: "org.fedoraproject.FirewallD1".into(),
            body: vec![
                Value::Text("trusted".into()),
                Value::Texts(vec!["10.1.2.3/32".into(), String::new()]),
                Value::Texts(Vec::new()),
                Value::Flag(true),
            ],
            ..Message::default()
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = call().encode();
        assert_eq!(Message::decode(&bytes), Some(call()));
        let head = bytes.first_chunk().unwrap();
        assert_eq!(Message::rest(head), Some(bytes.len() - HEAD));
    }

    /// `dbus-send --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.Hello`, as sent by libdbus.
    #[test]
    fn the_first_call_is_libdbus() {
        let hello = Message {
            kind: CALL,
            serial: 1,
            path: "/org/freedesktop/DBus".into(),
            interface: "org.freedesktop.DBus".into(),
            member: "Hello".into(),
            destination: "org.freedesktop.DBus".into(),
            ..Message::default()
        };
        let bytes = hello.encode();
        // "l", METHOD_CALL, flags, version 1, no body, serial 1, the fields' length
        assert_eq!(bytes[..HEAD], [b'l', 1, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 109, 0, 0, 0]);
        assert_eq!(bytes[HEAD..HEAD + 8], [1, 1, b'o', 0, 21, 0, 0, 0]);
        assert_eq!(bytes.len(), HEAD + 112);
    }

    #[test]
    fn a_damaged_message_is_refused() {
        let bytes = call().encode();
        for end in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..end]), None, "{end} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = Message::decode(&damaged);
        }
        let mut long: [u8; HEAD] = *bytes.first_chunk().unwrap();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::rest(&long), None);
    }
}
