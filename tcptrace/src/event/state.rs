//! The kernel's TCP states by name.

use tcptrace_common::tcp;

/// A TCP state by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State(pub u8);

impl State {
    /// The kernel's name, without `TCP_`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            tcp::ESTABLISHED => "ESTABLISHED",
            tcp::SYN_SENT => "SYN_SENT",
            tcp::SYN_RECV | tcp::NEW_SYN_RECV => "SYN_RECV",
            tcp::FIN_WAIT1 => "FIN_WAIT1",
            tcp::FIN_WAIT2 => "FIN_WAIT2",
            tcp::TIME_WAIT => "TIME_WAIT",
            tcp::CLOSE => "CLOSE",
            tcp::CLOSE_WAIT => "CLOSE_WAIT",
            tcp::LAST_ACK => "LAST_ACK",
            tcp::LISTEN => "LISTEN",
            tcp::CLOSING => "CLOSING",
            _ => "UNKNOWN",
        }
    }
}
