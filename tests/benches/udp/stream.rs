//! One TCP stream between two namespaces, as fast as it goes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lab::netns::Room;
use lab::{Doing, Error};

/// What is written and read in one call.
const CHUNK: usize = 128 << 10;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one stream has carried.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    /// Bytes that arrived, per second, times 8.
    pub bits_per_second: f64,
    /// Segments that the sender's namespace sent again.
    pub again: u64,
}

/// Sends from one namespace to `to` in the other for `length`.
pub fn carry(from: &Room, at: &Room, to: Ipv4Addr, length: Duration) -> Result<Carried, Error> {
    let listener = at.enter(|| TcpListener::bind((to, 0)))?.doing(format_args!("listen on {to}"))?;
    let address = listener.local_addr().doing("look at the listener")?;
    let sender = from.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    let sender = sender.doing(format_args!("connect to {address}"))?;
    let (receiver, _) = listener.accept().doing("accept")?;
    let before = retransmitted(from)?;
    let arrived = std::thread::scope(|scope| {
        let reader = scope.spawn(move || drain(receiver));
        let sent = fill(sender, length);
        let arrived = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader has panicked")));
        sent.and(arrived)
    });
    let (bytes, took) = arrived.doing(format_args!("carry a stream to {to}"))?;
    let again = retransmitted(from)?.saturating_sub(before);
    Ok(Carried { bits_per_second: bytes as f64 * 8.0 / took.as_secs_f64(), again })
}

fn fill(mut socket: TcpStream, length: Duration) -> io::Result<()> {
    let chunk: Vec<u8> = (0..CHUNK).map(|n| (n * 31) as u8).collect();
    let started = Instant::now();
    while started.elapsed() < length {
        socket.write_all(&chunk)?;
    }
    socket.shutdown(Shutdown::Write)
}

/// All bytes, and the time from the first to the last.
fn drain(mut socket: TcpStream) -> io::Result<(u64, Duration)> {
    let mut buffer = vec![0; CHUNK];
    let (mut bytes, started) = (0, Instant::now());
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok((bytes, started.elapsed())),
            length => bytes += length as u64,
        }
    }
}

/// Tcp: RetransSegs of the namespace (proc_pid_net(5), /proc/net/snmp).
fn retransmitted(room: &Room) -> Result<u64, Error> {
    let text = room.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?.doing("read /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let at = names.split_whitespace().position(|name| name == "RetransSegs");
    let value = at.and_then(|at| values.split_whitespace().nth(at)?.parse().ok());
    value.ok_or_else(|| Error::Wrong(format!("no RetransSegs in {text:?}")))
}
