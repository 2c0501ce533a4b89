//! The one socket option that no crate knows.
#![allow(unsafe_code, reason = "IP_LOCAL_PORT_RANGE has no safe interface")]

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// From linux/in.h, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// From which ports the kernel chooses for this socket: within the sysctl's range.
pub(super) fn set_port_range(socket: &impl AsFd, low: u16, high: u16) -> Result<(), Errno> {
    let range = u32::from(high) << 16 | u32::from(low);
    let length = size_of_val(&range) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, hence open; `range` outlives the call, which reads `length`
    // bytes of it and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}
