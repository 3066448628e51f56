//! What the iterator over files writes: one [`Holder`] for each descriptor of a TCP socket.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set in [`Holder::flags`]: the socket has `SO_KEEPALIVE`.
pub const HOLDER_KEEPALIVE: u32 = 1;

/// A process that has a TCP socket open.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Holder {
    /// Cookie of the socket; 0: nobody has asked for it yet
    pub cookie: u64,
    /// When the process started, `CLOCK_MONOTONIC`
    pub start_ns: u64,
    /// Thread group in the initial PID namespace
    pub tgid: u32,
    /// Real user id in the initial user namespace
    pub uid: u32,
    /// The descriptor
    pub fd: u32,
    /// `HOLDER_*`
    pub flags: u32,
    /// Network namespace inode of the socket
    pub netns: u32,
    /// Zero
    pub reserved: u32,
    /// Name of the thread-group leader, NUL-padded
    pub comm: [u8; 16],
}
