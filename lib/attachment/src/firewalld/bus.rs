//! A connection to the system bus of D-Bus, for a few calls within a limited time.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::message::{CALL, ERROR, HEAD, Message, RETURN, Value};

/// The socket of the system bus (D-Bus Specification, "System message bus").
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// How long all calls of a connection may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no system bus.
    #[error("D-Bus: {SOCKET}: {0}")]
    Absent(io::Error),
    /// The bus or the service did not answer in time.
    #[error("D-Bus: {0} did not answer within 5 s")]
    Silent(&'static str),
    /// Reading or writing failed.
    #[error("D-Bus: {0}")]
    Io(io::Error),
    /// The answer is none of D-Bus.
    #[error("D-Bus: malformed answer")]
    Malformed,
    /// The service, or the bus on its behalf, answered with an error.
    #[error("{text} ({name})")]
    Refused {
        /// The error's name.
        name: String,
        /// Its description.
        text: String,
    },
}

/// Whose method is called.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The service.
    pub service: &'static str,
    /// The object.
    pub path: &'static str,
    /// The interface of the method.
    pub interface: &'static str,
}

/// The bus itself.
pub const BUS: Target =
    Target { service: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// A connection.
pub struct Bus {
    stream: UnixStream,
    until: Instant,
    serial: u32,
}

impl Bus {
    /// Connects and registers.
    pub fn system() -> Result<Self, BusError> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(|errno| BusError::Io(errno.into()))?;
        // a listener whose queue is full would block
        let limited = set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE));
        let address = SocketAddrUnix::new(SOCKET).map_err(|errno| BusError::Io(errno.into()))?;
        limited.and_then(|()| connect(&socket, &address)).map_err(|errno| BusError::Absent(errno.into()))?;
        let mut bus = Self { stream: socket.into(), until: Instant::now() + PATIENCE, serial: 0 };
        bus.authenticate()?;
        bus.call(BUS, "Hello", &[])?;
        Ok(bus)
    }

    /// Says who this process is: the kernel tells the bus its user (D-Bus Specification, "EXTERNAL").
    fn authenticate(&mut self) -> Result<(), BusError> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte, BUS.service)?;
            line.extend(byte);
            if line.len() > 512 {
                return Err(BusError::Malformed);
            }
        }
        if !line.starts_with(b"OK ") {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(BusError::Refused { name: "AUTH".into(), text });
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method with texts as arguments, and returns the values of its answer.
    ///
    /// # Errors
    /// The bus or the service does not answer, or answers with an error.
    pub fn call(&mut self, target: Target, member: &str, arguments: &[&str]) -> Result<Vec<Value>, BusError> {
        self.serial += 1;
        let call = Message {
            kind: CALL,
            serial: self.serial,
            path: target.path.into(),
            interface: target.interface.into(),
            member: member.into(),
            destination: target.service.into(),
            body: arguments.iter().map(|text| Value::Text((*text).to_owned())).collect(),
            ..Message::default()
        };
        self.send(&call.encode())?;
        loop {
            let answer = self.message(target.service)?;
            match answer.kind {
                RETURN if answer.reply_to == self.serial => return Ok(answer.body),
                ERROR if answer.reply_to == self.serial => {
                    return Err(BusError::Refused { text: answer.text().to_owned(), name: answer.error });
                }
                // a signal
                _ => {}
            }
        }
    }

    fn message(&mut self, from: &'static str) -> Result<Message, BusError> {
        let mut head = [0; HEAD];
        self.receive(&mut head, from)?;
        let mut bytes = head.to_vec();
        bytes.resize(HEAD + Message::rest(&head).ok_or(BusError::Malformed)?, 0);
        self.receive(&mut bytes[HEAD..], from)?;
        Message::decode(&bytes).ok_or(BusError::Malformed)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.stream.write_all(bytes).map_err(|cause| failed(cause, BUS.service))
    }

    fn receive(&mut self, bytes: &mut [u8], from: &'static str) -> Result<(), BusError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BusError::Silent(from));
        }
        self.stream.set_read_timeout(Some(left)).map_err(BusError::Io)?;
        self.stream.read_exact(bytes).map_err(|cause| failed(cause, from))
    }
}

fn failed(cause: io::Error, from: &'static str) -> BusError {
    match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => BusError::Silent(from),
        _ => BusError::Io(cause),
    }
}
