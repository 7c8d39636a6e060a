//! A listener does not hear what its own program writes.
//!
//! A peer is two or three objects, and each of them that is written is announced to every listener. Whoever wrote it knows the
//! outcome, and reading the announcements costs more than writing did. The kernel marks those of routes and neighbours with
//! the port of the socket that asked for the change (`nlmsg_pid`), so a filter of the listening socket drops them before the
//! program is woken.

#![expect(unsafe_code, reason = "a socket filter is set by setsockopt")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH and RTM_DELNEIGH (linux/rtnetlink.h). Links are heard all the same: their names are
/// learned from them.
const PASSED_OVER: [u16; 4] = [24, 25, 28, 29];

/// Offsets in `struct nlmsghdr` (linux/netlink.h).
const NLMSG_TYPE: u32 = 4;
const NLMSG_PID: u32 = 12;

/// Has `socket` no more receive announcements of routes and neighbours that the socket with this port has written.
///
/// # Errors
/// The kernel refuses the filter.
pub fn pass_over(socket: &impl AsFd, port: u32) -> io::Result<()> {
    let mut program = filter(port);
    let length = u16::try_from(program.len()).unwrap_or_default();
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&filter)).unwrap_or_default();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `size` bytes of `filter` and the instructions that it points to, which live until the call
    // returns, and keeps a copy.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF: what is loaded is taken for big-endian, and a header is in the machine's own order.
fn filter(port: u32) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_ABS;
    const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let instruction = |code: u32, k: u32, jt: usize, jf: usize| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let count = PASSED_OVER.len();
    let mut program = vec![instruction(LOAD | libc::BPF_H, NLMSG_TYPE, 0, 0)];
    for (index, kind) in PASSED_OVER.into_iter().enumerate() {
        // to the load of the port; after the last kind to the end, where all is accepted
        let others = if index + 1 == count { 3 } else { 0 };
        program.push(instruction(IS, kind.to_be().into(), count - 1 - index, others));
    }
    program.push(instruction(LOAD | libc::BPF_W, NLMSG_PID, 0, 0));
    program.push(instruction(IS, port.to_be(), 0, 1));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of a datagram the program lets through.
    fn run(program: &[libc::sock_filter], datagram: &[u8]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            let start = k as usize;
            at += 1;
            match u32::from(code) {
                code if code == libc::BPF_LD | libc::BPF_ABS | libc::BPF_H => {
                    value = u16::from_be_bytes(datagram[start..start + 2].try_into().unwrap()).into();
                }
                code if code == libc::BPF_LD | libc::BPF_ABS | libc::BPF_W => {
                    value = u32::from_be_bytes(datagram[start..start + 4].try_into().unwrap());
                }
                code if code == libc::BPF_RET | libc::BPF_K => return k,
                _ => at += usize::from(if value == k { jt } else { jf }),
            }
        }
    }

    #[test]
    fn only_ones_own_routes_and_neighbours_are_dropped() {
        let header = |kind: u16, port: u32| {
            [&32_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 6], &port.to_ne_bytes(), &[0; 16]].concat()
        };
        let program = filter(0x0102_0304);
        for kind in 16..40 {
            for (port, own) in [(0x0102_0304, true), (0x0403_0201, false), (0, false)] {
                let dropped = run(&program, &header(kind, port)) == 0;
                assert_eq!(dropped, own && PASSED_OVER.contains(&kind), "{kind} of {port:x}");
            }
        }
    }
}
