//! A system bus with a firewalld that answers, is silent, or refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use attachment::firewalld::message::{ERROR, HEAD, Message, RETURN, Value};

/// The socket of the system bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// How firewalld behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It does what is asked.
    Answers,
    /// It does not answer calls.
    Silent,
    /// It answers with an error.
    Refuses,
    /// The bus runs, and firewalld does not.
    Absent,
}

/// The bus. Its thread ends with the test's process.
#[derive(Debug, Clone)]
pub struct Bus {
    manner: Arc<Mutex<Manner>>,
    sources: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Bus {
    /// Serves in the sandbox's private `/run`.
    pub fn start(manner: Manner) -> Self {
        std::fs::create_dir_all("/run/dbus").unwrap();
        let listener = UnixListener::bind(SOCKET).unwrap();
        let bus = Self { manner: Arc::new(Mutex::new(manner)), sources: Arc::default() };
        let serving = bus.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let bus = serving.clone();
                thread::spawn(move || bus.serve(stream.unwrap()));
            }
        });
        bus
    }

    /// firewalld behaves otherwise from now on.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// The zone and the source of each source.
    pub fn sources(&self) -> Vec<String> {
        self.sources.lock().unwrap().iter().map(|(zone, source)| format!("{zone} {source}")).collect()
    }

    /// firewalld has no sources, as after a reload.
    pub fn forget(&self) {
        self.sources.lock().unwrap().clear();
    }

    /// Until the client closes the connection.
    fn serve(&self, mut stream: UnixStream) {
        let mut lines = Vec::new();
        while !lines.ends_with(b"BEGIN\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            lines.extend(byte);
            if lines.ends_with(b"\r\n") && !lines.ends_with(b"BEGIN\r\n") {
                let agrees = lines.starts_with(b"\0AUTH EXTERNAL") || lines.starts_with(b"AUTH EXTERNAL");
                let answer = if agrees { "OK 0123456789abcdef0123456789abcdef" } else { "REJECTED EXTERNAL" };
                // no descriptors are passed
                let answer = if lines.starts_with(b"NEGOTIATE_UNIX_FD") { "ERROR" } else { answer };
                stream.write_all(format!("{answer}\r\n").as_bytes()).unwrap();
                lines.clear();
            }
        }
        while let Some(call) = read(&mut stream) {
            if let Some(answer) = self.answer(&call)
                && stream.write_all(&answer.encode()).is_err()
            {
                return;
            }
        }
    }

    fn answer(&self, call: &Message) -> Option<Message> {
        let manner = *self.manner.lock().unwrap();
        let reply =
            |body: Vec<Value>| Message { kind: RETURN, serial: 9, reply_to: call.serial, body, ..Message::default() };
        let error = |name: &str, text: &str| Message {
            kind: ERROR,
            error: name.into(),
            ..reply(vec![Value::Text(text.into())])
        };
        const EXCEPTION: &str = "org.fedoraproject.FirewallD1.Exception";
        if call.destination == "org.freedesktop.DBus" {
            return Some(match &*call.member {
                "Hello" => reply(vec![Value::Text(":1.7".into())]),
                "GetNameOwner" if manner == Manner::Absent => {
                    error("org.freedesktop.DBus.Error.NameHasNoOwner", "no such name")
                }
                "GetNameOwner" => reply(vec![Value::Text(":1.3".into())]),
                "NameHasOwner" => reply(vec![Value::Flag(manner != Manner::Absent)]),
                other => panic!("the bus has no {other}"),
            });
        }
        match manner {
            Manner::Silent => return None,
            Manner::Refuses => return Some(error(EXCEPTION, "INVALID_ZONE_NAME: no such zone")),
            Manner::Absent => return Some(error("org.freedesktop.DBus.Error.ServiceUnknown", "not provided")),
            Manner::Answers => {}
        }
        if let ("getSources", [Value::Text(zone)]) = (&*call.member, &call.body[..]) {
            let sources = self.sources.lock().unwrap();
            let of_zone = sources.iter().filter(|(of, _)| of == zone).map(|(_, source)| source.clone());
            return Some(reply(vec![Value::Texts(of_zone.collect())]));
        }
        let [Value::Text(zone), Value::Text(source)] = &call.body[..] else { panic!("{call:?}") };
        let key = (zone.clone(), source.clone());
        let mut sources = self.sources.lock().unwrap();
        Some(match &*call.member {
            "addSource" if !sources.insert(key.clone()) => error(EXCEPTION, &format!("ZONE_ALREADY_SET: {source}")),
            "removeSource" if !sources.remove(&key) => error(EXCEPTION, &format!("UNKNOWN_SOURCE: {source}")),
            "addSource" | "removeSource" => reply(vec![Value::Text(zone.clone())]),
            "querySource" => reply(vec![Value::Flag(sources.contains(&key))]),
            other => panic!("firewalld has no {other}"),
        })
    }
}

fn read(stream: &mut UnixStream) -> Option<Message> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).ok()?;
    let mut bytes = head.to_vec();
    bytes.resize(HEAD + Message::rest(&head)?, 0);
    stream.read_exact(&mut bytes[HEAD..]).ok()?;
    Message::decode(&bytes)
}
