//! The two socket options that no crate knows.
#![allow(unsafe_code, reason = "IP_LOCAL_PORT_RANGE and TCP_SYNCNT have no safe interface")]

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// From linux/in.h, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// From which ports the kernel chooses for this socket: within the sysctl's range.
pub(super) fn set_port_range(socket: &impl AsFd, low: u16, high: u16) -> Result<(), Errno> {
    set(socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, u32::from(high) << 16 | u32::from(low))
}

/// How long this socket's SYN is repeated, as a number of times.
pub(super) fn set_syn_count(socket: &impl AsFd, count: u8) -> Result<(), Errno> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, count.into())
}

fn set(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: u32) -> Result<(), Errno> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, hence open; `value` outlives the call, which reads `length`
    // bytes of it and writes nothing.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    Errno::result(result).map(drop)
}
