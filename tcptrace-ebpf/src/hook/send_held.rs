//! Run by the agent for sockets of which steps have been held for a turn; see `held`.

use tcptrace_common::config::HELD_PER_RUN;

use crate::held;

answering! {
    /// The arguments: send what is held since then or before (`CLOCK_MONOTONIC`, ns), and the addresses
    /// of the sockets, of which the first 0 ends them. Returns a bit for each of which something stays
    /// and no hint tells.
    fn send_held(arguments) -> u32 {
        let &[latest_ns, a, b, c, d, ..] = arguments;
        let keys: [u64; HELD_PER_RUN] = [a, b, c, d];
        let mut left = 0;
        for (at, key) in keys.into_iter().enumerate() {
            if key == 0 {
                break;
            }
            left |= u32::from(held::send(key, latest_ns)) << at;
        }
        left
    }
}
